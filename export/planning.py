"""Which stages a run of a recipe has, and which are done: known before torch is imported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conch.errors import ConfigError
from export import keys
from export import recipe as recipes
from export.gates import TaskGate
from export.recipe import BASELINE, Recipe, Variant
from export.search import expand
from export.source_files import source_files
from export.steps import Form, StepSpec

STAGES_FOLDER = "stages"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """One sequence of steps to build and judge: a variant, or a candidate of its search.

    Attributes:
        variant: the variant it is for.
        candidate: its name in the search; empty for a variant without one.
        steps: in order, without ``search``.
        keys: content key after each step; the last is that of the finished variant.
        target: the form it is served in.
        compare_key: content key of the comparison with the original.
    """

    variant: Variant
    candidate: str
    steps: tuple[StepSpec, ...]
    keys: tuple[str, ...]
    target: Form
    compare_key: str

    @property
    def name(self) -> str:
        """How figures and progress call it."""
        return f"{self.variant.name}/{self.candidate}" if self.candidate else self.variant.name

    @property
    def end(self) -> str:
        """The key of the finished variant."""
        return self.keys[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run would do.

    Attributes:
        recipe_path: the recipe's file.
        recipe: what it says.
        files: the files that decide the original and its data.
        variants: the chosen ones, in the recipe's order.
        chains: what to build for them, in order.
        baseline: the plain export, the reference for size and latency.
        load_key, reference_key: the original, and its outputs on the evaluation data.
    """

    recipe_path: Path
    recipe: Recipe
    files: tuple[Path, ...]
    variants: tuple[Variant, ...]
    chains: tuple[Chain, ...]
    baseline: Chain
    load_key: str
    reference_key: str

    @property
    def all_chains(self) -> tuple[Chain, ...]:
        """The baseline first, also when it was not asked for; then the others."""
        others = tuple(chain for chain in self.chains if chain.name != self.baseline.name)
        return (self.baseline, *others)

    @property
    def tasks(self) -> tuple[TaskGate, ...]:
        """The task metrics to score the original by, each once."""
        return tasks_of(self.recipe)

    def is_baseline(self, variant: Variant) -> bool:
        """Whether the variant is the plain export itself."""
        return variant.name == self.baseline.name

    def chains_of(self, variant: Variant) -> tuple[Chain, ...]:
        """The variant's own chain, or the candidates of its search."""
        return tuple(chain for chain in self.chains if chain.variant.name == variant.name)


def tasks_of(recipe: Recipe) -> tuple[TaskGate, ...]:
    """The task metrics that any variant is judged by, each once."""
    found: dict[tuple[str, str], TaskGate] = {}
    for variant in recipe.variants:
        if (task := recipe.gates_of(variant).task) is not None:
            found.setdefault((task.metric, task.through), task)
    return tuple(found.values())


def plan(recipe_path: Path, *, only: Sequence[str] = ()) -> Plan:
    """What ``pipeline.run`` would do. Loads neither the model nor torch.

    Raises:
        ConfigError: when the recipe is not valid, names files that are not there, or ``only``
            names variants it does not have.
    """
    recipe = recipes.load(recipe_path)
    known = [variant.name for variant in recipe.variants]
    if unknown := [name for name in only if name not in known]:
        raise ConfigError(
            f"--only: {', '.join(unknown)} not in {recipe_path}, which has {', '.join(known)}.",
            hint="Name variants of the recipe.",
        )
    chosen = tuple(v for v in recipe.variants if not only or v.name in only)
    files = tuple(source_files(recipe_path, recipe))
    root = keys.root(recipe, files, recipe_path.parent)
    load = keys.digest("load", root, recipe.serving.target_triton, keys.code())
    tasks = [[task.metric, task.through] for task in tasks_of(recipe)]
    reference = keys.digest("reference", load, tasks, keys.code())
    plain = _plain(recipe)
    chains = [
        _chain(recipe, variant, name, steps, load, reference)
        for variant in chosen
        for name, steps in _candidates(variant)
    ]
    return Plan(
        recipe_path=recipe_path,
        recipe=recipe,
        files=files,
        variants=chosen,
        chains=tuple(chains),
        baseline=_chain(recipe, plain, "", plain.steps, load, reference),
        load_key=load,
        reference_key=reference,
    )


def as_dict(todo: Plan, done: Sequence[str]) -> dict[str, Any]:
    """The plan as JSON values; ``done`` are the keys that need no work."""
    recipe = todo.recipe
    return {
        "model": recipe.model.name,
        "source": recipe.model.kind,
        "baseline": todo.baseline.name,
        "files": [str(path) for path in todo.files],
        "load": {"key": todo.load_key, "cached": todo.load_key in done},
        "variants": [
            {
                "name": variant.name,
                "published_name": recipe.published_name(variant),
                "target": recipe.target_of(variant).value,
                "steps": list(variant.labels),
                "gates": recipe.gates_of(variant).labels,
                "chains": [
                    {
                        "name": chain.name,
                        "steps": [spec.step.label for spec in chain.steps],
                        "cached": [key in done for key in chain.keys[-len(chain.steps) :]]
                        if chain.steps
                        else [],
                        "compared": chain.compare_key in done,
                        "key": chain.end,
                    }
                    for chain in todo.chains_of(variant)
                ],
            }
            for variant in todo.variants
        ],
    }


def _plain(recipe: Recipe) -> Variant:
    """The variant that is the plain export; made up when the recipe has none."""
    wanted = [] if recipe.initial_form is Form.ONNX else ["to_onnx"]
    for variant in recipe.variants:
        if [spec.step.name for spec in variant.steps] == wanted:
            return variant
    return Variant.model_validate({"name": BASELINE, "steps": wanted})


def _candidates(variant: Variant) -> list[tuple[str, tuple[StepSpec, ...]]]:
    """Name and steps of each chain of the variant."""
    if variant.steps and (search := variant.steps[-1].search) is not None:
        return [(one.name, one.steps) for one in expand(search, variant.steps[:-1])]
    return [("", variant.steps)]


def _chain(
    recipe: Recipe,
    variant: Variant,
    candidate: str,
    steps: tuple[StepSpec, ...],
    load: str,
    reference: str,
) -> Chain:
    """The chain with its keys."""
    found: list[str] = [load]
    for spec in steps:
        found.append(keys.step(found[-1], spec, recipe))
    gates = recipe.gates_of(variant)
    task = [gates.task.metric, gates.task.through] if gates.task else None
    output = gates.fidelity.output if gates.fidelity else None
    acts = gates.task is not None and gates.task.through == "triton"
    server = recipe.serving.model_dump(mode="json") if acts else recipe.serving.target_triton
    return Chain(
        variant=variant,
        candidate=candidate,
        steps=steps,
        keys=tuple(found),
        target=recipe.target_of(variant),
        compare_key=keys.digest("compare", found[-1], reference, keys.code(), task, output, server),
    )
