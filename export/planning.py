"""Which stages a run of a recipe has, known before anything heavy is imported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conch.errors import ConfigError
from export import recipe as recipes
from export.recipe import Recipe, Variant
from export.steps import StepSpec

BASELINE = "baseline"
"""The plain export's name in figures when no variant of the recipe is just that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run would do, in order.

    Attributes:
        recipe: the recipe.
        variants: the chosen ones, in the recipe's order.
        baseline: steps of the plain export, the reference for size and latency.
        baseline_name: the variant that is just that, or ``baseline``.
    """

    recipe: Recipe
    variants: tuple[Variant, ...]
    baseline: tuple[StepSpec, ...]
    baseline_name: str

    @property
    def stages(self) -> tuple[str, ...]:
        """Labels of the stages, in order."""
        return (
            "load the original, its data, and check it",
            f"export {self.baseline_name} and check it against the original",
            *(
                f"build {variant.name}: {', '.join(variant.labels)}"
                for variant in self.variants
                if not self.is_baseline(variant)
            ),
            "compare with the original on the evaluation data",
            "measure size and latency, paired",
            "publish what passed",
        )

    def is_baseline(self, variant: Variant) -> bool:
        """Whether the variant is the plain export itself."""
        return variant.name == self.baseline_name

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON values."""
        return {
            "model": self.recipe.model.name,
            "baseline": self.baseline_name,
            "stages": list(self.stages),
            "variants": [
                {
                    "name": variant.name,
                    "published_name": self.recipe.published_name(variant),
                    "steps": list(variant.labels),
                    "gates": self.recipe.gates_of(variant).labels,
                }
                for variant in self.variants
            ],
        }


def plan(recipe_path: Path, *, only: Sequence[str] = ()) -> Plan:
    """What ``pipeline.run`` would do. Loads neither the model nor torch.

    Raises:
        ConfigError: when the recipe is not valid, or ``only`` names variants it does not have.
    """
    recipe = recipes.load(recipe_path)
    known = [variant.name for variant in recipe.variants]
    if unknown := [name for name in only if name not in known]:
        raise ConfigError(
            f"--only: {', '.join(unknown)} not in {recipe_path}, which has {', '.join(known)}.",
            hint="Name variants of the recipe.",
        )
    chosen = tuple(v for v in recipe.variants if not only or v.name in only)
    plain = [v for v in recipe.variants if [s.step.name for s in v.steps] == ["to_onnx"]]
    steps = plain[0].steps if plain else (StepSpec.model_validate("to_onnx"),)
    name = plain[0].name if plain else BASELINE
    return Plan(recipe=recipe, variants=chosen, baseline=steps, baseline_name=name)
