"""One run: a model with its owner's config on a server of its own, with or without control."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from conch.errors import ConchError, LoadError
from control.action import Outcome as ActionOutcome
from perf.bench.control.process import Controller, controller
from perf.bench.control.real import busy_between
from perf.bench.never_worse.subjects import Subject
from perf.inputs import make_inputs
from perf.replay import ReplayTarget, replay
from perf.replay_result import Outcome, ReplayResult
from perf.traces import Trace
from serving import model_config
from serving.client import TritonClient
from serving.repository import Repository
from serving.runtime.supervisor import TritonServer

WARM_UP_S = 3.0
DEADLINE_S = 30.0
_CAPACITY_S = 6.0
_MOST_CLIENTS = 8
_AFTER_S = 120.0
"""A controller that nobody ended ends so long after the last answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What came of one run; the warm-up is not counted.

    Attributes:
        offered, good: int64 [seconds], requests that were meant to arrive in each second, and of
            these the ones that were answered within the SLO.
        failed: requests that were answered with an error.
        late: requests without an answer by the deadline.
        changes: what control changed, in words.
        final: the settings at the end.
        note: why there was no control, or why it ended; empty otherwise.
        busy_fraction: of the machine's cores, by everybody on it.
        load_average: of the last minute, at the end.
        invalid_reason: why the run says nothing; empty when it is valid.
    """

    offered: NDArray[np.int64] = field(repr=False)
    good: NDArray[np.int64] = field(repr=False)
    failed: int
    late: int
    changes: tuple[str, ...] = ()
    final: str = ""
    note: str = ""
    busy_fraction: float = float("nan")
    load_average: float = float("nan")
    invalid_reason: str = ""

    @property
    def attainment(self) -> float:
        """Share of the offered requests that were answered within the SLO."""
        return float(self.good.sum() / self.offered.sum())


def capacity_rps(subject: Subject) -> float:
    """What the subject's own config carries: by its service time, else measured.

    Measured in a closed loop of a few clients: what it answers when it always has work. That takes
    seconds, and a busy machine makes it lower and not invalid.

    Raises:
        ConchError: when the server does not start, or the model does not answer.
    """
    if subject.capacity_rps is not None:
        return subject.capacity_rps
    config = model_config.parse(subject.config)
    slots = model_config.instance_count(config) * config.max_batch_size
    with (
        _served(subject) as (server, _),
        ThreadPoolExecutor(min(_MOST_CLIENTS, slots + 1)) as pool,
    ):
        target = _target(server, subject)
        until_s = time.monotonic() + _CAPACITY_S
        counts = pool.map(lambda _: _asked(target, until_s), range(min(_MOST_CLIENTS, slots + 1)))
        return sum(counts) / _CAPACITY_S


def _asked(target: ReplayTarget, until_s: float) -> int:
    """Answers to one client that asks again at once."""
    count = 0
    with TritonClient(target.grpc_url) as client:
        while time.monotonic() < until_s:
            client.infer(target.model, target.inputs)
            count += 1
    return count


def play(subject: Subject, trace: Trace, *, controlled: bool) -> Played:
    """Send the trace to the subject, once.

    Args:
        subject: the model.
        trace: the arrivals; the first ``WARM_UP_S`` are played but not counted.
        controlled: whether ``conch control run --slo`` runs beside it.

    Raises:
        ConchError: when the server does not start.
    """
    with _served(subject) as (server, folder), ExitStack() as stack:
        beside: Controller | None = None
        note = ""
        if controlled:
            beside, note = _controlled(stack, server, subject, folder, trace.duration_s)
        machine = psutil.cpu_times()
        seen = replay(trace, _target(server, subject), slo_s=subject.slo_s, deadline_s=DEADLINE_S)
        busy = busy_between(machine, psutil.cpu_times())
        if beside is not None and beside.process.poll() is not None:
            note = f"control ended by itself: {_last_words(folder)}"
        stack.close()  # a change that is in flight ends with the controller
        return _counted(
            seen,
            changes=changes_of(beside.ticks if beside else ()),
            final=_settings(Repository(folder / "repository"), subject.name),
            note=note,
            busy_fraction=busy,
            load_average=os.getloadavg()[0],
        )


def _controlled(
    stack: ExitStack, server: TritonServer, subject: Subject, folder: Path, trace_s: float
) -> tuple[Controller | None, str]:
    """``conch control run --slo``; where it refuses the model, nobody is in control."""
    try:
        beside = stack.enter_context(
            controller(
                server.endpoint,
                None,
                folder / "repository",
                folder / "control.log",
                longest_s=trace_s + DEADLINE_S + _AFTER_S,
                slo_s=subject.slo_s,
            )
        )
    except LoadError:
        return None, f"control refused: {_last_words(folder)}"
    return beside, ""


@contextmanager
def _served(subject: Subject) -> Iterator[tuple[TritonServer, Path]]:
    """A server of its own with the subject as its owner wrote it, and the folder around."""
    with tempfile.TemporaryDirectory(prefix="conch-never-worse-") as name:
        folder = Path(name)
        root = folder / "repository"
        root.mkdir()
        subject.publish(root)
        with TritonServer(
            root,
            models=[subject.name],
            name=f"never-worse-{folder.name[-8:]}",
            log_path=folder / "triton.log",
            exit_timeout_s=2,
        ) as server:
            if not all(model.ready for model in server.models):
                raise LoadError(
                    f"{subject.name}: does not load ({server.models[0].reason}).",
                    hint="Serve it once with `conch serve` and look at its log.",
                )
            yield server, folder


def _target(server: TritonServer, subject: Subject) -> ReplayTarget:
    """Where the requests go."""
    config = model_config.parse(subject.config)
    return ReplayTarget(
        grpc_url=server.endpoint.grpc_url, model=subject.name, inputs=make_inputs(config)
    )


def _counted(seen: ReplayResult, **rest: Any) -> Played:
    """The run in seconds after the warm-up."""
    seconds = round(seen.duration_s - WARM_UP_S)
    counted = seen.intended_s >= WARM_UP_S
    second = np.minimum((seen.intended_s[counted] - WARM_UP_S).astype(np.int64), seconds - 1)
    good = seen.latency_s[counted] <= seen.slo_s
    outcome = seen.outcome[counted]
    return Played(
        offered=np.bincount(second, minlength=seconds),
        good=np.bincount(second[good], minlength=seconds),
        failed=int(np.count_nonzero(outcome == Outcome.FAILED)),
        late=int(np.count_nonzero(outcome == Outcome.LATE)),
        invalid_reason=seen.invalid_reason,
        **rest,
    )


def changes_of(ticks: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """What changed, from ``control run --jsonl``: the reason, and the settings that differ."""
    found = []
    for tick in ticks:
        ended = tick.get("ended")
        if not ended:
            continue
        outcome = (ended["action"] or {}).get("outcome", "failed")
        if outcome == ActionOutcome.UNCHANGED.value:
            continue
        decision = ended["decision"]
        before, after = decision["applied"] or {}, decision["desired"] or {}
        differs = [
            f"{key} {before.get(key)}→{value}"
            for key, value in after.items()
            if before.get(key) != value
        ]
        failed = "" if outcome == ActionOutcome.APPLIED.value else f" ({outcome})"
        found.append(f"{decision['reason']} {', '.join(differs) or 'afresh'}{failed}")
    return tuple(found)


def _settings(repository: Repository, model: str) -> str:
    """The settings on disk, in short."""
    try:
        config = repository.read_config(model)
    except ConchError as error:
        return error.message
    counts = "+".join(str(group.count) for group in config.instance_group)
    batching = ", dynamic" if config.HasField("dynamic_batching") else ""
    threads = model_config.parameter(config, "intra_op_thread_count")
    return f"{counts}×{config.max_batch_size}{batching}" + (
        f", {threads} threads" if threads else ""
    )


def _last_words(folder: Path) -> str:
    """The end of what the controller said."""
    with contextlib.suppress(OSError):
        lines = (folder / "control.log").read_text(errors="replace").split("\n")
        errors = [line for line in lines if line.startswith("Error")]
        return (errors or [line for line in lines if line.strip()] or ["no message"])[-1][:200]
    return "no message"
