"""The stages of a plan, as the engine runs them."""

from __future__ import annotations

from collections.abc import Mapping

from export import judge, keys
from export.engine import Stage
from export.planning import Chain, Plan
from export.tasks import Compare, Load, Measure, Reference, RunStep

KINDS = ("load", "build", "compare", "measure", "publish")
"""What ``--until`` takes, in order."""


def stages(todo: Plan, *, until: str = "publish") -> list[Stage]:
    """All stages up to the comparison, parents before children, each once.

    Args:
        todo: the plan.
        until: the last kind of stage to run.
    """
    limit = KINDS.index(until)
    found = {todo.load_key: _load(todo)}
    if limit >= KINDS.index("build"):
        for chain in todo.all_chains:
            for stage in _build(chain):
                found.setdefault(stage.key, stage)
    if limit >= KINDS.index("compare"):
        found[todo.reference_key] = _reference(todo)
        for chain in todo.all_chains:
            found.setdefault(chain.compare_key, _compare(todo, chain))
    return list(found.values())


def measurement(todo: Plan, ends: Mapping[str, str]) -> Stage:
    """The paired measurement of these finished chains.

    Args:
        todo: the plan.
        ends: name of each chain → the key of its file; the baseline is among them.
    """
    recipe = todo.recipe
    options = {
        "ends": dict(ends),
        "baseline": todo.baseline.name,
        "batches": recipe.latency_batches,
        "measure": recipe.measure.model_dump(mode="json"),
        "threads": judge.threads_of(recipe),
        "machine": keys.machine(),
    }
    return Stage(
        key=keys.digest("measure", options, keys.code()),
        kind="measure",
        label=f"measure size and latency of {len(ends)} files, paired",
        variant="",
        parents=tuple(dict.fromkeys(ends.values())),
        task=Measure(files=dict(ends), baseline=todo.baseline.name),
    )


def _load(todo: Plan) -> Stage:
    """The original."""
    return Stage(
        key=todo.load_key,
        kind="load",
        label="load the original and its data, and check them",
        variant="",
        parents=(),
        task=Load(),
    )


def _build(chain: Chain) -> list[Stage]:
    """One stage for each step."""
    return [
        Stage(
            key=key,
            kind="build",
            label=f"{chain.name}: {spec.step.label}",
            variant=chain.variant.name,
            parents=(parent,),
            task=RunStep(parent=parent, spec=spec),
        )
        for parent, key, spec in zip(chain.keys, chain.keys[1:], chain.steps, strict=False)
    ]


def _reference(todo: Plan) -> Stage:
    """The original's outputs and scores."""
    return Stage(
        key=todo.reference_key,
        kind="compare",
        label="run the original on the evaluation data",
        variant="",
        parents=(todo.load_key,),
        task=Reference(gates=todo.tasks),
    )


def _compare(todo: Plan, chain: Chain) -> Stage:
    """One chain's result against the original."""
    gates = todo.recipe.gates_of(chain.variant)
    return Stage(
        key=chain.compare_key,
        kind="compare",
        label=f"{chain.name}: compare with the original",
        variant=chain.variant.name,
        parents=(chain.end, todo.reference_key),
        task=Compare(
            parent=chain.end,
            reference=todo.reference_key,
            variant=chain.name,
            gate=gates.task,
            output=gates.fidelity.output if gates.fidelity else None,
        ),
    )
