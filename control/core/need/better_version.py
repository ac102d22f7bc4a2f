"""Quality in a rush: a cheaper version of the model in an overload, and the better one afterwards.

Theory of operation. The owner names versions that may stand in for each other, best first. Where no
allowed instance count carries the need, the next cheaper one takes over. A cheaper version with a
lower number is loaded beside the better one in good time: requests go to the highest version that
is served, so the better one is only dropped, which Triton does at once whatever waits. Any other is
loaded when it is needed. One that was never seen is a probe: its service times are guessed from the
present ones, and if it turns out to take as long, the better one comes back and the probe is not
repeated. The way back is one step at a time, once the better version would have carried the need
with something to spare for some loading times: a load between the two capacities stays with the
cheaper.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from control.core.judgement.error_budget import missed_fraction
from control.core.memory.state import ControlState
from control.core.need.wanted import Wanted
from control.core.policy import Policy
from control.core.queue_model.knowledge import Knowledge, fewest
from control.core.reasons import Reason
from control.core.service.learnt import Learnt
from control.core.service.versions import Versions, learnt_of, served
from control.core.types import Observation, Settings

SHORT_FOR_S = 2.0
"""An overload that lasts this long is answered by a cheaper version; a great one at once."""
GREAT = 1.2
"""An overload is great in a panic, or where surely this many times the load comes that the most
instances carry."""
CHEAPER = 0.9
"""A version that was seen must take less than this share of the time to be changed to."""
AS_DEAR = 0.97
"""The version in force goes when it takes this share of the time of a better one, or more."""
LOADS_KEPT = 2.0
"""A better version must have carried the load for this many loading times to come back: about as
long as a way up in vain takes. Twice as many after each one that was in vain."""
ONSET_S = 0.5
"""So long requests are late when a rush begins; a stay in which they are more than the budgeted
share was in vain."""
TO_SPARE = 1.05
"""A better version must carry this many times the load to come back."""
EVIDENT_BATCHES = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What the versions offer at this look.

    Attributes:
        memory: with what was seen of the versions.
        change: another version that should serve; None where the one in force is right.
        terms: the numbers that were used.
        capacities: Λ by instance count of each version, where the budget limits what is loaded.
    """

    memory: Versions
    change: Change | None = None
    terms: Mapping[str, float] = field(default_factory=dict)
    capacities: Mapping[int, Mapping[int, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Another version, as it is meant.

    Attributes:
        reason: why.
        settings: with the version.
        adds_capacity: whether it is there to carry more.
    """

    reason: Reason
    settings: Settings
    adds_capacity: bool


def look(
    state: ControlState, seen: Observation, applied: Settings, want: Wanted, known: Knowledge
) -> Outlook:
    """Whether another version should serve."""
    policy, now = known.policy, served(seen)
    terms = {"version": float(applied.version or 0)}
    order = [v for v in policy.versions if not seen.versions or v in seen.versions]
    if now is None or now not in order or len(order) < 2:
        return Outlook(memory=state.versions.after_gap(), terms=terms)
    memory = state.versions.on_device(known.learnt.times)
    ladder = _Ladder(
        order=order, here=order.index(now), memory=memory, known=known, may_load=seen.may_load
    )
    most = policy.max_instances if seen.cap is None else min(policy.max_instances, seen.cap)
    allowed = range(policy.min_instances, max(most, policy.min_instances) + 1)
    most_rps = max(want.capacities[count] for count in {*allowed, applied.instances})
    # Long windows still hold a rush that is over, and what waits may be left of a loading.
    now_rps = min(want.demand.sized_rps(most_rps), want.demand.newest_at_most_rps)
    short = most_rps < now_rps and _hurts(state, want, known)
    better = _better(ladder, applied, want, allowed)
    fits = better is not None and better.fits and not want.panic
    memory = replace(
        memory,
        short_since_s=_since(memory.short_since_s, short, seen.at_s),
        fits_since_s=_since(memory.fits_since_s, fits, seen.at_s),
    )
    if better is not None:
        terms["better_version_capacity_rps"] = better.capacity_rps
    great = want.panic or want.demand.load_rps > GREAT * most_rps
    urgent = great or _lasted(memory.short_since_s, seen.at_s) >= SHORT_FOR_S
    cheaper = ladder.cheaper(applied) if short and urgent else None
    change = None
    if (as_dear := ladder.as_dear(applied)) is not None and ladder.allows(as_dear):
        change = ladder.change(Reason.QUALITY_UP, applied, as_dear, adds_capacity=True)
    elif cheaper is not None:
        # The most instances do not carry it: version and count are one change.
        more = replace(applied, instances=max(applied.instances, min(want.needed, allowed[-1])))
        change = ladder.change(Reason.QUALITY_DOWN, more, cheaper, adds_capacity=True)
    elif (
        better is not None
        and ladder.allows(better.version)
        and _lasted(memory.fits_since_s, seen.at_s) >= _wait_s(state, want, policy)
    ):
        more = replace(applied, instances=max(better.instances, applied.instances))
        change = ladder.change(Reason.QUALITY_UP, more, better.version, adds_capacity=False)
    elif not short:
        change = ladder.stand_by(applied)
    capacities = {} if seen.may_load is None else ladder.capacities(applied)
    return Outlook(memory=memory, change=change, terms=terms, capacities=capacities)


def _wait_s(state: ControlState, want: Wanted, policy: Policy) -> float:
    """For how long the better version must have carried the load.

    Example:
        2 s to load: 4 s; 16 s where the last two stays were ended by a rush within 50 s, at a
        target of 99 %.
    """
    worth_s, in_vain = ONSET_S / max(1e-6, 1.0 - policy.slo_target_fraction), 0
    for stay, ended in reversed(list(itertools.pairwise(_moves(state, policy)))):
        if not stay.up or ended.up:
            continue
        if ended.at_s - stay.at_s >= worth_s:
            break
        in_vain += 1
    return LOADS_KEPT * want.load_s * 2.0**in_vain


class _Move(NamedTuple):
    """A change of the version that serves."""

    at_s: float
    up: bool


def _moves(state: ControlState, policy: Policy) -> list[_Move]:
    """Those of the last hour, in order; from a version that nobody pinned it is not known."""
    order, found = policy.versions, []
    for change in state.changes:
        old = change.before.version if change.ok and change.before else None
        new = change.settings.version
        if old != new and old in order and new in order:
            found.append(_Move(change.at_s, up=order.index(new) < order.index(old)))
    return found


def _hurts(state: ControlState, want: Wanted, known: Knowledge) -> bool:
    """Whether requests wait for longer than a round of batches, or too many miss the SLO.

    A prediction alone costs no quality: at a low load the times of large batches are a guess.
    """
    if want.demand.excess > 0 or not state.intervals:
        return want.demand.excess > 0
    missed = missed_fraction(state.intervals[-1], slo_s=known.policy.slo_s)
    return missed > 1.0 - known.policy.slo_target_fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class _Better:
    """The next better version: the instances it would take, what it carries at best, whether it
    fits with something to spare."""

    version: int
    instances: int
    capacity_rps: float
    fits: bool


def _better(ladder: _Ladder, applied: Settings, want: Wanted, allowed: range) -> _Better | None:
    """What the next better version would do now; None where the best is in force."""
    version = ladder.better(applied)
    if version is None:
        return None
    known, policy = ladder.known, ladder.known.policy
    known = replace(known, learnt=ladder.learnt(version))
    threads = applied.threads or known.threads
    # Beyond one instance more than it was ever seen with, its capacity is a guess.
    sure = max(known.learnt.trusted_up_to(threads, policy.cores), applied.instances)
    counts = [count for count in allowed if count <= sure] or [allowed[0]]
    every = known.capacities(applied)
    carried = {count: every[count] for count in counts}
    need_rps = TO_SPARE * want.demand.now_at_most_rps  # at each look, for some loading times
    count = fewest(carried, need_rps)
    return _Better(
        version=version,
        instances=count,
        capacity_rps=max(carried.values()),
        fits=carried[count] >= need_rps,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ladder:
    """The versions on disk, best first; ``here`` is the one in force.

    ``may_load`` are those that the budget has memory for; None where it does not say.
    """

    order: list[int]
    here: int
    memory: Versions
    known: Knowledge
    may_load: tuple[int, ...] | None = None

    def allows(self, version: int) -> bool:
        """Whether the budget has memory for this version, or for a better one."""
        if self.may_load is None:
            return True
        most = min((self.order.index(v) for v in self.may_load if v in self.order), default=0)
        return self.order.index(version) >= most

    def capacities(self, applied: Settings) -> dict[int, Mapping[int, float]]:
        """Λ by instance count of each version, guessed where it was never seen."""
        return {
            version: replace(self.known, learnt=self.learnt(version)).capacities(applied)
            for version in self.order
        }

    def learnt(self, version: int) -> Learnt:
        """Service times of one of them, guessed where it was never seen."""
        known, now = self.known, self.order[self.here]
        return learnt_of(
            self.memory, known.learnt, now, version, known.policy, threads=known.threads
        )

    def change(
        self, reason: Reason, settings: Settings, version: int, *, adds_capacity: bool
    ) -> Change:
        """Another version, with the cheaper ones that are loaded."""
        loaded = {*settings.loaded, self.order[self.here]}
        cheaper = self.order[self.order.index(version) + 1 :]
        standby = tuple(sorted(v for v in cheaper if v in loaded and v < version))
        if self.may_load is not None:
            standby = tuple(v for v in standby if v in self.may_load)
        wanted = replace(settings, version=version, standby=standby)
        return Change(reason=reason, settings=wanted, adds_capacity=adds_capacity)

    def stand_by(self, applied: Settings) -> Change | None:
        """The next cheaper one beside the one in force; None where it is, or cannot be.

        Triton asks the highest that is served.
        """
        here, below = self.order[self.here], self._next_below(applied)
        if below is None or below > here or below in applied.standby:
            return None
        if self.may_load is not None and below not in self.may_load:
            return None
        standby = tuple(sorted({*applied.standby, below}))
        wanted = replace(applied, version=here, standby=standby)
        return Change(reason=Reason.QUALITY_STANDBY, settings=wanted, adds_capacity=False)

    def cheaper(self, applied: Settings) -> int | None:
        """The next cheaper one that is not known to take about as long; None without one.

        The version in force must have been seen at work: one probe at a time.
        """
        if not _evident(self.learnt(self.order[self.here])):
            return None
        return self._next_below(applied)

    def _next_below(self, applied: Settings) -> int | None:
        """The next cheaper one that is not known to take about as long."""
        for below in range(self.here + 1, len(self.order)):
            share = self._share(below, self.here, applied)
            if share is None or share < CHEAPER:
                return self.order[below]
        return None

    def better(self, applied: Settings) -> int | None:
        """The next better one that is of use itself; None where the best is in force."""
        for above in range(self.here - 1, -1, -1):
            if self._as_dear_as(above, applied) is None:
                return self.order[above]
        return None

    def as_dear(self, applied: Settings) -> int | None:
        """A better one that takes no longer than the one in force; None without one."""
        found = self._as_dear_as(self.here, applied)
        return None if found is None else self.order[found]

    def _as_dear_as(self, index: int, applied: Settings) -> int | None:
        """The best one that takes no longer than the one at ``index``."""
        for above in range(index):
            share = self._share(index, above, applied)
            if share is not None and share >= AS_DEAR:
                return above
        return None

    def _share(self, cheaper: int, better: int, applied: Settings) -> float | None:
        """ℓ(B) of one as a share of the other's; None where one of them was not seen enough."""
        full, times = applied.largest_batch, []
        for index in (cheaper, better):
            learnt = self.learnt(self.order[index])
            if not _evident(learnt):
                return None
            known = replace(self.known, learnt=learnt)
            threads = applied.threads or known.threads
            times.append(known.service(applied.instances, threads).of(full))
        return times[0] / times[1] if times[1] > 0 else None


def _evident(learnt: Learnt) -> bool:
    """Whether enough batches were seen to compare a version with another."""
    return sum(at.summary.batches for at in learnt.seen.values()) >= EVIDENT_BATCHES


def _lasted(since_s: float | None, at_s: float) -> float:
    """For how long something has been true; 0 where it is not."""
    return 0.0 if since_s is None else at_s - since_s


def _since(before_s: float | None, true: bool, at_s: float) -> float | None:
    """Since when it is true, or None."""
    if not true:
        return None
    return at_s if before_s is None else before_s
