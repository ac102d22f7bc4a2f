"""Measures how long full batches take, by a few of our own, where nobody sends any.

Theory of operation. Under a light load only batches of one and two are seen, and these say nothing
of a batch of sixteen. So single requests of as many rows are sent through the real server, one at a
time, with pauses so that they take ``SHARE`` of the device: the largest batch first, then half as
large while one takes more than half the SLO, one row, and the sizes between. What was sent is told
with each look, so that it is taken off the load.
Only inputs that are known to be like real ones are used: those that the policy names, else those of
the config's ``model_warmup``. A model of sequences, a decoupled one and a Python model of its owner
are never asked, unless the policy says ``calibrate: true`` or names inputs; ones then stand in
where there are no others.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray
from tritonclient.grpc.model_config_pb2 import DataType
from tritonclient.utils import triton_to_np_dtype

from conch.errors import ConchError
from control.act import jobs
from control.act.calibration_inputs import GivenInputs, Inputs, batch_of
from control.core.own import Own
from control.core.policy import Policy
from control.core.types import Observation
from serving import probe
from serving.client import TritonClient
from serving.model_config import ModelConfig, tensor_bytes
from serving.named_files import WARM_UP

log = structlog.get_logger()

SHARE = 0.05
"""Of the device, or of the cores, at most."""
BATCHES = 5
"""Of each size: the mean of so many is a measurement."""
MOST_S = 3.0
"""Of work for one model and setting."""
DEADLINE_S = 10.0
MOST_BYTES = 64 * 2**20
"""A batch of more input than this is not sent: it would cost more than it tells."""


@dataclass(slots=True)
class _Model:
    """What was sent to one model.

    Attributes:
        own: totals, also since the model was loaded.
        known: (version, threads, largest batch) that need not be measured (again).
        seen_items: of the newest statistics; fewer mean another load.
        free: cleared when the measuring must end.
    """

    own: Own = field(default_factory=Own)
    known: set[tuple[Any, ...]] = field(default_factory=set)
    seen_items: int = 0
    free: threading.Event = field(default_factory=threading.Event)
    running: bool = False


class Calibrator:
    """Measures the models of one server, one at a time."""

    def __init__(
        self,
        client: TritonClient,
        folder: Path,
        policies: Mapping[str, Policy],
        *,
        given: Mapping[str, GivenInputs] | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is sent yet.

        Args:
            client: of the server.
            folder: of the repository, for the files of warm-ups.
            policies: of the models.
            given: inputs of the owner's, by model.
            sleep: waits for so many seconds.
            clock: monotonic, s.
        """
        self._client = client
        self._folder = folder
        self._policies = policies
        self._given = given or {}
        self._sleep = sleep
        self._clock = clock
        self._models = {name: _Model() for name in policies}
        self._lock = threading.Lock()

    def told(self, model: str, seen: Observation) -> Observation:
        """The look, with what was sent to the model so far."""
        state = self._models[model]
        with self._lock:
            if seen.statistics is not None:
                if seen.statistics.inference_count < state.seen_items:
                    state.own = replace(state.own, requests_loaded=0.0, rows_loaded=0.0)
                state.seen_items = seen.statistics.inference_count
            return replace(seen, own=state.own)

    def looked(self, model: str, seen: Observation, *, measured: int) -> None:
        """Begin to measure the model beside the ticks, where that is missing.

        Args:
            model: that was looked at; nothing may be in flight for it.
            seen: the look.
            measured: the largest batch that is known with its version and threads.
        """
        applied, state = seen.applied, self._models[model]
        if applied is None or self._policies[model].calibrate is False:
            return
        key = (applied.version, seen.threads, applied.max_batch_size)
        if key in state.known or any(each.running for each in self._models.values()):
            return
        state.known.add(key)
        if measured >= applied.max_batch_size or applied.max_batch_size < 2:
            return
        state.free.set()
        state.running = True
        jobs.begin("conch-calibrator", self._measure, model, seen.threads)

    def leave(self, model: str) -> None:
        """End the measuring of a model that is about to be changed."""
        self._models[model].free.clear()

    def _measure(self, model: str, threads: int) -> None:
        """Send batches until enough are known."""
        state, policy = self._models[model], self._policies[model]
        try:
            config = self._client.config(model)
            given = self._given.get(model)
            if given is not None:
                made: Inputs | None = given.fitting(config)
            else:
                made_up = policy.calibrate is True
                made = inputs_of(config, self._folder / model, rows=1, made_up=made_up)
            if made is None:
                return
            self._sizes(config, made, policy, threads)
        except ConchError as error:
            log.info("calibration.ended", model=model, error=error.message)
        except Exception as error:
            log.warning("calibration.failed", model=model, error=str(error))
        finally:
            state.running = False

    def _sizes(self, config: ModelConfig, rows: Inputs, policy: Policy, threads: int) -> None:
        """The largest batch, half as large while one takes too long, one row, and those between."""
        share = min(1.0, threads / policy.cores)
        size, spent_s = int(config.max_batch_size), 0.0
        bytes_a_row = sum(array.nbytes // len(array) for array in rows.values())
        while size * bytes_a_row > MOST_BYTES and size > 1:
            size //= 2
        between: list[int] | None = None
        while size >= 1 and spent_s < MOST_S:
            took_s = 0.0
            batch = batch_of(rows, size)
            for _ in range(BATCHES):
                if not self._models[config.name].free.is_set():
                    return
                one_s = self._send(config.name, batch, rows=size)
                took_s, spent_s = max(took_s, one_s), spent_s + one_s
                self._sleep(max(0.0, one_s * (share / SHARE - 1.0)))
            log.info("calibration.measured", model=config.name, rows=size, seconds=round(took_s, 4))
            if between is None and size > 1 and took_s > policy.slo_s / 2:
                size //= 2
                continue
            if between is None:
                between = _below(size)
            size = between.pop(0) if between else 0

    def _send(self, model: str, batch: Inputs, *, rows: int) -> float:
        """One request; gives its seconds."""
        begun_s = self._clock()
        self._client.infer(model, batch, deadline_s=DEADLINE_S)
        took_s = self._clock() - begun_s
        state = self._models[model]
        with self._lock:
            state.own = state.own.plus(rows=rows, seconds=took_s)
        return took_s


def _below(largest: int) -> list[int]:
    """One, which alone tells the fixed cost, and the powers of two below the largest.

    Example:
        >>> _below(16), _below(12), _below(1)
        ([1, 8, 4, 2], [1, 8, 4, 2], [])
    """
    powers = [2**n for n in range((largest - 1).bit_length())]
    return [*powers[:1], *reversed(powers[1:])]


def inputs_of(config: ModelConfig, folder: Path, *, rows: int, made_up: bool) -> Inputs | None:
    """Inputs of so many rows that are like real ones; None where there are none.

    Args:
        config: in force.
        folder: of the model, for the files of its warm-up.
        rows: of the batch.
        made_up: whether ones may stand in, and an owner's Python model may be asked.
    """
    of_a_kind = (
        config.HasField("sequence_batching")
        or config.model_transaction_policy.decoupled
        or config.HasField("ensemble_scheduling")
        or config.backend == "python"
    )
    if config.max_batch_size < 1 or (of_a_kind and not made_up):
        return None
    for sample in config.model_warmup:
        made = {}
        for tensor in config.input:
            if tensor.optional and tensor.name not in sample.inputs:
                continue
            if tensor.name not in sample.inputs:
                break
            array = _warm_up_row(sample.inputs[tensor.name], folder)
            if array is None:
                break
            made[tensor.name] = np.repeat(array, rows, axis=0)
        else:
            return made
    return probe.synthetic_inputs(config, batch_size=rows) if made_up else None


def _warm_up_row(entry: Any, folder: Path) -> NDArray[Any] | None:
    """One row of a warm-up's input; None where it cannot be made."""
    kind = DataType.Name(entry.data_type).removeprefix("TYPE_")
    shape = [1, *(int(dim) for dim in entry.dims)]
    if kind == "STRING" or any(dim < 0 for dim in shape):
        return None
    if tensor_bytes(entry.data_type, entry.dims) > MOST_BYTES:
        return None
    dtype = triton_to_np_dtype(kind)
    if entry.input_data_file:
        flat = np.fromfile(folder / WARM_UP / entry.input_data_file, dtype=dtype)
        size = int(np.prod(shape))
        return flat[:size].reshape(shape) if flat.size >= size else None
    if entry.random_data:
        return np.random.default_rng(0).random(shape).astype(dtype)
    return np.zeros(shape, dtype=dtype)
