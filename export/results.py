"""From finished stages to verdicts: what each variant is worth and which are published. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from conch.errors import ConchError
from export import judge, pareto, search
from export.engine import Outcome
from export.optional import ToolMissing
from export.parity import Verdict
from export.planning import Chain, Plan
from export.recipe import Recipe, Variant
from export.report import CandidateReport, Status, VariantReport
from export.steps import Form
from export.store import Finished


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One chain with all that was found about it.

    Attributes:
        chain: what was built.
        error: why it could not be built or compared; None when it could.
        finished: its file.
        quality, cost: its figures.
        verdicts: of its gates.
        seconds: what its steps took, in this run or in the one they are kept from.
    """

    chain: Chain
    error: ConchError | None = None
    finished: Finished | None = None
    quality: judge.Quality = dataclasses.field(default_factory=judge.Quality)
    cost: judge.Cost | None = None
    verdicts: tuple[Verdict, ...] = ()
    seconds: float = 0.0

    @property
    def failed(self) -> list[str]:
        """The verdicts that refuse it, in words."""
        return [str(verdict) for verdict in self.verdicts if not verdict.passed]

    @property
    def status(self) -> Status:
        """What its own gates make of it."""
        if self.error is not None:
            return Status.SKIPPED if isinstance(self.error, ToolMissing) else Status.FAILED
        return Status.REFUSED if self.failed else Status.ACCEPTED

    @property
    def facts(self) -> Mapping[str, Any]:
        """What its steps noted."""
        return self.finished.artifact.facts if self.finished else {}

    @property
    def reason(self) -> str:
        """Why it is refused or failed; else what it passed."""
        if self.error is not None:
            return str(self.error)
        count = len(self.verdicts)
        passed = f"passed {count} gate{'s'[: count != 1]}" if count else "no gates are set"
        return "; ".join(self.failed) or passed


def judged(
    todo: Plan, chain: Chain, outcomes: Mapping[str, Outcome], costs: Mapping[str, judge.Cost]
) -> Judged:
    """The chain with its figures and verdicts."""
    for key in (*chain.keys, chain.compare_key):
        if (error := outcomes[key].error) is not None:
            return Judged(chain=chain, error=error)
    finished, compared = outcomes[chain.end].finished, outcomes[chain.compare_key].finished
    if finished is None or compared is None:
        raise AssertionError(f"{chain.name} has neither a result nor an error")
    quality = judge.quality_from(compared.artifact.facts["quality"])
    cost = costs[chain.name]
    found = judge.verdicts(
        todo.recipe.gates_of(chain.variant),
        quality=quality,
        cost=cost,
        facts=finished.artifact.facts,
        target=chain.target,
        macs_ratio=_macs_ratio(finished.artifact.facts, _baseline_facts(todo, outcomes)),
        is_baseline=todo.is_baseline(chain.variant),
    )
    return Judged(
        chain=chain,
        finished=finished,
        quality=quality,
        cost=cost,
        verdicts=found,
        seconds=sum(
            built.seconds for key in chain.keys[1:] if (built := outcomes[key].finished) is not None
        ),
    )


def variant_report(
    todo: Plan, variant: Variant, found: Mapping[str, Judged]
) -> tuple[VariantReport, Judged]:
    """The variant's report, and the chain that it rests on.

    Args:
        todo: the plan.
        variant: one of its variants.
        found: every chain by name, the baseline among them.
    """
    own = [found[chain.name] for chain in todo.chains_of(variant)]
    if not variant.steps or (spec := variant.steps[-1].search) is None:
        return _report(todo, own[0], found), own[0]
    selection = search.select(spec, [_candidate_outcome(todo.recipe, one) for one in own])
    chosen = next((one for one in own if one.chain.candidate == selection.chosen), None)
    kept = chosen or found[todo.baseline.name]
    report = _report(todo, kept, found)
    candidates = tuple(_candidate(todo.recipe, one, chosen=one is chosen) for one in own)
    if chosen is None:
        report = dataclasses.replace(
            report,
            status=Status.KEPT,
            accepted=False,
            reason=selection.reason,
        )
    else:
        report = dataclasses.replace(report, reason=f"{selection.reason}; {report.reason}")
    ranked = next((one.facts["sensitivity"] for one in own if "sensitivity" in one.facts), ())
    return dataclasses.replace(
        report,
        name=variant.name,
        published_name=todo.recipe.published_name(variant),
        steps=variant.labels if chosen is None else report.steps,
        candidates=candidates,
        sensitivity=tuple(ranked),
    ), kept


