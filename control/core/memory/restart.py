"""The memory across a restart: what the journal keeps of it, and what is made of that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from control.core.judgement.safety import Safety
from control.core.load.cache_use import CacheUse
from control.core.memory import saved
from control.core.memory.changes import Applied
from control.core.memory.state import ControlState


def restored(
    *, changes: tuple[Applied, ...], learnt: Mapping[str, Any], at_s: float
) -> ControlState:
    """The memory of a controller that starts at ``at_s``: what the journal kept.

    Nobody looked in between: the evidence is older by that time.
    """
    away_s = saved.away_s(learnt, at_s=at_s)
    trials = saved.trials_from_plain(learnt).set_back(at_s)
    for change in changes:  # the last ones may have come after the memory was saved
        unknown = trials.begun_s is None or trials.begun_s < change.at_s <= at_s
        trials = trials.begun(change.at_s) if change.tries_cache and unknown else trials
    return ControlState(
        changes=changes,
        learnt=saved.from_plain(learnt, away_s=away_s),
        versions=saved.versions_from_plain(learnt, away_s=away_s),
        cache=CacheUse(trials=trials),
        peak_rps=saved.peak_from_plain(learnt),
        safety=Safety(
            refused_rows=saved.refused_from_plain(learnt, (c.refused_rows for c in changes))
        ),
    )


def to_plain(state: ControlState, *, at_s: float) -> dict[str, Any]:
    """What the next controller needs of the memory, saved at ``at_s``; see ``restored``."""
    now = state.versions.learning(state.last)
    return {
        **saved.to_plain(state.learnt),
        **saved.versions_to_plain(state.versions, now=now),
        **saved.trials_to_plain(state.cache.trials),
        "refused_rows": state.safety.refused_rows,
        "peak_rps": state.peak_rps,
        "saved_s": at_s,
    }
