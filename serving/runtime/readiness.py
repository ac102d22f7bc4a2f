"""Is a started Triton fit to serve? Each model answers one made-up inference, or says why not."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from conch.errors import ConchError, TritonUnavailable
from serving.client import TritonClient
from serving.probe import probe
from serving.runtime.endpoint import Endpoint

_POLL_S = 0.05
_UNLOADED = "unloaded"
_SILENT = "Triton did not load it and gives no reason; its log does"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReadiness:
    """One model of the repository after the start.

    Attributes:
        probe_s: seconds of its first inference; None when it is not ready.
        reason: why it is not ready; empty when it is.
        left_out: whether it was not even tried, because this server cannot serve it.
    """

    name: str
    probe_s: float | None
    reason: str = ""
    left_out: bool = False

    @property
    def ready(self) -> bool:
        """Whether the model answered."""
        return self.probe_s is not None


def wait_live(endpoint: Endpoint, alive: Callable[[], bool], timeout_s: float) -> None:
    """Return when the server answers; it does so only after the models' first load.

    Args:
        alive: whether the process still runs.

    Raises:
        TritonUnavailable: when it ended, or did not answer in time.
    """
    until_s = time.monotonic() + timeout_s
    with TritonClient(endpoint.grpc_url, deadline_s=1.0) as client:
        while not client.live():
            if not alive():
                raise TritonUnavailable("Triton: ended while it started.")
            if time.monotonic() > until_s:
                raise TritonUnavailable(f"Triton: not live after {timeout_s:.0f} s.")
            time.sleep(_POLL_S)


def check(
    endpoint: Endpoint, wanted: Collection[str] = (), *, deadline_s: float = 60.0
) -> tuple[ModelReadiness, ...]:
    """Every model that was loaded, or failed to, with the time of its first inference.

    Args:
        endpoint: the server.
        wanted: models that it was to load. Triton gives no reason for an ensemble that does not
            fit its members: in the index it is "unloaded", or has no state at all.
        deadline_s: for each inference.
    """
    with TritonClient(endpoint.grpc_url, admin_key=endpoint.admin_key) as client:
        states, reasons = client.index(), client.unavailable()
        found = []
        for name in sorted({*states, *wanted}):
            reason = reasons.get(name, _UNLOADED)
            if states.get(name) == "READY":
                found.append(_probe(client, name, deadline_s))
            elif reason != _UNLOADED:
                found.append(ModelReadiness(name=name, probe_s=None, reason=reason))
            elif name in wanted:
                found.append(ModelReadiness(name=name, probe_s=None, reason=_SILENT))
    return tuple(found)


def _probe(client: TritonClient, name: str, deadline_s: float) -> ModelReadiness:
    """One model's answer."""
    try:
        seconds = probe(client, client.config(name), deadline_s=deadline_s)
    except ConchError as error:
        return ModelReadiness(name=name, probe_s=None, reason=error.message)
    return ModelReadiness(name=name, probe_s=seconds)
