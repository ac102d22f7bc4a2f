"""What the loop remembers of one model between ticks: a value, replaced at every look."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from control.core.judgement.error_budget import ErrorBudget
from control.core.judgement.safety import Safety
from control.core.load import windows
from control.core.load.agreement import Agreement
from control.core.load.cache_use import CacheUse
from control.core.load.pace import Pace
from control.core.load.windows import Interval
from control.core.memory.bounds import CpuUse
from control.core.memory.changes import Applied, InFlight, loading_s, reloading_s
from control.core.memory.learning import taught
from control.core.policy import Policy
from control.core.service.learnt import Learnt
from control.core.service.versions import Versions
from control.core.types import Observation, Settings

Loads = tuple[tuple[float, float], ...]
HORIZON_S = 30.0
"""So long intervals are kept: for the widest window, and to tell how arrivals scatter."""
LONGER_TICK = 1.5
"""Ticks that take longer than the policy's limit are trusted up to this many times the last one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlState:
    """Memory of one model.

    Attributes:
        started_s: the first look after the last gap; None before it.
        last: the newest look.
        intervals: trusted ones, newest last.
        learnt: service times.
        loads: (at_s, requests/s), the newest last: what instances were needed for, each until as
            much came again.
        changes: what was tried in the last hour, newest last.
        settings_since_s: since when the batching settings in force are the same.
        planned_s: when the batching was planned last.
        in_flight: the change that is being applied, if any.
        peak_rps: the highest load on record: what was sure of it.
        short_since_s: since when more is needed than the budget allows; None where it allows it.
        budget: requests that met and missed the SLO lately.
        safety: the change that is being judged, what is undone and blocked.
        cache: what its response cache answered.
        versions: what is known of the versions that are not in force.
        gap_s: how long the gap before the newest look was; 0 where it came in time.
        owner: the settings of the owner's own configuration, else those that were found in force.
        owner_told: whether a look told of it.
        cpu: what its processes use of the CPU while it is busy.
        agreement: whether the counters and the statistics of the server agree.
        pace: of the looks, which a step of the clock breaks.
        looks: trusted ones in a row.
        memory: what a rule other than Conch's own remembers; a frozen value of its own type.
    """

    started_s: float | None = None
    last: Observation | None = None
    intervals: tuple[Interval, ...] = ()
    learnt: Learnt = field(default_factory=Learnt)
    loads: Loads = ()
    changes: tuple[Applied, ...] = ()
    settings_since_s: float = 0.0
    planned_s: float = 0.0
    in_flight: InFlight | None = None
    peak_rps: float = 0.0
    short_since_s: float | None = None
    budget: ErrorBudget = field(default_factory=ErrorBudget)
    safety: Safety = field(default_factory=Safety)
    cache: CacheUse = field(default_factory=CacheUse)
    versions: Versions = field(default_factory=Versions)
    gap_s: float = 0.0
    owner: Settings | None = None
    owner_told: bool = False
    cpu: CpuUse = field(default_factory=CpuUse)
    agreement: Agreement = field(default_factory=Agreement)
    pace: Pace = field(default_factory=Pace)
    looks: int = 0
    memory: object | None = None

    def absorb(self, seen: Observation, policy: Policy, *, keep_s: float = 0.0) -> ControlState:
        """The memory after one more look; intervals are kept for at least ``keep_s``.

        A look without a trusted interval is a gap: what was quiet before it proves nothing after
        it, so the idle time starts again. But for one that comes again and again: then the ticks
        are that long. A source that has no newer sample yet is no gap, nor is
        a look that failed: the counters are totals, so the next look tells what came meanwhile.
        """
        if self._same_sample(seen) or (self.last is not None and not _is_whole(seen)):
            return self
        if self.last is not None and seen.at_s < self.last.at_s:
            return self._set_back(seen.at_s, policy)._absorbed(seen, policy, keep_s)
        return self._absorbed(seen, policy, keep_s)

    def _absorbed(self, seen: Observation, policy: Policy, keep_s: float) -> ControlState:
        """The memory with a look that has a sample of its own."""
        new, gap_s = None, 0.0
        if self.last is not None:
            stale_s = max(policy.stale_s, LONGER_TICK * self.gap_s)
            new = windows.interval(self.last, seen, stale_s=stale_s)
            span_s = min(seen.sampled_s - self.last.sampled_s, seen.at_s - self.last.at_s)
            gap_s = span_s if span_s > policy.stale_s else 0.0
        agreement, pace, stepped = self.agreement, self.pace, False
        if new is not None:
            agreement = agreement.absorb(new, apart_s=seen.at_s - seen.sampled_s)
        if new is not None and not agreement.broken:
            followed, stepped = pace.absorb(new)
            pace = pace if agreement.doubtful else followed
        if stepped or agreement.broken:
            new = None
        gap = new is None
        versions, learnt = self.versions.followed(self.learnt, self.last, seen, policy)
        if (
            versions is self.versions
        ):  # summed over versions, statistics across a change are of both
            loading = self.in_flight is not None
            learnt = taught(self.learnt, new, policy, changes=self.changes, loading=loading)
        since_s = self.settings_since_s
        before = self.last.applied if self.last is not None else None
        if before is None or seen.applied is None or not before.same_but_count(seen.applied):
            since_s = seen.at_s
        return replace(
            self,
            started_s=seen.at_s if gap or self.started_s is None else self.started_s,
            last=seen,
            gap_s=gap_s,
            # Those before a contradiction was noticed may be of the same lie.
            intervals=windows.keep(
                () if agreement.broken else (*self.intervals, new) if new else self.intervals,
                window_s=max(policy.stable_window_s, HORIZON_S, keep_s),
                at_s=seen.sampled_s,
            ),
            learnt=learnt,
            versions=versions.after_gap() if gap else versions,
            agreement=agreement,
            pace=pace,
            looks=0 if gap else self.looks + 1,
            cpu=self.cpu.absorb(self.last, seen, busy_s=new.busy_s if new else 0.0),
            cache=self.cache.absorb(
                new,
                on=seen.applied is not None and seen.applied.response_cache,
                at_s=seen.at_s,
                fill_s=policy.watch_s,
            ),
            loads=() if gap else self.loads,
            settings_since_s=since_s,
            changes=tuple(c for c in self.changes if seen.at_s - 3600.0 < c.at_s <= seen.at_s),
            safety=self.safety.absorb(
                new,
                seen.applied,
                policy,
                burning=self.budget.burning(policy, at_s=seen.at_s),
                at_s=seen.at_s,
            ),
        )

    def _set_back(self, at_s: float, policy: Policy) -> ControlState:
        """The memory after the clock was set back: nothing in it is later than now.

        What waits for a time that lies an hour ahead would wait for an hour.
        """
        return replace(
            self,
            intervals=tuple(i for i in self.intervals if i.end_s < at_s),
            pace=replace(self.pace, odd_s=()),
            settings_since_s=min(self.settings_since_s, at_s),
            planned_s=min(self.planned_s, at_s),
            cache=replace(self.cache, trials=self.cache.trials.set_back(at_s)),
            safety=self.safety.set_back(at_s, blocked_s=policy.blocked_s),
        )

    def _same_sample(self, seen: Observation) -> bool:
        """Whether the look has the very counters of the last one."""
        return (
            self.last is not None
            and seen.counters_at_s is not None
            and self.last.counters_at_s == seen.counters_at_s
            and seen.counters is not None
        )

    def unchanged(self) -> ControlState:
        """The memory after a change that turned out to change nothing."""
        return replace(self, in_flight=None, safety=self.safety.unchanged())

    def begun(self, change: InFlight) -> ControlState:
        """The memory while a change is applied."""
        return replace(self, in_flight=change, safety=self.safety.begun())

    def load_s(self, policy: Policy) -> float:
        """How long an instance takes to load; the policy's word until something was measured."""
        return loading_s(self.changes, untold_s=policy.load_s)

    def reload_s(self, policy: Policy) -> float:
        """How long a reload takes; until one was measured, what an instance takes."""
        return reloading_s(self.changes, untold_s=self.load_s(policy))

    @property
    def planned_reloads(self) -> int:
        """Reloads of the last hour that changed more than the instance count."""
        return sum(change.reload and not change.is_copy for change in self.changes)

    def tried(self, change: Applied) -> ControlState:
        """The memory after a change was applied, or was refused and rolled back.

        A reload makes a new model object that counts from zero: no difference across it is meant.
        """
        last, cache = self.last, self.cache
        if change.tries_cache:
            cache = replace(cache, trials=cache.trials.begun(change.at_s))
        if change.reload and last is not None:
            last = replace(last, statistics=None)
        return replace(
            self,
            changes=(*self.changes, change),
            in_flight=None,
            last=last,
            cache=cache,
            safety=self.safety.refused(change.refused_rows).ended(
                change.settings, change.before, ok=change.ok, at_s=change.at_s, undo=change.undo
            ),
        )


def _is_whole(seen: Observation) -> bool:
    """Whether the look can begin or end an interval."""
    return seen.counters is not None and seen.applied is not None
