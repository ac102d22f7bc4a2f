"""Changes that were tried or are being applied, and what they tell of loading times."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from statistics import median

from control.core.types import Settings

LOADS_LOOKED_AT = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """A change that was tried.

    Attributes:
        at_s: when it ended.
        settings: what was wanted.
        reload: whether it cost a full reload.
        ok: whether it is in force; a failed one was rolled back.
        seconds: how long it took.
        before: what was in force when it began; None where it is not known.
        undo: whether it was a rollback: ``before`` is then not tried again for a while.
        unavailable: whether it failed because Triton was not there: no fault of the settings.
        refused_rows: a batch of so many rows was refused by the model; None where none was.
    """

    at_s: float
    settings: Settings
    reload: bool
    ok: bool
    seconds: float = 0.0
    before: Settings | None = None
    undo: bool = False
    unavailable: bool = False
    refused_rows: int | None = None

    @property
    def is_copy(self) -> bool:
        """Whether it was a reload for nothing but another count; one of unknown origin is not."""
        if self.before is None:
            return False
        return self.reload and self.settings.same_but_count(self.before)

    @property
    def tries_cache(self) -> bool:
        """Whether it switches the response cache on; what met an outage has tried nothing."""
        if self.unavailable or not self.settings.response_cache:
            return False
        return self.before is None or not self.before.response_cache


@dataclass(frozen=True, slots=True, kw_only=True)
class InFlight:
    """A change that is being applied.

    Attributes:
        since_s: when it began.
        settings: what is wanted.
        before: what was in force when it began.
    """

    since_s: float
    settings: Settings
    before: Settings


def loading_s(changes: tuple[Applied, ...], *, untold_s: float) -> float:
    """How long an instance takes to load: the least of the last changes that added some.

    The least, as Triton answers an in-place update of a saturated model late, long after the
    instances work. ``untold_s`` until something was measured.
    """
    took = (
        change.seconds
        for change in reversed(changes)
        if change.ok
        and change.seconds > 0
        and change.before is not None
        and (change.reload or change.settings.loads_beside(change.before) > 0)
    )
    return min(itertools.islice(took, LOADS_LOOKED_AT), default=untold_s)


def reloading_s(changes: tuple[Applied, ...], *, untold_s: float) -> float:
    """How long a reload takes: the median of the last ones, else ``untold_s``."""
    took = [c.seconds for c in changes if c.ok and c.reload and c.seconds > 0]
    return median(took[-LOADS_LOOKED_AT:]) if took else untold_s
