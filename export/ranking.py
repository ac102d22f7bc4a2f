"""Which variant is better: by the task, then by fidelity, then by the recipe's order. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def figures(lineage: Mapping[str, Any]) -> dict[str, float]:
    """Criterion → figure, more is better, of a version's lineage; empty when nothing is known.

    The task counts as its difference to the original's score: 0 where its 95 % confidence interval
    holds 0, as the data cannot tell the two apart. Anybody may have written the lineage: what
    cannot be understood is not known.

    Example:
        >>> task = {"metric": "a.py:f1", "value": 0.9, "original": 0.8, "interval": [-0.1, 0.3]}
        >>> figures({"quality": {"task": task, "fidelity": None}})
        {'task a.py:f1': 0.0}
    """
    found = {}
    try:
        known = lineage["quality"]
        if (task := known["task"]) is not None:
            low, high = task["interval"] or (1, 1)
            surely = not float(low) <= 0 <= float(high)
            difference = float(task["value"]) - float(task["original"])
            found[f"task {task['metric']}"] = difference if surely else 0.0
        if (fidelity := known["fidelity"]) is not None:
            of = f" of {fidelity['output']}" if fidelity["output"] else ""
            found[f"fidelity {fidelity['metric']}{of}"] = float(fidelity["value"])
    except (KeyError, OverflowError, TypeError, ValueError):
        return {}
    return {name: value for name, value in found.items() if value == value}  # without NaN


def criteria(variants: Sequence[Mapping[str, float]]) -> list[str]:
    """What is known of all of them, the task first; empty when nothing is."""
    return [name for name in variants[0] if all(name in one for one in variants)]


def ascending(variants: Sequence[Mapping[str, float]], by: Sequence[str]) -> list[int]:
    """Indices of the variants, the worst first.

    Args:
        variants: their ``figures``, in the recipe's order; of equal ones the first is the best.
        by: the criteria, which all of them have; a later one counts where those before are equal.

    Example:
        >>> ascending([{"task": 0.0}, {"task": -0.1}, {"task": 0.0}], ["task"])
        [1, 2, 0]
    """
    return sorted(
        range(len(variants)), key=lambda index: ([variants[index][name] for name in by], -index)
    )


def words(lineage: Mapping[str, Any]) -> str:
    """The measured quality for people, e.g. ``spearman 0.504, cosine 1``; empty when not known."""
    if not figures(lineage):
        return ""
    task, fidelity = lineage["quality"]["task"], lineage["quality"]["fidelity"]
    found = []
    if task is not None:
        name = str(task["metric"]).rpartition(":")[2]
        found.append(f"{name} {float(task['value']):.4g} (original {float(task['original']):.4g})")
    if fidelity is not None:
        found.append(f"{fidelity['metric']} {float(fidelity['value']):.4g}")
    return ", ".join(found)
