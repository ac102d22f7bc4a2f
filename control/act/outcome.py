"""How changes went, as the core remembers them."""

from __future__ import annotations

from dataclasses import replace

import structlog

from conch.errors import ApplyRejected, ConchError, TritonUnavailable
from control.act.proof import RowsRefused
from control.action import Action, Change, Edited, Outcome, ServerGone
from control.core.memory.changes import Applied
from control.core.reasons import Reason
from control.core.step import Started
from control.core.types import Decision, Settings
from control.journal.writer import Journal
from serving.model_config import ReloadKind

log = structlog.get_logger()


def action(
    change: Change,
    how: Outcome,
    seconds: float,
    *,
    revision: int,
    cause: ConchError | None = None,
) -> Action:
    """The record of a change; ``cause`` is why it was rolled back."""
    return Action(
        model=change.model,
        kind=change.kind,
        outcome=how,
        seconds=seconds,
        revision=revision,
        diff=change.diff,
        error=cause.message if cause else "",
        unavailable=isinstance(cause, TritonUnavailable),
        refused_rows=cause.rows if isinstance(cause, RowsRefused) else None,
    )


def applied(
    decision: Decision, before: Settings, result: Action | ConchError, *, at_s: float
) -> Applied | None:
    """The change that a decision asked for; None where nothing was tried.

    Args:
        decision: that asked for it.
        before: what was in force when it began.
        result: of the actuator.
        at_s: when it ended.
    """
    assert decision.desired is not None  # noqa: S101  # it was begun
    if isinstance(result, Edited):  # a person's file: what was wanted is no worse for it
        return None
    if isinstance(result, ServerGone):
        return undone(before, decision.desired, at_s=at_s)
    if isinstance(result, Action) and result.outcome is Outcome.UNCHANGED:
        return None
    change = Applied(
        at_s=at_s,
        settings=decision.desired,
        before=before,
        reload=isinstance(result, ApplyRejected),
        ok=False,
        undo=decision.reason is Reason.ROLLBACK,
        unavailable=isinstance(result, TritonUnavailable),
    )
    if not isinstance(result, Action):
        return change
    return replace(
        change,
        reload=result.kind is ReloadKind.RELOAD,
        ok=result.outcome is Outcome.APPLIED,
        seconds=result.seconds,
        unavailable=result.unavailable,
        refused_rows=result.refused_rows,
    )


def undone(good: Settings, bad: Settings, *, at_s: float) -> Applied:
    """A change that was taken back for what it did to the server: it is not tried again soon."""
    reload = not good.same_but_count(bad)
    return Applied(at_s=at_s, settings=good, before=bad, reload=reload, ok=True, undo=True)


def reloads(decision: Decision) -> bool:
    """Whether a second copy of the model is loaded for it."""
    if decision.applied is None or decision.desired is None:
        return False
    return decision.fresh or not decision.desired.same_but_count(decision.applied)


def said(error: BaseException) -> str:
    """An error in one line: its own words, or its type and text."""
    return error.message if isinstance(error, ConchError) else f"{type(error).__name__}: {error}"


def remembered(journal: Journal, model: str, began: Started) -> Started:
    """With what the journal knows of the model; a damaged part of it is as good as none."""
    try:
        began = replace(began, changes=journal.tried(model, since_s=began.at_s - 3600.0))
    except Exception as error:
        log.error("journal.changes_unreadable", model=model, error=said(error))
    try:
        return replace(began, learnt=journal.learnt(model))
    except Exception as error:
        log.error("journal.learnt_unreadable", model=model, error=said(error))
    return began
