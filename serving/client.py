"""gRPC client of one Triton: health, load, statistics, inference; every call has a deadline.

gRPC and not HTTP, because Triton's HTTP handler blocks a worker for the whole of a load.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import tritonclient.grpc as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from conch.errors import ApplyRejected, ConchError, TritonUnavailable
from conch.loopback import grpc_options
from conch.names import model_name
from serving import model_config, statistics
from serving.model_config import ModelConfig
from serving.statistics import ModelStatistics

Tensors = Mapping[str, NDArray[Any]]

ADMIN_HEADER = "x-admin-key"
_UNREACHABLE = ("StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED")
_POLL_S = 0.05


class InferenceFailed(ConchError):
    """Triton answered an inference with an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceStep:
    """A request's place in a sequence.

    Attributes:
        sequence: the correlation id, at least 1; the sequence's own while it lasts.
        start: the first request: the state starts anew.
        end: the last request: the state is dropped.
    """

    sequence: int
    start: bool = False
    end: bool = False

    def arguments(self) -> dict[str, Any]:
        """As the official client takes them."""
        return {
            "sequence_id": self.sequence,
            "sequence_start": self.start,
            "sequence_end": self.end,
        }


class TritonClient:
    """A connection to one server; use it as a context manager."""

    def __init__(
        self, grpc_url: str, *, admin_key: str | None = None, deadline_s: float = 10.0
    ) -> None:
        """Connect lazily.

        Args:
            grpc_url: ``host:port`` of the gRPC endpoint.
            admin_key: the key of the restricted APIs, where the server has one.
            deadline_s: for each call that does not say otherwise, seconds.
        """
        self.grpc_url = grpc_url
        self._deadline_s = deadline_s
        header = f"triton-grpc-protocol-{ADMIN_HEADER}"
        self._headers = {header: admin_key} if admin_key else None
        self._client = triton.InferenceServerClient(
            grpc_url, channel_args=channel_options(grpc_url)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def live(self) -> bool:
        """Whether the server answers at all."""
        try:
            return bool(self._call("is_server_live"))
        except ConchError:
            return False

    def server_version(self) -> str:
        """Triton's version, such as ``2.51.0``."""
        return str(self._call("get_server_metadata").version)

    def load(self, name: str, *, deadline_s: float = 120.0) -> None:
        """Load the model from its repository as it is there; returns when Triton has done it.

        Never sends parameters: an override would be sticky, and a restart would lose it.

        Raises:
            ApplyRejected: with Triton's own message; what was loaded before goes on serving.
            TritonUnavailable: when the server cannot be reached.
        """
        self._call("load_model", model_name(name), deadline_s=deadline_s, refused=ApplyRejected)

    def unload(self, name: str, *, deadline_s: float = 60.0) -> None:
        """Unload the model and wait until the index no longer has it ready.

        Raises:
            ApplyRejected: when Triton refuses, or it takes longer than ``deadline_s``.
        """
        self._call(
            "unload_model",
            model_name(name),
            deadline_s=deadline_s,
            refused=ApplyRejected,
        )
        until = time.monotonic() + deadline_s
        while self.index().get(name) in ("READY", "UNLOADING", "LOADING"):
            if time.monotonic() > until:
                raise ApplyRejected(
                    f"unload of {name}: not done after {deadline_s:.0f} s.",
                    hint="Look into the server's log.",
                )
            time.sleep(_POLL_S)

    def index(self) -> dict[str, str]:
        """State by model name (``READY``, ``UNAVAILABLE``, ...; empty when never loaded).

        READY when any version is; else the state that another version is in on its way.
        """
        rank = {"READY": 3, "LOADING": 2, "UNLOADING": 2, "UNAVAILABLE": 1}
        states: dict[str, str] = {}
        for entry in self._call("get_model_repository_index").models:
            before = states.get(entry.name, "")
            states[entry.name] = max(before, entry.state, key=lambda state: rank.get(state, 0))
        return states

    def ready_versions(self, name: str) -> frozenset[int]:
        """The versions of the model that are served."""
        models = self._call("get_model_repository_index").models
        return frozenset(
            int(m.version)
            for m in models
            if m.name == name and m.state == "READY" and m.version.isdecimal()
        )

    def unavailable(self) -> dict[str, str]:
        """Why it is not served, by the name of each model that failed to load."""
        models = self._call("get_model_repository_index").models
        return {m.name: m.reason for m in models if m.state == "UNAVAILABLE" and m.reason}

    def model_ready(self, name: str) -> bool:
        """Triton's own word on it. A dead Python stub still says ready: see ``serving.probe``."""
        return bool(self._call("is_model_ready", model_name(name)))

    def config(self, name: str, *, versions: Sequence[int] | None = None) -> ModelConfig:
        """The config in force; where several versions could be served, it names those that are.

        Triton shows the config that the highest version was loaded with, also after an update in
        place has dropped others, or has added them.

        Args:
            name: the model.
            versions: that are served, where the caller knows them (``ModelStatistics.versions``).
        """
        answer = self._call("get_model_config", model_name(name)).config
        # The answer has Triton's message class of another module; the bytes are the same schema.
        shown = ModelConfig.FromString(answer.SerializeToString())
        if versions is None:
            versions = self.statistics(name).versions
        if versions and (len(versions) > 1 or model_config.may_serve_several(shown)):
            shown = model_config.with_versions(shown, versions)
        return shown

    def statistics(self, name: str) -> ModelStatistics:
        """What the model did since it was loaded."""
        answer = self._call("get_inference_statistics", model_name(name))
        return statistics.from_response(answer.model_stats)

    def infer(
        self,
        name: str,
        inputs: Tensors,
        *,
        version: int | None = None,
        step: SequenceStep | None = None,
        deadline_s: float | None = None,
    ) -> dict[str, NDArray[Any]]:
        """One inference; strings go in and come out as object arrays of bytes.

        Args:
            name: the model.
            inputs: input name → array.
            version: which version answers; None for the highest that is served.
            step: the request's place in its sequence, for a stateful model.
            deadline_s: seconds for the whole call.

        Raises:
            InferenceFailed: with Triton's message.
            TritonUnavailable: when the server cannot be reached, or not in time.
        """
        try:
            tensors = [_tensor(key, value) for key, value in inputs.items()]
        except InferenceServerException as error:
            raise InferenceFailed(f"infer of {name}: {error.message()}.") from error
        result = self._call(
            "infer",
            model_name(name),
            tensors,
            model_version="" if version is None else str(version),
            deadline_s=deadline_s,
            refused=InferenceFailed,
            **({} if step is None else step.arguments()),
        )
        return {out.name: result.as_numpy(out.name) for out in result.get_response().outputs}

    def _call(
        self,
        method: str,
        *args: Any,
        deadline_s: float | None = None,
        refused: type[ConchError] = ConchError,
        **arguments: Any,
    ) -> Any:
        """One call of the official client; its errors become ours."""
        timeout_s = self._deadline_s if deadline_s is None else deadline_s
        try:
            return getattr(self._client, method)(
                *args, headers=self._headers, client_timeout=timeout_s, **arguments
            )
        except InferenceServerException as error:
            where = f"{method} at {self.grpc_url}"
            if "protocol is restricted" in str(error.message()):  # its status is UNAVAILABLE too
                raise TritonUnavailable(
                    f"{where}: refused without the right admin key.",
                    hint="Set CONCH_ADMIN_KEY to the key that the server was started with.",
                ) from error
            if error.status() in _UNREACHABLE:
                raise TritonUnavailable(
                    f"{where}: {error.message()}.",
                    hint="Is the server running? `conch serve` starts one, `conch doctor` looks.",
                ) from error
            raise refused(f"{where}: {error.message()}.") from error


def channel_options(grpc_url: str) -> list[tuple[str, Any]] | None:
    """gRPC's options for an address on this machine, which is never looked for behind a proxy.

    gRPC takes ``http_proxy`` and its like from the environment for 127.0.0.1 too. None for any
    other address: the official client's own options then.
    """
    direct = grpc_options(grpc_url)
    if not direct:
        return None
    largest = 2**31 - 1  # as the official client has it where nothing is said
    return [
        ("grpc.max_send_message_length", largest),
        ("grpc.max_receive_message_length", largest),
        *direct,
    ]


def _tensor(name: str, value: NDArray[Any]) -> triton.InferInput:
    """An array as an input of the official client."""
    tensor = triton.InferInput(name, list(value.shape), np_to_triton_dtype(value.dtype))
    tensor.set_data_from_numpy(value)
    return tensor