def without_dominated(todo: Plan, reports: list[VariantReport]) -> list[VariantReport]:
    """Accepted variants that another one to be published beats in everything are marked so.

    Never the plain export: it is what all others are compared with.
    """
    if todo.recipe.publish != "pareto":
        return reports
    published = {variant.name for variant in todo.variants if variant.publish}
    points = [
        _point(todo.recipe, report)
        for report in reports
        if report.status is Status.ACCEPTED and report.name in published
    ]
    beaten = dict(pareto.dominated_by(points))
    beaten.pop(todo.baseline.name, None)
    return [
        dataclasses.replace(
            report,
            status=Status.DOMINATED,
            reason=f"{report.reason}; not published: {beaten[report.name]} is at least as good "
            "in quality, size and latency (publish: accepted would)",
        )
        if report.name in beaten
        else report
        for report in reports
    ]


def _point(recipe: Recipe, report: VariantReport) -> pareto.Point:
    """The variant's place among the others: of one target, judged by one task metric."""
    variant = next(variant for variant in recipe.variants if variant.name == report.name)
    task = recipe.gates_of(variant).task
    quality = (report.agreement.cosine if report.agreement else None, report.task_metric)
    latencies = () if report.target == Form.TENSORRT else tuple(report.latency_ms.values())
    return pareto.Point(
        name=report.name,
        group=f"{report.target} {task.metric if task else ''}",
        quality=tuple(value for value in quality if value is not None),
        size_bytes=report.size_bytes,
        latencies=latencies,
    )


def _report(todo: Plan, one: Judged, found: Mapping[str, Judged]) -> VariantReport:
    """The figures of one chain."""
    recipe, variant = todo.recipe, one.chain.variant
    report = VariantReport(
        name=variant.name,
        published_name=recipe.published_name(variant),
        steps=tuple(spec.step.label for spec in one.chain.steps),
        target=one.chain.target.value,
        status=one.status,
        accepted=one.status is Status.ACCEPTED,
        reason=one.reason,
    )
    if one.cost is None or one.finished is None:
        return report
    facts, task = one.facts, one.quality.task
    complexity = facts.get("complexity", {})
    return dataclasses.replace(
        report,
        size_bytes=one.cost.size_bytes,
        size_ratio=one.cost.size_ratio,
        latency_ms=one.cost.latency.ms,
        latency_ratio=one.cost.latency.ratio,
        fidelity=_fidelity(recipe, one),
        agreement=one.quality.agreement,
        task_metric=task.variant if task else None,
        task_baseline=task.original if task else None,
        task_interval=task.interval if task else None,
        gates=one.verdicts,
        macs=complexity.get("macs"),
        params=complexity.get("params"),
        macs_ratio=_macs_ratio(facts, found[todo.baseline.name].facts),
        sensitivity=tuple(facts.get("sensitivity", ())),
        sha256=one.finished.files,
    )


def _fidelity(recipe: Recipe, one: Judged) -> float | None:
    """The figure that the fidelity gate judges; cosine without one."""
    gate = recipe.gates_of(one.chain.variant).fidelity
    metric = gate.metric if gate else "cosine"
    agreement = one.quality.agreement
    return None if agreement is None else float(getattr(agreement, metric))


def _candidate_outcome(recipe: Recipe, one: Judged) -> search.Outcome:
    """What the selection is told of a candidate."""
    kinds: dict[Status, Literal["skipped", "failed"]] = {
        Status.SKIPPED: "skipped",
        Status.FAILED: "failed",
    }
    return search.Outcome(
        name=one.chain.candidate,
        steps=one.chain.steps,
        status=kinds.get(one.status, "built"),
        reason=one.reason,
        gates=one.verdicts,
        size_ratio=one.cost.size_ratio if one.cost else None,
        latency_ratio=one.cost.latency.ratio if one.cost else {},
        fidelity=_fidelity(recipe, one),
    )


def _candidate(recipe: Recipe, one: Judged, *, chosen: bool) -> CandidateReport:
    """What the report tells of a candidate."""
    return CandidateReport(
        name=one.chain.candidate,
        steps=tuple(spec.step.label for spec in one.chain.steps),
        status=one.status,
        reason=one.reason,
        size_ratio=one.cost.size_ratio if one.cost else None,
        latency_ratio=one.cost.latency.ratio if one.cost else {},
        fidelity=_fidelity(recipe, one),
        task_metric=one.quality.task.variant if one.quality.task else None,
        chosen=chosen,
        seconds=one.seconds,
    )


def _baseline_facts(todo: Plan, outcomes: Mapping[str, Outcome]) -> Mapping[str, Any]:
    """What the steps of the plain export noted."""
    finished = outcomes[todo.baseline.end].finished
    return finished.artifact.facts if finished else {}


def _macs_ratio(facts: Mapping[str, Any], baseline: Mapping[str, Any]) -> float | None:
    """MACs ÷ the original's; None where either is not known."""
    own, base = facts.get("complexity"), baseline.get("complexity")
    return own["macs"] / base["macs"] if own and base and base["macs"] else None
