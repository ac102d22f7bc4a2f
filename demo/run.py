"""The demo's steps in order: export, serve, measure, three acts. Each is real, and told."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conch import log
from conch.errors import ConfigError, ParityError
from demo import acts, neighbours, outcome, page
from demo.acts import Act
from demo.neighbours import Attempt
from demo.scenario import Carried, Scenario
from demo.stage import Stage, Teller
from export import pipeline
from export.report import Report
from perf.inputs import make_inputs
from perf.replay import ReplayTarget
from serving.client import TritonClient
from serving.repository import Repository
from serving.runtime.supervisor import TritonServer

EXAMPLE = Path(__file__).parent.parent / "examples" / "minilm"
RECIPE = "versions.yaml"


def run(out: Path, scenario: Scenario, teller: Teller) -> dict[str, Any]:
    """Play all; leaves result.json, report.html and the plots in ``out``.

    Returns:
        The content of ``result.json``.

    Raises:
        ConchError: whatever step failed; what was written before stays.
    """
    if not (EXAMPLE / RECIPE).is_file():
        raise ConfigError(
            f"demo: {EXAMPLE} is not there; the examples come with the source tree only.",
            hint="Run `make demo` in a clone of the project.",
        )
    out.mkdir(parents=True, exist_ok=True)
    repository, qualities = _export(out, scenario, teller)
    teller.step(2, "serve it with a real Triton, and measure what it answers")
    with (
        log.into(out / "demo.log"),
        TritonServer(repository.root, models=[scenario.model], name=f"demo-{os.getpid()}") as up,
    ):
        teller.note(f"Triton {up.binary.version} at {up.endpoint.grpc_url}")
        with TritonClient(up.endpoint.grpc_url, admin_key=up.endpoint.admin_key) as client:
            return _play(_stage(out, scenario, repository, up, client, teller), qualities)


def _export(
    out: Path, scenario: Scenario, teller: Teller
) -> tuple[Repository, dict[str, dict[str, Any]]]:
    """Step 1: the variants, verified and published as versions of one model; and their quality."""
    teller.step(1, "export all-MiniLM-L6-v2 as two versions, fp32 and INT8, verified on real data")
    root = out / "model_repository"
    shutil.rmtree(root, ignore_errors=True)
    report = pipeline.run(EXAMPLE / RECIPE, repository=root, work_dir=out / "export")
    repository = Repository(root)
    numbers = repository.versions(scenario.model) if scenario.model in repository.models() else []
    if len(numbers) < 2:
        reasons = "; ".join(f"{v.name}: {v.reason}" for v in report.variants)
        raise ParityError(
            f"demo: {len(numbers)} versions of {scenario.model} were published ({reasons}).",
            hint=f"Run `conch export run examples/minilm/{RECIPE}` and look at its gates.",
        )
    found = {}
    for number in numbers:
        lineage = repository.lineage(scenario.model, number)
        found[str(lineage["variant"])] = {"version": number, **_quality(report, lineage)}
        teller.note(_words(str(lineage["variant"]), found[str(lineage["variant"])]))
    return repository, found


def _quality(report: Report, lineage: dict[str, Any]) -> dict[str, Any]:
    """What was measured of a variant."""
    (variant,) = [v for v in report.variants if v.name == lineage["variant"]]
    task = (lineage.get("quality") or {}).get("task") or {}
    return {
        "size_mb": round(variant.size_bytes / 1e6, 1),
        "cosine": variant.fidelity,
        "spearman": task.get("value"),
        "spearman_interval": task.get("interval"),
    }


def _words(name: str, quality: dict[str, Any]) -> str:
    """One line of a variant."""
    text = f"{name:5} version {quality['version']}  {quality['size_mb']:6.1f} MB"
    if quality["cosine"] is not None:
        text += f"  cosine {quality['cosine']:.4f}"
    if quality["spearman"] is not None:
        text += f"  Spearman {quality['spearman']:.4f}"
    return text


def _stage(
    out: Path,
    scenario: Scenario,
    repository: Repository,
    server: TritonServer,
    client: TritonClient,
    teller: Teller,
) -> Stage:
    """The server with the model on it."""
    published = repository.read_config(scenario.model)
    inputs = make_inputs(published, shapes={"sequence": (scenario.sequence,)})
    by_name = {
        repository.lineage(scenario.model, n)["variant"]: n
        for n in repository.versions(scenario.model)
    }
    return Stage(
        out=out,
        scenario=scenario,
        server=server,
        client=client,
        repository=repository,
        target=ReplayTarget(grpc_url=server.endpoint.grpc_url, model=scenario.model, inputs=inputs),
        published=published,
        best=by_name["fp32"],
        cheap=by_name["int8"],
        teller=teller,
    )


def _play(stage: Stage, qualities: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Measure, play the acts, and write what they came to."""
    scenario, teller = stage.scenario, stage.teller
    carried = _measured(stage)
    teller.note(
        f"Triton's default (INT8) answers {carried.default:.0f} req/s at any latency; set by hand, "
        f"INT8 carries {carried.cheap:.0f} within the SLO, fp32 {carried.best:.0f}"
    )
    teller.step(
        3, "act 1: nobody tuned it. The default, the best settings by hand, Conch from cold"
    )
    again = [True]
    one = _attempted(lambda: acts.tuned(stage, carried), teller, again)
    teller.step(4, "act 2: a rush that fp32 cannot carry. fp32 always, INT8 always, Conch")
    if carried.faster < scenario.worth_it:
        teller.note(
            f"INT8 carries only {carried.faster:.2f} times as much as fp32 here, below "
            f"{scenario.worth_it:g}: this machine has little to gain from it"
        )
    two = _attempted(lambda: acts.rush(stage, carried), teller, again)
    teller.step(5, "act 3: an instance dies, a broken config is pushed, the server dies")
    three = [neighbours.attempt(lambda: acts.faults(stage, carried))]
    teller.step(6, "what it came to")
    chosen = [neighbours.chosen(attempts) for attempts in (one, two, three)]

    def of_tuned(act: Act) -> dict[str, Any]:
        return outcome.tuned(scenario, act)

    def of_rush(act: Act) -> dict[str, Any]:
        return outcome.rush(scenario, carried, act, best=stage.best)

    result = {
        "schema": 2,
        "slo_ms": scenario.slo_s * 1e3,
        "triton": {"version": stage.server.binary.version, "origin": stage.server.binary.origin},
        "default_full_queue_rps": round(carried.default, 1),
        "carried_rps": {"int8": round(carried.cheap, 1), "fp32": round(carried.best, 1)},
        "versions": qualities,
        "attempts": [
            line
            for label, attempts, counted in zip(
                ("act 1", "act 2", "act 3"), (one, two, three), chosen, strict=True
            )
            for line in outcome.attempt_lines(label, attempts, counted)
        ],
        "disturbed": any(attempt.disturbed for attempt in chosen),
        "tuned": of_tuned(chosen[0].result),
        "rush": of_rush(chosen[1].result),
        "faults": outcome.faults(chosen[2].result),
        "not_counted": [
            tell(attempt.result)
            for attempts, counted, tell in ((one, chosen[0], of_tuned), (two, chosen[1], of_rush))
            for attempt in attempts
            if attempt is not counted
        ],
    }
    (stage.out / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    page.write(stage, result, chosen[0].result, chosen[1].result)
    return result


def _measured(stage: Stage) -> Carried:
    """What the default answers, and what the settings by hand carry within the SLO."""
    default = stage.full_queue_rps(stage.default(stage.cheap))
    cheap, best = (
        stage.carried_rps(stage.by_hand(version)) for version in (stage.cheap, stage.best)
    )
    return Carried(default=default, cheap=cheap, best=best)


def _attempted(play: Callable[[], Act], teller: Teller, again: list[bool]) -> list[Attempt[Act]]:
    """The act, and once more where others disturbed it; one repeat for the whole demo.

    That is judged by what others used, before anybody looks at the outcome.
    """
    attempts = [neighbours.attempt(play)]
    if attempts[0].disturbed and again:
        again.clear()
        teller.note(f"others used {attempts[0].others * 100:.0f} % of the CPU meanwhile: once more")
        attempts.append(neighbours.attempt(play))
    return attempts
