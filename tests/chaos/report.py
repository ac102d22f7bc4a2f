"""What is told of a run: each broken promise with the command that replays it, and a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from tests.chaos.run import Outcome

END = "(the end)"


def name_of(outcome: Outcome) -> str:
    """The fault's name."""
    return END if outcome.step is None else outcome.step.fault.name


def failure(outcome: Outcome, *, seed: int, minutes: float, only: str) -> str:
    """Everything about the promises that one fault broke."""
    lines = []
    step = outcome.step
    for broken in outcome.broken:
        where = "after the run" if step is None else f"step {step.number}, {step.fault}"
        lines.append(f"BROKEN seed {seed}, {where}")
        lines.append(f"  {broken.invariant}: {broken.said}")
        lines += [f"  | {line}" for line in broken.evidence]
    replay = f"python -m tests.chaos --seed {seed} --minutes {minutes:g}"
    replay += f" --only {only}" if only else ""
    replay += f" --steps {step.number}" if step is not None else ""
    return "\n".join([*lines, f"  again: {replay}"])


def line(outcome: Outcome) -> str:
    """One line about one fault."""
    number = 0 if outcome.step is None else outcome.step.number
    verdict = "ok" if not outcome.broken else f"{len(outcome.broken)} BROKEN"
    return (
        f"{number:3} {name_of(outcome):24} {outcome.seconds:5.0f} s  lost {outcome.lost:4}  "
        f"outage {outcome.outage_s:4.1f} s  {verdict}"
    )


def table(outcomes: Sequence[Outcome]) -> str:
    """All faults, by name; fits 80 columns."""
    rows = [f"{'fault':25} {'times':>5} {'checked':>8} {'lost':>6} {'outage s':>9} {'broken':>7}"]
    names = dict.fromkeys(name_of(outcome) for outcome in outcomes)
    rows += [_row(name, [o for o in outcomes if name_of(o) == name]) for name in names]
    rows.append(_row("together", outcomes))
    return "\n".join(rows)


def _row(name: str, mine: Sequence[Outcome]) -> str:
    return (
        f"{name:25} {sum(o.step is not None for o in mine):5} {sum(o.checked for o in mine):8} "
        f"{sum(o.lost for o in mine):6} {max((o.outage_s for o in mine), default=0.0):9.1f} "
        f"{sum(len(o.broken) for o in mine):7}"
    )


def as_json(outcomes: Sequence[Outcome], *, seed: int, minutes: float) -> dict[str, Any]:
    """Everything, as JSON values."""
    return {
        "seed": seed,
        "minutes": minutes,
        "outcomes": [
            {
                **dataclasses.asdict(dataclasses.replace(outcome, step=None)),
                "fault": name_of(outcome),
                "parameters": str(outcome.step.fault) if outcome.step else "",
                "step": outcome.step.number if outcome.step else None,
            }
            for outcome in outcomes
        ],
    }
