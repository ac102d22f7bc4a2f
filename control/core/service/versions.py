"""What is known of the versions of a model: which one serves, and the service times of each.

Versions that may stand in for each other (``Policy.versions``) have service times of their own.
Triton's statistics are summed over them, so what is learnt belongs to the one in force, and is put
aside when another takes its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from control.core.policy import Policy
from control.core.service.learnt import Learnt
from control.core.types import Observation

GUESS = 0.6
"""A batch of a cheaper version that was never seen is expected to take this share of the time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Versions:
    """Memory of one model's versions.

    Attributes:
        others: service times of the versions that are not in force, by number.
        of: the version that the other service times, those in force, were last said to be of: at
            a change of it, or by the controller before this one. None where nobody said.
        short_since_s: since when no allowed count carries the need; None while one does.
        fits_since_s: since when the better version would carry it; None while it would not.
    """

    others: Mapping[int, Learnt] = field(default_factory=dict)
    of: int | None = None
    short_since_s: float | None = None
    fits_since_s: float | None = None

    def followed(
        self, learnt: Learnt, before: Observation | None, seen: Observation, policy: Policy
    ) -> tuple[Versions, Learnt]:
        """The memory, and the service times of the version that serves at this look.

        Args:
            learnt: service times of the version that served at the look ``before``.
            before: the last look; None for the first, which finds what was learnt last: of the
                version that served then, where that was saved.
            seen: this look.
            policy: names the versions; others are not told apart.
        """
        old, new = self.learning(before), served(seen)
        if old == new or old not in policy.versions or new not in policy.versions:
            return self, learnt
        assert old is not None and new is not None  # noqa: PT018  # both are in the policy
        now = learnt_of(self, learnt, old, new, policy, threads=seen.threads)
        others = {v: other for v, other in self.others.items() if v != new}
        if learnt.seen:
            others[old] = learnt
        return Versions(others=others, of=new), now

    def on_device(self, times: float) -> Versions:
        """The memory where the versions in force and all others are on the same device."""
        if all(other.times == times for other in self.others.values()):
            return self
        others = {version: other.on_device(times) for version, other in self.others.items()}
        return replace(self, others=others)

    def learning(self, last: Observation | None) -> int | None:
        """The version that the service times in force are of, at the last look; None if unknown."""
        now = served(last) if last is not None else None
        return self.of if now is None else now

    def after_gap(self) -> Versions:
        """The memory after a gap: how long anything has lasted is not known."""
        return replace(self, short_since_s=None, fits_since_s=None)


def served(seen: Observation) -> int | None:
    """The version that answers: the one pinned, else the highest on disk; None if neither is known.

    Triton sends a request without a version to the highest one that it serves.
    """
    if seen.applied is not None and seen.applied.version is not None:
        return seen.applied.version
    return max(seen.versions, default=None)


def allowed(seen: Observation, policy: Policy) -> int | None:
    """The best version that the budget lets the model hold; None where it does not say."""
    return next((v for v in policy.versions if v in (seen.may_load or ())), None)


def learnt_of(
    memory: Versions,
    learnt: Learnt,
    now: int | None,
    wanted: int | None,
    policy: Policy,
    *,
    threads: int,
) -> Learnt:
    """Service times of the version ``wanted`` while ``now`` is in force with ``learnt``.

    Those of a version never seen are the present curve, by ``GUESS`` for each step down. The slow
    seconds are the machine's: those of now.
    """
    if wanted is None or now == wanted or now not in policy.versions:
        return learnt
    if wanted in memory.others:
        return replace(memory.others[wanted], slow=learnt.slow)
    surface = learnt.surface(threads=threads, cores=policy.cores)
    curve = surface.curve.scaled(surface.threads_factor) if surface else learnt.sibling
    if curve is None or wanted not in policy.versions:
        return Learnt(slow=learnt.slow)
    steps = policy.versions.index(wanted) - policy.versions.index(now)
    return Learnt(sibling=curve.scaled(GUESS**steps), slow=learnt.slow)
