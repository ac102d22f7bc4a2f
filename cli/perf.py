"""``conch perf``: measure a model under load."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Literal

import click

from cli.options import json_option, server_options
from cli.output import echo, to_json
from conch.errors import ConfigError
from conch.units import DURATION
from serving.runtime.endpoint import Endpoint

# Loaded when called: name -> module:attribute
_ELSEWHERE = {
    "replay": "cli.perf_replay:replay",
    "capacity": "cli.perf_replay:capacity",
    "trace": "cli.perf_trace:trace",
    "bench": "cli.perf_bench:bench",
}


class PerfGroup(click.Group):
    """A group whose larger commands live in modules of their own."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command whose module is there."""
        found = [name for name in _ELSEWHERE if self._is_there(name)]
        return sorted([*super().list_commands(ctx), *found])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now; None when there is none of that name."""
        if cmd_name not in _ELSEWHERE or not self._is_there(cmd_name):
            return super().get_command(ctx, cmd_name)
        module, attribute = _ELSEWHERE[cmd_name].split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    @staticmethod
    def _is_there(name: str) -> bool:
        return importlib.util.find_spec(_ELSEWHERE[name].split(":")[0]) is not None


@click.group(cls=PerfGroup)
def perf() -> None:
    """Measure a model under load: perf_analyzer, open-loop replay, capacity, benchmarks.

    \b
    Example:
      conch perf run minilm_int8 --rate 50 --shape sequence=32
      conch perf replay minilm_int8 --step 60:10 --step 240:10 --slo 50ms --shape sequence=32
    """


@perf.command()
@click.argument("model")
@click.option("--rate", "rates", type=float, multiple=True, help="Open loop, req/s; repeatable.")
@click.option("--rates", "rate_range", metavar="A:B:STEP", help="Several rates, req/s, B included.")
@click.option(
    "--concurrency",
    "concurrencies",
    type=int,
    multiple=True,
    help="Closed loop, requests in flight; repeatable.",
)
@click.option(
    "--concurrencies",
    "concurrency_range",
    metavar="A:B:STEP",
    help="Several concurrencies, B included.",
)
@click.option(
    "--batch", type=click.IntRange(1), default=1, show_default=True, help="Items a request."
)
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="NAME=SIZE,...",
    help="Size of an input's variable dimensions; 'sequence' stands for all of them. "
    "[default: those of the config's warm-up]",
)
@click.option("--duration", type=DURATION, default="6s", show_default=True, help="Per load.")
@click.option(
    "--distribution",
    type=click.Choice(["poisson", "constant"]),
    default="poisson",
    show_default=True,
    help="Of the gaps at a rate.",
)
@click.option(
    "--csv",
    "csv_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the levels here too.",
)
@click.option(
    "--fail-on",
    multiple=True,
    metavar="EXPR",
    help='Exit with 5 when true, such as "p99_ms>50"; repeatable.',
)
@json_option
@server_options
def run(
    model: str,
    endpoint: Endpoint,
    rates: tuple[float, ...],
    rate_range: str | None,
    concurrencies: tuple[int, ...],
    concurrency_range: str | None,
    batch: int,
    shapes: tuple[str, ...],
    duration: float,
    distribution: Literal["poisson", "constant"],
    csv_path: Path | None,
    fail_on: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure MODEL with NVIDIA's perf_analyzer at one or more loads.

    Without a load it measures concurrency 1. The first use downloads perf_analyzer (14 MB) when
    none is on PATH.

    \b
    Example:
      conch perf run minilm_int8 --rate 50 --shape sequence=32
      conch perf run minilm_int8 --rates 50:250:50 --shape sequence=32 --csv sweep.csv
      conch perf run mnist_resnet8 --concurrency 4 --batch 8 --fail-on "p99_ms>50"
    """
    from perf import perf_analyzer, perf_table, thresholds
    from perf.inputs import parse_shapes

    limits = [thresholds.parse(text) for text in fail_on]
    every_rate = (*rates, *_range(rate_range))
    every_concurrency = (*concurrencies, *(int(value) for value in _range(concurrency_range)))
    result = perf_analyzer.run(
        model,
        endpoint,
        rates=every_rate,
        concurrencies=every_concurrency or (() if every_rate else (1,)),
        batch=batch,
        shapes=parse_shapes(shapes),
        duration_s=duration,
        distribution=distribution,
    )
    echo(to_json(result.as_json()) if as_json else perf_table.of_perf(result))
    if csv_path:
        csv_path.write_text(perf_analyzer.to_csv(result), encoding="utf-8")
        echo(f"Wrote {csv_path}", err=True)
    for level in result.as_json()["levels"]:
        thresholds.check(limits, level, what=f"{model} at {result.kind} {level['load']:g}")


def _range(text: str | None) -> tuple[float, ...]:
    """The loads of ``A:B:STEP``, B included."""
    if text is None:
        return ()
    try:
        first, last, step = (float(part) for part in text.split(":"))
    except ValueError:
        first, last, step = 0, 0, 0
    if not (0 < first <= last and step > 0 and (last - first) / step <= 100):
        raise ConfigError(
            f"range: {text!r}, must be A:B:STEP with 0 < A <= B and at most 100 steps.",
            hint="Example: --rates 50:250:50",
        )
    return tuple(first + step * number for number in range(int((last - first) / step + 1e-9) + 1))
