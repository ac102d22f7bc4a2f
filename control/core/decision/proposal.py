"""A proposal: what one proposer would do about a look, before the guard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from control.core.reasons import Clamp, Reason
from control.core.types import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What should be in force, and how it is meant.

    Attributes:
        reason: why.
        settings: what is wanted; those in force for a hold.
        fresh: by a second copy, where an in-place update would do.
        adds_capacity: whether it is meant to carry more; None for "if it has more instances". Such
            a change waits for no cooldown and no budget of changes, and passes while the error
            budget burns: it only costs money, and waiting costs the SLO.
        undo: whether it takes back a change. It waits for no cooldown and no budget of reloads or
            changes, and may take any step down. One that failed waits twice as long before each
            further try. None goes back to what was taken back itself.
        trusted: whether any count may be acted upon; else one more than was ever seen.
        or_next: whether the next proposer is asked where the guard holds this one.
        clamps: what the proposer itself held back.
        terms: the proposer's own numbers, for people.
    """

    reason: Reason
    settings: Settings
    fresh: bool = False
    adds_capacity: bool | None = None
    undo: bool = False
    trusted: bool = False
    or_next: bool = False
    clamps: tuple[Clamp, ...] = ()
    terms: Mapping[str, float] = field(default_factory=dict)
