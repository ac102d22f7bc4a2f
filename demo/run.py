"""The demo's steps in order: each is real, and each tells what it found."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from conch.errors import ConfigError, LoadError, ParityError
from demo import contender, outcome
from demo.contender import Watched
from demo.scenario import Scenario, step_trace
from export import pipeline
from export.report import Report
from perf import capacity
from perf.inputs import make_inputs
from perf.replay import Progress, ReplayTarget
from perf.replay_result import ReplayResult
from perf.traces import Trace
from serving.client import TritonClient
from serving.model_config import ModelConfig, static_default
from serving.repository import Repository
from serving.runtime.supervisor import TritonServer

EXAMPLE = Path(__file__).parent.parent / "examples" / "minilm"

T = TypeVar("T")


class Teller(Protocol):
    """Where the progress goes."""

    def step(self, number: int, text: str) -> None:
        """A step begins."""

    def note(self, text: str) -> None:
        """Something was found."""

    def progress(self, seen: Progress) -> None:
        """A replay is under way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Everything that the report is made of."""

    scenario: Scenario
    variants: Report
    capacity: capacity.Capacity
    trace: Trace
    default: ReplayResult
    conch: ReplayResult
    ticks: list[dict[str, Any]]
    controller_cpu_s: float
    triton_version: str
    triton_origin: str


def run(out: Path, scenario: Scenario, teller: Teller) -> dict[str, Any]:
    """Play the scenario; leaves result.json, report.html and the plots in ``out``.

    Returns:
        The content of ``result.json``.

    Raises:
        ConchError: whatever step failed; what was written before stays.
    """
    if not (EXAMPLE / "recipe.yaml").is_file():
        raise ConfigError(
            f"demo: {EXAMPLE} is not there; the examples come with the source tree only.",
            hint="Run `make demo` in a clone of the project.",
        )
    out.mkdir(parents=True, exist_ok=True)
    variants, repository = _export(out, scenario, teller)
    teller.step(2, "serve it with a real Triton")
    with TritonServer(repository.root, models=[scenario.model], name=f"demo-{os.getpid()}") as up:
        teller.note(f"Triton {up.binary.version} at {up.endpoint.grpc_url}")
        with TritonClient(up.endpoint.grpc_url, admin_key=up.endpoint.admin_key) as client:
            measured = _measure(out, scenario, variants, repository, up, client, teller)
    teller.step(6, "compare")
    return outcome.write(out, measured)


def _export(out: Path, scenario: Scenario, teller: Teller) -> tuple[Report, Repository]:
    """Step 1: the variants, verified and published into a repository of the demo's own."""
    teller.step(1, "export all-MiniLM-L6-v2: fp32 and INT8, verified on real data")
    root = out / "model_repository"
    shutil.rmtree(root, ignore_errors=True)
    report = pipeline.run(
        EXAMPLE / "recipe.yaml",
        repository=root,
        work_dir=out / "export",
        only=["fp32", "int8"],
    )
    served = [v for v in report.variants if v.published_name == scenario.model and v.accepted]
    if not served:
        reasons = "; ".join(f"{v.name}: {v.reason}" for v in report.variants)
        raise ParityError(
            f"demo: {scenario.model} was not published ({reasons}).",
            hint="Run `conch export run examples/minilm/recipe.yaml` and look at its gates.",
        )
    for line in outcome.variant_lines(report):
        teller.note(line)
    return report, Repository(root)


def _measure(
    out: Path,
    scenario: Scenario,
    variants: Report,
    repository: Repository,
    server: TritonServer,
    client: TritonClient,
    teller: Teller,
) -> Measured:
    """Steps 3 to 5: what the default carries, then both contenders from the same start."""
    default = static_default(repository.read_config(scenario.model))
    reset = _resetter(repository, client, default)
    reset()
    inputs = make_inputs(default, shapes={"sequence": (scenario.sequence,)})
    target = ReplayTarget(grpc_url=server.endpoint.grpc_url, model=scenario.model, inputs=inputs)

    teller.step(3, "measure what Triton's static default carries")
    carried = capacity.find_capacity(
        target,
        scenario.slo_s,
        budget_s=scenario.capacity_budget_s,
        on_probe=lambda p: teller.note(
            f"{p.rate_rps:6.0f} req/s: p99 {p.p99_s * 1e3:6.0f} ms"
            f"{'' if p.carried else '   too much'}"
        ),
    )
    trace = step_trace(scenario, carried.rate_rps)
    teller.note(f"it carries {carried.rate_rps:.0f} req/s; {trace.description}")

    teller.step(4, f"replay {trace.count} requests against the static default")
    default_run = _valid(
        reset,
        teller,
        lambda: contender.run_replay(
            trace, target, slo_s=scenario.slo_s, on_progress=teller.progress
        ),
    )
    teller.step(5, "replay the same requests from the same start under `conch control run`")
    conch_run, watched = _valid(
        reset,
        teller,
        lambda: _controlled(out, scenario, server, repository, trace, target, teller),
    )
    return Measured(
        scenario=scenario,
        variants=variants,
        capacity=carried,
        trace=trace,
        default=default_run,
        conch=conch_run,
        ticks=watched.ticks,
        controller_cpu_s=watched.cpu_s,
        triton_version=server.binary.version,
        triton_origin=server.binary.origin,
    )


def _controlled(
    out: Path,
    scenario: Scenario,
    server: TritonServer,
    repository: Repository,
    trace: Trace,
    target: ReplayTarget,
    teller: Teller,
) -> tuple[ReplayResult, Watched]:
    """The replay with the control plane beside it, in a process of its own."""
    with contender.controlled(
        server.endpoint, EXAMPLE / "policy.yaml", repository.root, out / "control.log"
    ) as watched:
        result = contender.run_replay(
            trace, target, slo_s=scenario.slo_s, on_progress=teller.progress
        )
    for line in outcome.action_lines(watched.ticks, result):
        teller.note(line)
    return result, watched


def _valid(reset: Callable[[], None], teller: Teller, run_once: Callable[[], T]) -> T:
    """A valid run from the start config; one that the machine spoilt is repeated once.

    Raises:
        LoadError: when the replayer fell behind twice.
    """
    reset()
    try:
        return run_once()
    except LoadError as error:
        teller.note(f"not valid, once more: {error.message}")
        reset()
        return run_once()


def _resetter(
    repository: Repository, client: TritonClient, config: ModelConfig
) -> Callable[[], None]:
    """Brings the start config into force: both contenders begin with it, freshly loaded."""

    def reset() -> None:
        repository.write_config(config.name, config, reason="demo: the static default")
        client.unload(config.name)
        client.load(config.name)

    return reset
