"""``conch perf replay`` and ``conch perf capacity``: load whose times are fixed in advance."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.options import json_option, server_options
from cli.output import echo, rewrite, to_json
from cli.perf_trace import step_levels
from conch.errors import ConfigError, LoadError
from conch.units import DURATION, OBJECTIVE, parse_duration
from serving.runtime.endpoint import Endpoint

if TYPE_CHECKING:
    from perf.replay import Progress, ReplayTarget
    from perf.traces import Trace

_SHAPE = click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="NAME=SIZE,...",
    help="Size of an input's variable dimensions; 'sequence' stands for all of them. "
    "[default: those of the config's warm-up]",
)
_SLO = click.option("--slo", type=OBJECTIVE, required=True, help="SLO on latency, such as 50ms.")


@click.command()
@click.argument("model")
@click.argument(
    "trace", required=False, type=click.Path(path_type=Path, dir_okay=False, exists=False)
)
@click.option(
    "--step",
    "steps",
    multiple=True,
    metavar="RATE:SECONDS",
    help="Rate, req/s, and for how long, instead of TRACE; repeatable.",
)
@click.option("--mean-rate", type=float, help="Stretch or squeeze TRACE to this mean, req/s.")
@click.option("--window", metavar="START:LENGTH", help="Only this part, cut after --mean-rate.")
@_SLO
@_SHAPE
@click.option(
    "--batch", type=click.IntRange(1), default=1, show_default=True, help="Items a request."
)
@click.option("--processes", type=click.IntRange(1, 64), help="Senders. [default: by the peak]")
@click.option("--deadline", type=DURATION, default="60s", show_default=True, help="Per request.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of the arrivals of --step.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write summary.json and requests.npz here.",
)
@click.option(
    "--fail-on",
    multiple=True,
    metavar="EXPR",
    help='Exit with 5 when true, such as "p99_ms>50"; repeatable.',
)
@json_option
@server_options
def replay(
    model: str,
    endpoint: Endpoint,
    trace: Path | None,
    steps: tuple[str, ...],
    mean_rate: float | None,
    window: str | None,
    slo: float,
    shapes: tuple[str, ...],
    batch: int,
    processes: int | None,
    deadline: float,
    seed: int,
    out: Path | None,
    fail_on: tuple[str, ...],
    as_json: bool,
) -> None:
    """Send MODEL the requests of TRACE (a CSV file), each at its time, and judge the latencies.

    Open loop: a slow server does not slow the load, and latency counts from the intended time.
    A run in which the replayer itself fell behind is not valid: it is printed, saved, and ends
    with exit code 1. Ctrl-C once stops early and keeps what was measured.

    \b
    Example:
      conch perf replay minilm_int8 --step 60:10 --step 240:10 --slo 50ms --shape sequence=32
      conch perf replay minilm_int8 examples/traces/azure_llm_2023_conv.csv --mean-rate 150 \\
          --window 0s:60s --slo 50ms --shape sequence=32 --out runs/azure
    """
    from perf import perf_table, thresholds
    from perf import replay as replayer

    limits = [thresholds.parse(text) for text in fail_on]
    arrivals = _arrivals(trace, steps, mean_rate, window, seed)
    target = _target(endpoint, model, shapes, batch)
    echo(
        f"Replaying {arrivals.count} requests in {arrivals.duration_s:.0f} s ({arrivals.name}) ...",
        err=True,
    )
    with _stop_on_interrupt() as stop:
        result = replayer.replay(
            arrivals,
            target,
            slo_s=slo,
            processes=processes,
            deadline_s=deadline,
            on_progress=_progress_line,
            stop=stop,
        )
    summary = result.summary()
    echo(to_json(summary) if as_json else perf_table.of_replay(summary))
    if out:
        echo(f"Wrote {result.save(out)}", err=True)
    if stop.is_set():
        echo("Stopped early: the figures are those of the requests sent until then.", err=True)
        raise click.Abort
    if not result.valid:
        raise LoadError(
            f"replay not valid: {result.invalid_reason}.",
            hint="Add --processes, lower the rate, or move the client to another machine.",
        )
    thresholds.check(limits, summary, what=f"replay of {arrivals.name}")


@click.command()
@click.argument("model")
@_SLO
@_SHAPE
@click.option(
    "--batch", type=click.IntRange(1), default=1, show_default=True, help="Items a request."
)
@click.option("--budget", type=DURATION, default="20s", show_default=True, help="About how long.")
@json_option
@server_options
def capacity(
    model: str,
    endpoint: Endpoint,
    slo: float,
    shapes: tuple[str, ...],
    batch: int,
    budget: float,
    as_json: bool,
) -> None:
    """Find the rate that MODEL carries with p99 within the SLO, by short open-loop probes.

    \b
    Example:
      conch perf capacity minilm_int8 --slo 50ms --shape sequence=32
    """
    from perf.capacity import Probe, find_capacity

    def show(probe: Probe) -> None:
        word = "carried" if probe.carried else "too much"
        echo(f"  {probe.rate_rps:7.1f} req/s: p99 {probe.p99_s * 1e3:7.1f} ms, {word}", err=True)

    target = _target(endpoint, model, shapes, batch)
    found = find_capacity(target, slo, budget_s=budget, on_probe=show)
    if as_json:
        echo(to_json(asdict(found)))
        return
    note = "" if found.bounded else " or more (no probe failed within the budget)"
    echo(f"{model}: {found.rate_rps:.0f} req/s{note} at p99 <= {slo * 1e3:g} ms")


def _arrivals(
    path: Path | None,
    steps: tuple[str, ...],
    mean_rate: float | None,
    window: str | None,
    seed: int,
) -> Trace:
    """The trace that the options name."""
    from perf import trace_files, traces

    if (path is None) == (not steps):
        raise click.UsageError("give a TRACE file or --step RATE:SECONDS, one of the two.")
    made = trace_files.load_csv(path) if path else traces.steps(step_levels(steps), seed=seed)
    if mean_rate is not None:
        made = traces.scaled_to(made, mean_rate)
    if window is None:
        return made
    start, _, length = window.partition(":")
    try:
        return traces.window(made, parse_duration(start), parse_duration(length))
    except ValueError as error:
        raise ConfigError(f"--window: {error}.", hint="Example: --window 0s:60s") from None


def _target(endpoint: Endpoint, model: str, shapes: tuple[str, ...], batch: int) -> ReplayTarget:
    """The model at the server, with inputs made from the config in force there."""
    from perf.inputs import make_inputs, parse_shapes
    from perf.replay import ReplayTarget
    from serving.client import TritonClient

    with TritonClient(endpoint.grpc_url, admin_key=endpoint.admin_key) as client:
        config = client.config(model)
    inputs = make_inputs(config, shapes=parse_shapes(shapes), batch=batch)
    sizes = ", ".join(f"{name} {list(array.shape)}" for name, array in inputs.items())
    echo(f"Each request: {sizes}", err=True)
    return ReplayTarget(grpc_url=endpoint.grpc_url, model=model, inputs=inputs)


@contextmanager
def _stop_on_interrupt() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; the second one interrupts as usual."""
    stop = threading.Event()

    def interrupt(*_: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def _progress_line(seen: Progress) -> None:
    """One line, rewritten in place; nothing off a terminal."""
    if sys.stderr.isatty():
        rewrite(
            f"{seen.at_s:6.1f} s  sent {seen.sent}  outstanding {seen.outstanding}  "
            f"failed {seen.failed}  p99 of the last 5 s {seen.p99_s * 1e3:.1f} ms   "
        )
