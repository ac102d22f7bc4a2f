"""``conch perf bench``: what Conch's own parts cost."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.options import json_option
from cli.output import echo, to_json
from cli.perf_ablation import ablation
from cli.perf_actuator import actuator
from cli.perf_control_bench import control_bench
from cli.perf_hindsight import hindsight
from cli.perf_ladder import ladder
from cli.perf_never_worse import never_worse
from cli.perf_queue_model import queue_model
from cli.perf_scale import budget, scale
from cli.perf_sharing import sharing
from cli.perf_tuned import tuned
from conch.errors import ConfigError, ThresholdMissed
from conch.names import model_name
from conch.units import DURATION

if TYPE_CHECKING:
    from perf.bench.backend import BackendBench


@click.group()
def bench() -> None:
    """Benchmarks of Conch itself.

    \b
    Example:
      conch perf bench backend minilm_fp32
      conch perf bench actuator --json
      conch perf bench control --quick
    """


@bench.command()
@click.argument("model", default="minilm_fp32")
@click.option(
    "--repository",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("model_repository"),
    show_default=True,
    help="Where MODEL is looked up when it is no ONNX file.",
)
@click.option(
    "--batch", type=click.IntRange(1), default=8, show_default=True, help="Items a request."
)
@click.option(
    "--tokens",
    type=click.IntRange(1),
    default=128,
    show_default=True,
    help="Size of every other variable axis.",
)
@click.option(
    "--threads", type=click.IntRange(1), default=1, show_default=True, help="Of both sides."
)
@click.option(
    "--rounds", type=click.IntRange(1), default=5, show_default=True, help="Pairs of windows."
)
@click.option(
    "--window",
    "window_s",
    type=DURATION,
    default="3s",
    show_default=True,
    help="Length of one window.",
)
@click.option("--fail-below", type=click.FloatRange(0), help="Exit with 5 when the ratio is lower.")
@json_option
def backend(
    model: str,
    repository: Path,
    batch: int,
    tokens: int,
    threads: int,
    rounds: int,
    window_s: float,
    fail_below: float | None,
    as_json: bool,
) -> None:
    """Triton with our ONNX Runtime backend against the bare session, in alternating windows.

    MODEL is an ONNX file, or a model of the repository (its newest version). Both sides run the
    same inputs with the same threads; the figure is the median ratio of their throughputs.

    \b
    Example:
      conch perf bench backend minilm_fp32 --fail-below 0.8
      conch perf bench backend model.onnx --tokens 32 --json
    """
    from perf.bench.backend import bench_backend

    result = bench_backend(
        _onnx_file(model, repository),
        batch_size=batch,
        tokens=tokens,
        threads=threads,
        rounds=rounds,
        window_s=window_s,
        on_round=lambda number, ratio: echo(
            f"round {number}/{rounds}: ratio {ratio:.3f}", err=True
        ),
    )
    echo(to_json(asdict(result), indent=None) if as_json else _text(result))
    if fail_below is not None and result.ratio < fail_below:
        raise ThresholdMissed(
            f"backend: ratio {result.ratio:.3f}, must be at least {fail_below:g}.",
            hint="Run it again on a quiet machine, or with more --rounds.",
        )


bench.add_command(ablation)
bench.add_command(hindsight)
bench.add_command(actuator)
bench.add_command(queue_model)
bench.add_command(control_bench)
bench.add_command(budget)
bench.add_command(scale)
bench.add_command(ladder)
bench.add_command(sharing)
bench.add_command(tuned)
bench.add_command(never_worse)


def _onnx_file(model: str, repository: Path) -> Path:
    """The ONNX file that ``MODEL`` means."""
    from serving.repository import Repository

    path = Path(model)
    if path.suffix == ".onnx" or path.is_file():
        return path
    repo = Repository(repository)
    versions = repo.versions(model_name(model))
    if not versions:
        raise ConfigError(
            f"{model}: no such ONNX file, and no such model in {repository}.",
            hint="Publish it with `conch export run`, or give the file.",
        )
    name = repo.read_config(model).default_model_filename or "model.onnx"
    return repository / model / str(max(versions)) / name


def _text(result: BackendBench) -> str:
    """The figures for people."""
    spread = f"{min(result.ratios):.3f} to {max(result.ratios):.3f}"
    return "\n".join(
        [
            f"{result.model}: batch {result.batch_size}, {result.tokens} tokens",
            f"{result.threads} intra-op threads, {result.clients} clients, {result.cores} cores",
            f"bare onnxruntime session   {result.bare_rps:8.1f} inferences/s",
            f"Triton {result.triton_version} + our backend {result.triton_rps:8.1f} inferences/s",
            f"ratio                      {result.ratio:8.3f} (rounds: {spread})",
        ]
    )
