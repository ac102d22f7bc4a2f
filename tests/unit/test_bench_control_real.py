"""What a run on a real server adds up to: changes, and what they cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest

from conch.errors import ConfigError
from control.core.reasons import Reason
from control.core.types import Decision
from control.journal import codec
from control.journal.writer import ActionEntry
from perf.bench.control import real
from tests.unit.control_runs import change, settings


def test_paid_counts_from_the_start_of_loading_to_the_end_of_removal() -> None:
    """A reload pays for both sets; what was rolled back falls back to what it was."""
    changes = [
        change(1, 3, 10, 13),
        change(3, 2, 20, 22),
        change(2, 4, 30, 35, reload=True),
        change(4, 5, 40, 41, ok=False),
        change(4, 6, 50, math.inf),
    ]
    paid = real.paid_of(1, changes, since_s=-5)
    assert paid == (
        (-5, 1), (10, 3), (13, 3), (20, 3), (22, 2), (30, 6), (35, 4), (40, 5), (41, 4), (50, 6),
    )  # fmt: skip


def action(tick_id: str, result: dict[str, Any] | None, ended_at_s: float | None) -> ActionEntry:
    """An action that began at 1010 s."""
    return ActionEntry(
        model="m", tick_id=tick_id, begun_at_s=1010.0, ended_at_s=ended_at_s, result=result
    )


def tick(tick_id: str) -> Mapping[str, Any]:
    """A line of ``control run --jsonl``."""
    decision = Decision(
        tick_id=tick_id,
        at_s=1009.9,
        reason=Reason.SCALE_UP_LOAD,
        applied=settings(1),
        desired=settings(2),
    )
    return {"decision": codec.plain(decision)}


def test_changes_have_the_journals_times_and_the_decisions_reasons() -> None:
    """One that never ended lasts; one that changed nothing is none; a failed one did not hold."""
    applied = {"outcome": "applied", "kind": "reload"}
    done = real.changes_of(
        [tick("a"), tick("b"), tick("c"), tick("d")],
        [
            action("a", applied, 1013.0),
            action("b", {"outcome": "unchanged", "kind": "none"}, 1013.0),
            action("c", {"outcome": "failed", "error": "no"}, 1014.0),
            action("d", None, None),
        ],
        shift_s=1000.0,
    )
    assert [(c.begun_s, c.ended_s, c.reload, c.ok) for c in done] == [
        (10.0, 13.0, True, True),
        (10.0, 14.0, False, False),
        (10.0, math.inf, False, False),
    ]
    assert (done[0].before.instances, done[0].after.instances) == (1, 2)
    assert done[0].reason == "SCALE_UP_LOAD"


def test_an_action_without_its_tick_is_an_error() -> None:
    """What was changed must have been told."""
    with pytest.raises(ConfigError, match="was not told"):
        real.changes_of([], [action("x", None, None)], shift_s=0.0)
