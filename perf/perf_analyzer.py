"""Runs NVIDIA's perf_analyzer against a server and reads its CSV report as typed values.

Each load level is measured in three windows of a third of the time and always reported: with the
tool's own stability rule a busy 2-core machine often ends without any figures. Requests go out
asynchronously, so a rate really is an open loop (the default, four blocking threads, is not).
Inputs are ours, given as a JSON file: random integers would lie outside a model's vocabulary.
"""

from __future__ import annotations

import base64
import csv
import json
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np

from conch.errors import ConfigError, LoadError, TritonUnavailable
from perf.inputs import make_inputs
from perf.perf_analyzer_binary import PerfAnalyzer, locate
from serving.client import ADMIN_HEADER, TritonClient
from serving.runtime.endpoint import Endpoint

WINDOWS = 3  # perf_analyzer never calls fewer than three windows stable
START_S = 30.0
DRAIN_S = 60.0

Load = Literal["rate", "concurrency"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """What perf_analyzer measured at one load; milliseconds are per request.

    Attributes:
        load: the request rate (req/s) or the concurrency (requests in flight).
        throughput_rps: completed requests a second.
        inferences_rps: completed items a second (requests times batch).
        avg_ms: mean latency seen by the client.
        p50_ms: its percentiles.
        p90_ms: its percentiles.
        p95_ms: its percentiles.
        p99_ms: its percentiles.
        queue_ms: mean time in Triton's queue.
        input_ms: mean time in the backend's input step.
        infer_ms: mean time in the model.
        output_ms: mean time in the backend's output step.
        network_ms: mean time between client and server, both ways.
        delayed_count: requests that perf_analyzer itself sent too late.
    """

    load: float
    throughput_rps: float
    inferences_rps: float
    avg_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    queue_ms: float
    input_ms: float
    infer_ms: float
    output_ms: float
    network_ms: float
    delayed_count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PerfResult:
    """One run of perf_analyzer.

    Attributes:
        model: which model.
        kind: ``rate`` (open loop) or ``concurrency`` (closed loop).
        batch: items in a request.
        distribution: of the gaps at a rate: ``poisson`` or ``constant``.
        duration_s: seconds measured at each level.
        shapes: each input's dimensions, without the batch axis.
        origin: where the binary came from.
        levels: one per load.
    """

    model: str
    kind: Load
    batch: int
    distribution: str
    duration_s: float
    shapes: dict[str, tuple[int, ...]]
    origin: str
    levels: tuple[Level, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values, with a schema version."""
        return {"version": 1, **asdict(self)}


def run(
    model: str,
    endpoint: Endpoint,
    *,
    rates: tuple[float, ...] = (),
    concurrencies: tuple[int, ...] = (),
    batch: int = 1,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    duration_s: float = 6.0,
    distribution: Literal["poisson", "constant"] = "poisson",
    binary: PerfAnalyzer | None = None,
) -> PerfResult:
    """Measure the model at each load; takes about ``duration_s`` a load, plus a second.

    Args:
        model: the model's name.
        endpoint: the server, with its admin key where it has one.
        rates: open loop, requests a second; either these or ``concurrencies``.
        concurrencies: closed loop, requests in flight.
        batch: items in a request.
        shapes: as ``perf.inputs.input_shapes``.
        duration_s: seconds per load.
        distribution: of the gaps between requests at a rate.
        binary: which perf_analyzer; None finds it.

    Raises:
        TritonUnavailable: when there is no server or no perf_analyzer.
        ConfigError: when loads, shapes or batch do not fit.
        LoadError: when perf_analyzer fails; with its own words.
    """
    if bool(rates) == bool(concurrencies):
        raise ConfigError(
            "perf_analyzer: give rates or concurrencies, one of the two.",
            hint="Example: --rate 50, or --concurrency 4",
        )
    with TritonClient(endpoint.grpc_url, admin_key=endpoint.admin_key) as client:
        config = client.config(model)
    binary = binary or locate()
    one = make_inputs(config, shapes=shapes)
    lead = 1 if config.max_batch_size > 0 else 0
    make_inputs(config, shapes=shapes, batch=batch)  # raises when the batch does not fit
    common = ["-m", model, "-u", endpoint.grpc_url, "-i", "grpc", "-a", "-b", str(batch)]
    if endpoint.admin_key:
        common += ["-H", f"triton-grpc-protocol-{ADMIN_HEADER}:{endpoint.admin_key}"]
    levels = []
    with tempfile.TemporaryDirectory(prefix="conch-perf-") as folder:
        data = Path(folder) / "inputs.json"
        data.write_text(json.dumps(_input_data(one, lead)), encoding="utf-8")
        common += ["--input-data", str(data)]
        for load in rates or concurrencies:
            report = Path(folder) / f"report-{load}.csv"
            args = [*common, *_load_arguments(load, bool(rates), distribution, duration_s)]
            _execute(binary, [*args, "-f", str(report)], duration_s, endpoint.grpc_url)
            levels += parse_report(report.read_text(encoding="utf-8"), batch=batch)
    return PerfResult(
        model=model,
        kind="rate" if rates else "concurrency",
        batch=batch,
        distribution=distribution,
        duration_s=duration_s,
        shapes={name: array.shape[lead:] for name, array in one.items()},
        origin=binary.origin,
        levels=tuple(levels),
    )


def parse_report(text: str, *, batch: int) -> list[Level]:
    """The levels of perf_analyzer's ``-f`` file (written with ``--verbose-csv``; times in µs).

    Raises:
        LoadError: when a column is missing or a cell is no number.
    """
    rows = list(csv.DictReader(text.splitlines()))
    try:
        levels = [_level(row, batch) for row in rows]
    except (KeyError, ValueError, TypeError) as error:
        raise LoadError(
            f"perf_analyzer's report: {error!r} is missing or no number.",
            hint="This perf_analyzer writes another format; use the bundled one (2.51.0).",
        ) from error
    if not levels:
        raise LoadError(
            "perf_analyzer's report: no rows, must have one per load.",
            hint="Lower the load or lengthen --duration.",
        )
    return levels


def to_csv(result: PerfResult) -> str:
    """The levels as CSV, one line each, under their own field names."""
    names = [item.name for item in fields(Level)]
    lines = [",".join(names)]
    lines += [",".join(f"{getattr(level, name):g}" for name in names) for level in result.levels]
    return "\n".join(lines) + "\n"


def _level(row: dict[str, str], batch: int) -> Level:
    """One row of the report."""
    load = row["Request Rate"] if "Request Rate" in row else row["Concurrency"]
    inferences_rps = float(row["Inferences/Second"])

    def ms(column: str) -> float:
        return round(float(row[column]) / 1e3, 4)

    return Level(
        load=float(load),
        throughput_rps=round(inferences_rps / batch, 3),
        inferences_rps=round(inferences_rps, 3),
        avg_ms=ms("Avg latency"),
        p50_ms=ms("p50 latency"),
        p90_ms=ms("p90 latency"),
        p95_ms=ms("p95 latency"),
        p99_ms=ms("p99 latency"),
        queue_ms=ms("Server Queue"),
        input_ms=ms("Server Compute Input"),
        infer_ms=ms("Server Compute Infer"),
        output_ms=ms("Server Compute Output"),
        network_ms=ms("Network+Server Send/Recv"),
        delayed_count=int(float(row.get("Delayed Request Count") or 0)),
    )


def _load_arguments(load: float, is_rate: bool, distribution: str, duration_s: float) -> list[str]:
    """The flags of one load level."""
    window_ms = max(100, round(duration_s / WINDOWS * 1e3))
    measure = ["-p", str(window_ms), "-r", str(WINDOWS), "-s", "999", "--verbose-csv"]
    if is_rate:
        gaps = ["--request-distribution", distribution]
        return [*measure, "--request-rate-range", f"{load:g}", *gaps]
    return [*measure, "--concurrency-range", f"{load:g}"]


def _execute(binary: PerfAnalyzer, arguments: list[str], duration_s: float, grpc_url: str) -> None:
    """Run it to its end; its complaints become ours."""
    limit_s = START_S + 2 * duration_s + DRAIN_S
    try:
        done = subprocess.run(
            [str(binary.path), *arguments],
            capture_output=True,
            check=False,
            text=True,
            timeout=limit_s,
            env=binary.environment(),
        )
    except subprocess.TimeoutExpired:
        raise LoadError(
            f"perf_analyzer: not done after {limit_s:.0f} s, stopped.",
            hint="The server may hang: `conch doctor`; or lower the rate.",
        ) from None
    except OSError as error:
        raise TritonUnavailable(
            f"perf_analyzer: {binary.path} does not start ({error}).",
            hint="Unset CONCH_PERF_ANALYZER to use the bundled one.",
        ) from error
    if done.returncode == 0:
        return
    words = _complaint(done.stdout + "\n" + done.stderr)
    if "failed to connect" in words.lower() or "connection refused" in words.lower():
        raise TritonUnavailable(
            f"Triton at {grpc_url}: {words}.", hint="Start one with `conch serve`, or check --url."
        )
    raise LoadError(
        f"perf_analyzer: ended with status {done.returncode} ({words}).",
        hint="Check the model with `conch doctor`, or lower the load.",
    )


def _complaint(text: str) -> str:
    """The lines of its output that say what is wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [
        line
        for line in lines
        if any(word in line.lower() for word in ("error", "fail", "not found", "cannot"))
    ]
    return " ".join(telling or lines[-3:])[:400] or "it said nothing"


def _input_data(inputs: Mapping[str, np.ndarray], lead: int) -> dict[str, Any]:
    """perf_analyzer's input file: one item's values, without the batch axis.

    Source: perf_analyzer's docs/input_data.md.
    """
    step: dict[str, Any] = {}
    for name, array in inputs.items():
        item = array[0] if lead else array
        if item.dtype == np.object_:
            values: Any = [value.decode() for value in item.ravel()]
        elif item.dtype.kind == "f" and item.dtype.itemsize == 2:
            packed = base64.b64encode(np.ascontiguousarray(item).tobytes()).decode()
            step[name] = {"content": {"b64": packed}, "shape": list(item.shape)}
            continue
        else:
            values = item.ravel().tolist()
        step[name] = {"content": values, "shape": list(item.shape)}
    return {"data": [step]}
