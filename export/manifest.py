"""The manifest: all that decides what a run gave, and the hash of every file it gave. Pure.

It holds no time, no path and no figure of speed: two runs that give equal files on one kind of
machine give equal manifests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from export import keys
from export.planning import Chain, Plan
from export.store import Finished

SCHEMA = 1


def manifest(
    todo: Plan,
    *,
    loaded: Finished,
    chosen: Mapping[str, tuple[Chain, Finished]],
    recipe_sha256: str,
) -> dict[str, Any]:
    """The manifest as JSON values.

    Args:
        todo: the plan.
        loaded: the load stage.
        chosen: each variant that could be built → its chain and the finished file.
        recipe_sha256: hash of the recipe and of all files that decide the original and its data.
    """
    recipe = todo.recipe
    samples: Mapping[str, Sequence[str]] = loaded.artifact.facts["samples"]
    return {
        "schema": SCHEMA,
        "model": recipe.model.name,
        "recipe_sha256": recipe_sha256,
        "seed": recipe.seed,
        "versions": keys.versions(_packages(todo)),
        "cpu": {"model": keys.cpu_model(), "flags": keys.cpu_flags()},
        "original": {"key": loaded.key, **loaded.artifact.facts["summary"]},
        "samples": {part: list(ids) for part, ids in samples.items()},
        "variants": {
            name: {
                "published_name": recipe.published_name(chain.variant),
                "target": chain.target.value,
                "candidate": chain.candidate,
                "steps": [
                    {"step": spec.step.label, "options": spec.step.model_dump(mode="json")}
                    for spec in chain.steps
                ],
                "key": finished.key,
                "files": dict(sorted(finished.files.items())),
            }
            for name, (chain, finished) in chosen.items()
        },
    }


def merged(earlier: Any, record: dict[str, Any]) -> dict[str, Any]:
    """The record with the variants of an earlier one, where nothing else differs.

    Args:
        earlier: what the manifest file held; anything.
        record: of a run of some of the recipe's variants.
    """
    if not isinstance(earlier, dict) or earlier.get("recipe_sha256") != record["recipe_sha256"]:
        return record
    variants = earlier.get("variants")
    kept = variants if isinstance(variants, dict) else {}
    return {**record, "variants": {**kept, **record["variants"]}}


def _packages(todo: Plan) -> tuple[str, ...]:
    """The packages that any step of the plan depends on."""
    named = [*keys.BASE_PACKAGES]
    for chain in todo.all_chains:
        for spec in chain.steps:
            named += spec.step.packages
    return tuple(dict.fromkeys(named))
