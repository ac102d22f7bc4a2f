"""The queue model against a real Triton: predicted and measured p99 on a grid of settings.

Every point is an emulated accelerator (``perf.bench.emulated``: real instances, queues and batches,
whose time is slept), asked in an open loop by Poisson arrivals. ℓ(b) is learnt from that run's own
``batch_stats``, as the controller does; what client and server add to a request (transport) and to
a batch (overhead) is measured once, on a model of its own. The model is given the same arrivals, so
that only its own error is left, not that of a short sample. Points that together stay below
``GROUP_RPS`` run at the same time, after all of them are loaded.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil

from conch.errors import LoadError
from control.core.queue_model import simulator
from control.core.service.learnt import Learnt, ServiceTime
from perf import slo, traces
from perf.bench.emulated import EmulatedModel, publish
from perf.inputs import make_inputs
from perf.replay import ReplayTarget, replay
from perf.replay_result import ReplayResult
from perf.traces import Trace
from serving.client import TritonClient
from serving.runtime.supervisor import TritonServer
from serving.statistics import ModelStatistics, delta

GOAL_MEDIAN, GOAL_WORST = 0.20, 0.40
GROUP_RPS, GROUP_SIZE = 450.0, 4
LOADS = (0.3, 0.8, 0.5, 0.9, 0.7)
COUNTS, SIZES, DELAYS_S = (1, 2, 4, 8), (1, 4, 8, 16), (0.02, 0.06)
SLOW, FAST = (0.008, 0.032), (0.002, 0.008)
LEAST_REQUESTS, LONGEST = 400, 2.5
CALIBRATION = "calibration"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One setting and load.

    Attributes:
        name: also the model's.
        alpha_s, beta_s: of the emulated ℓ(b).
        instances, largest_batch, max_queue_delay_s: c, B, d.
        load: ρ, the rate as a share of what full batches carry.
    """

    name: str
    alpha_s: float
    beta_s: float
    instances: int
    largest_batch: int
    max_queue_delay_s: float
    load: float

    @property
    def rate_rps(self) -> float:
        """λ = ρ·c·B/ℓ(B)."""
        full_s = self.alpha_s * self.largest_batch + self.beta_s
        return self.load * self.instances * self.largest_batch / full_s

    def trace(self, seconds: float, seed: int) -> Trace:
        """Poisson arrivals; longer where few would come."""
        span_s = min(max(seconds, LEAST_REQUESTS / self.rate_rps), LONGEST * seconds)
        return traces.poisson(self.rate_rps, span_s, seed=seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Added:
    """What Triton and the client add, beside queue and batch.

    Attributes:
        transport_s: to each request.
        overhead_s: to each batch, before its instance takes the next.
    """

    transport_s: float
    overhead_s: float


def grid(count: int = 28) -> list[Point]:
    """``count`` points (1 to 28), spread over all of c, B, d and ρ."""
    found: list[Point] = []
    for c in COUNTS:
        for size in SIZES:
            for delayed in (False, True)[: 1 if size == 1 else 2]:
                number = len(found)
                alpha_s, beta_s = FAST if c == 1 else SLOW
                found.append(
                    Point(
                        name=f"p{number:02d}",
                        alpha_s=alpha_s,
                        beta_s=beta_s,
                        instances=c,
                        largest_batch=size,
                        max_queue_delay_s=DELAYS_S[number // 2 % 2] if delayed else 0.0,
                        load=LOADS[number % len(LOADS)],
                    )
                )
    chosen = {round(number * len(found) / count) for number in range(count)}
    return [point for number, point in enumerate(found) if number in chosen]


def groups(points: Sequence[Point]) -> list[list[Point]]:
    """Which points run at the same time: the greatest rate first, then what fits beside it."""
    made: list[list[Point]] = []
    for point in sorted(points, key=lambda p: -p.rate_rps):
        for group in made:
            rate_rps = sum(other.rate_rps for other in group) + point.rate_rps
            if len(group) < GROUP_SIZE and rate_rps <= GROUP_RPS:
                group.append(point)
                break
        else:
            made.append([point])
    return made


def bench_queue_model(
    points: Sequence[Point],
    folder: Path,
    *,
    seconds: float,
    seed: int = 1,
    on_row: Callable[[dict[str, Any]], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure what ``folder`` does not hold yet, predict all, and return the figures, JSON values.

    Args:
        points: what to measure.
        folder: one JSON file and one replay for each point; a second call goes on from them.
        seconds: of load a point, up to 2.5 times as long where few requests would come.
        seed: of the arrivals.
        on_row: told each point's figures.

    Raises:
        LoadError: when requests failed or the replayer fell behind.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {point.name: {**asdict(point), "seconds": seconds, "seed": seed} for point in points}
    rows: dict[str, dict[str, Any]] = {}
    for point in points:
        path = folder / f"{point.name}.json"
        if path.is_file():
            row = json.loads(path.read_text(encoding="utf-8"))
            if all(row.get(key) == value for key, value in wanted[point.name].items()):
                rows[point.name] = row
                on_row(row)
    missing = [point for point in points if point.name not in rows]
    if missing:
        for row in _measured(missing, folder, seconds=seconds, seed=seed, on_row=on_row):
            rows[row["name"]] = row
    return summary([rows[point.name] for point in points])


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The error over all points, as a fraction of the measured p99."""
    errors = [abs(row["error_fraction"]) for row in rows]
    return {
        "points": list(rows),
        "median_error_fraction": round(median(errors), 4),
        "worst_error_fraction": round(max(errors), 4),
        "busy_fraction_max": max(row["machine_busy_fraction"] for row in rows),
    }


def predicted(
    point: Point, service: ServiceTime, arrival_s: np.ndarray, added: Added
) -> simulator.Simulated:
    """What the model says of these arrivals."""
    return simulator.simulate(
        arrival_s,
        service,
        instances=point.instances,
        largest_batch=point.largest_batch,
        max_queue_delay_s=point.max_queue_delay_s,
        overhead_s=added.overhead_s,
        transport_s=added.transport_s,
    )


def _measured(
    points: Sequence[Point],
    folder: Path,
    *,
    seconds: float,
    seed: int,
    on_row: Callable[[dict[str, Any]], None],
) -> list[dict[str, Any]]:
    """Serve and ask them, group by group."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="conch-queue-model-") as work:
        root = Path(work) / "models"
        root.mkdir()
        for point in points:
            publish(_emulated(point), root)
        publish(EmulatedModel(name=CALIBRATION, alpha_s=0.001, beta_s=0.004, load_s=0.0), root)
        server = TritonServer(
            root,
            models=[CALIBRATION],
            name="queue-model",
            log_path=Path(work) / "triton.log",
            restart=False,
        )
        with server, ThreadPoolExecutor(GROUP_SIZE) as pool:
            run = _Run(server, folder, seconds, seed)
            added = run.calibrate()
            for group in groups(points):
                for point in group:
                    run.load(point)
                before = psutil.cpu_times()
                seen = list(pool.map(run.ask, group))
                busy = _busy(before)
                for point, (replayed, executed) in zip(group, seen, strict=True):
                    rows.append(run.row(point, replayed, executed, added, busy))
                    on_row(rows[-1])
                for point in group:
                    run.unload(point)
    return rows


class _Run:
    """The requests of one benchmark to its server."""

    def __init__(self, server: TritonServer, folder: Path, seconds: float, seed: int) -> None:
        self._endpoint = server.endpoint
        self._folder = folder
        self._seconds = seconds
        self._seed = seed

    def _client(self) -> TritonClient:
        return TritonClient(self._endpoint.grpc_url, admin_key=self._endpoint.admin_key)

    def _ask(self, model: str, trace: Trace) -> tuple[ReplayResult, ModelStatistics]:
        """One replay, and the batches that it caused."""
        with self._client() as client:
            inputs = make_inputs(client.config(model))
            before = client.statistics(model)
            target = ReplayTarget(grpc_url=self._endpoint.grpc_url, model=model, inputs=inputs)
            replayed = replay(trace, target, slo_s=1.0, processes=1)
            executed = delta(before, client.statistics(model))
        if executed is None or not replayed.valid or not np.isfinite(replayed.latency_s).all():
            reason = replayed.invalid_reason or "requests failed"
            raise LoadError(
                f"queue model, {model}: the run is not valid ({reason}).",
                hint="Run it again on a quiet machine; what was measured is kept in --out.",
            )
        return replayed, executed

    def load(self, point: Point) -> None:
        """Load it, and let every instance answer a few times."""
        with self._client() as client:
            client.load(point.name)
        self._ask(point.name, _at_once(4 * point.instances * point.largest_batch))

    def unload(self, point: Point) -> None:
        """Unload it."""
        with self._client() as client:
            client.unload(point.name)

    def calibrate(self) -> Added:
        """Lone requests show the transport; an overload, in which no instance idles, the overhead.

        Full batches of 8 take 12 ms, so 615 requests a second are carried; 750 are offered.
        """
        self._ask(CALIBRATION, _at_once(40))
        alone, executed = self._ask(CALIBRATION, traces.constant(20.0, 3.0))
        spent_s = (
            executed.queue_s + sum(s.busy_s for s in executed.batches.values())
        ) / alone.count
        transport_s = float(alone.latency_s.mean()) - spent_s
        crowd, executed = self._ask(CALIBRATION, traces.poisson(750.0, 3.0, seed=self._seed))
        span_s = float(crowd.done_s.max() - crowd.intended_s.min()) - transport_s
        busy_s = sum(stat.busy_s for stat in executed.batches.values())
        overhead_s = (span_s - busy_s) / executed.execution_count
        return Added(transport_s=max(0.0, transport_s), overhead_s=max(0.0, overhead_s))

    def ask(self, point: Point) -> tuple[ReplayResult, ModelStatistics]:
        """The point's own load."""
        return self._ask(point.name, point.trace(self._seconds, self._seed + int(point.name[1:])))

    def row(
        self,
        point: Point,
        seen: ReplayResult,
        executed: ModelStatistics,
        added: Added,
        busy_fraction: float,
    ) -> dict[str, Any]:
        """The figures of a point, written to its file."""
        service = (
            Learnt()
            .absorb(executed, instances=point.instances, threads=1, span_s=seen.duration_s)
            .at(point.instances, threads=1, cores=None)
        )
        assert service is not None  # it answered requests
        model = predicted(point, service, seen.intended_s, added)
        p99_s, model_p99_s = (slo.percentile_s(x, 99) for x in (seen.latency_s, model.latency_s))
        row = {
            **asdict(point),
            "seconds": self._seconds,
            "seed": self._seed,
            "rate_rps": round(point.rate_rps, 2),
            "requests": seen.count,
            "learnt": asdict(service),
            "transport_ms": round(added.transport_s * 1e3, 3),
            "overhead_ms": round(added.overhead_s * 1e3, 3),
            "mean_batch": round(executed.inference_count / executed.execution_count, 3),
            "mean_batch_predicted": round(model.mean_batch, 3),
            "p50_ms": round(slo.percentile_s(seen.latency_s, 50) * 1e3, 2),
            "p50_predicted_ms": round(slo.percentile_s(model.latency_s, 50) * 1e3, 2),
            "p99_ms": round(p99_s * 1e3, 2),
            "p99_predicted_ms": round(model_p99_s * 1e3, 2),
            "error_fraction": round(model_p99_s / p99_s - 1.0, 4),
            "machine_busy_fraction": round(busy_fraction, 3),
        }
        seen.save(self._folder / point.name)
        path = self._folder / f"{point.name}.json"
        path.write_text(json.dumps(row, indent=2) + "\n", encoding="utf-8")
        return row


def _emulated(point: Point) -> EmulatedModel:
    """The accelerator of a point."""
    return EmulatedModel(
        name=point.name,
        alpha_s=point.alpha_s,
        beta_s=point.beta_s,
        max_batch_size=point.largest_batch,
        max_queue_delay_s=point.max_queue_delay_s,
        instances=point.instances,
        load_s=0.0,
    )


def _at_once(count: int) -> Trace:
    """``count`` requests at time 0."""
    return Trace(
        name="warm", arrival_s=np.zeros(count), duration_s=1.0, description="all requests at once"
    )


def _busy(before: Any) -> float:
    """Share of the machine's CPU time that was used since ``before``."""
    used = [new - old for new, old in zip(psutil.cpu_times(), before, strict=True)]
    idle = used[before._fields.index("idle")] + used[before._fields.index("iowait")]
    return float(1.0 - idle / max(sum(used), 1e-9))
