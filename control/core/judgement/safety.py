"""What keeps a model safe between looks: the watched change, the undo, and what is blocked.

One field of the state, replaced at each event. Order within a look: ``absorb`` with the new
interval, and ``undo`` before any other proposal. ``begun`` and ``ended`` come with the events.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from control.core.judgement.judge import Verdict, Watch, fails, judge
from control.core.judgement.period import Period
from control.core.load.windows import Interval
from control.core.policy import Policy
from control.core.types import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Settings that are not tried again before ``until_s``."""

    settings: Settings
    until_s: float
    reload: bool = False

    def forbids(self, wanted: Settings, *, at_s: float) -> bool:
        """Whether these settings are blocked now; a reload's batching is at any count."""
        if at_s >= self.until_s:
            return False
        if self.reload:
            return wanted.same_but_count(self.settings)
        return wanted == self.settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Safety:
    """Memory of one model's guard.

    Attributes:
        recent: what was seen of the present settings; old seconds fade.
        watch: the change that is being judged.
        verdict: of the last change that was judged.
        last_good: the last settings that were not worse.
        undo: what a rollback must bring back; None when there is nothing to undo.
        blocked: settings that were worse.
        changed_s: when the last change ended.
        burns: whether only changes that add capacity are allowed now.
        before: what was seen before the change that is in flight; None without one.
        owed: settings that the budget forces; they are worse for the model and nobody's fault.
        refused_rows: the smallest batch that the model has refused; None where it refused none.
    """

    recent: Period = field(default_factory=Period)
    watch: Watch | None = None
    verdict: Verdict | None = None
    last_good: Settings | None = None
    undo: Settings | None = None
    blocked: tuple[Block, ...] = ()
    changed_s: float | None = None
    burns: bool = False
    before: Period | None = None
    owed: Settings | None = None
    refused_rows: int | None = None

    def absorb(
        self,
        new: Interval | None,
        applied: Settings | None,
        policy: Policy,
        *,
        burning: bool,
        at_s: float,
    ) -> Safety:
        """The memory after one more look.

        Args:
            new: the interval; None for one that cannot be trusted.
            applied: what is in force; None where that is not known.
            policy: SLO and times.
            burning: whether the error budget burns (``ErrorBudget.burning``).
            at_s: of the look.
        """
        blocked = tuple(block for block in self.blocked if block.until_s > at_s)
        known = self
        if burning != self.burns or len(blocked) != len(self.blocked):
            known = replace(self, blocked=blocked, burns=burning)
        in_flight = self.before is not None
        if applied is None:
            return known
        if not in_flight:  # while a change is, either settings may be in force
            known = known._followed(applied, at_s=at_s)
        if new is None:
            return known
        settled = self.changed_s is None or new.start_s >= self.changed_s + policy.settle_s
        if settled and not in_flight:
            keep = 0.5 ** (new.span_s / policy.stable_window_s)
            recent = known.recent.faded(keep)
            recent = recent.plus(new, slo_s=policy.slo_s, full_round=applied.full_round)
            known = replace(known, recent=recent)
        watch = known.watch
        if watch is None or (in_flight and not watch.reload):
            return known
        known = replace(known, watch=watch.with_interval(new, policy))
        return known if in_flight else known._judged(policy, at_s=at_s)

    def rollback_of(self, applied: Settings) -> Settings | None:
        """What a rollback should bring into force now; None when there is nothing to undo.

        Where the batching goes back, instances that were added meanwhile stay: taking them away is
        the business of the goal.
        """
        if self.undo is None or applied == self.undo:
            return None
        if applied.same_but_count(self.undo):
            return self.undo
        return replace(self.undo, instances=max(self.undo.instances, applied.instances))

    def forbids(self, wanted: Settings, *, at_s: float) -> bool:
        """Whether the settings were judged worse a short while ago."""
        return any(block.forbids(wanted, at_s=at_s) for block in self.blocked)

    def refused(self, rows: int | None) -> Safety:
        """With a batch of so many rows that the model has refused."""
        if rows is None:
            return self
        known = self.refused_rows
        return replace(self, refused_rows=rows if known is None else min(known, rows))

    def begun(self) -> Safety:
        """While a change is applied: what was seen until now is its *before*."""
        return replace(self, before=self.recent)

    def unchanged(self) -> Safety:
        """After a change that turned out to change nothing, or that failed and was undone."""
        return replace(self, before=None)

    def ended(
        self, settings: Settings, was: Settings | None, *, ok: bool, at_s: float, undo: bool = False
    ) -> Safety:
        """After a change: its watch begins, unless it is a rollback or it failed.

        A change of the count does not end the watch of a change of the batching: a bad batching
        must not escape because instances were added to carry it, or were taken back.

        Args:
            settings: that are in force now where it is ``ok``.
            was: what was in force before.
            ok: whether it was done.
            at_s: when it ended.
            undo: whether it took back another change: ``was`` is never gone back to then.
        """
        after = replace(self.unchanged(), changed_s=at_s, recent=Period(), owed=None)
        if not ok:
            return after
        if settings == self.owed:
            return replace(after, watch=None, undo=None, last_good=settings)
        if self.undo is not None and settings.same_but_count(self.undo):
            return replace(after, undo=None, watch=None, last_good=settings)
        watch = self.watch
        if watch is not None and watch.reload and settings.same_but_count(watch.settings):
            return replace(after, watch=replace(watch, settings=settings))
        if undo:
            return replace(after, undo=None, watch=None, last_good=settings)
        good = self.last_good or was
        if good is None or settings == good:
            return replace(after, watch=None)
        seen = self.before or Period()
        if watch is not None and seen.completed < 1:
            seen = watch.before  # nothing was seen between the two
        if was is not None and settings.version != was.version:
            seen = replace(seen, sizes={})  # what another model takes is no measure
        return replace(after, watch=Watch(since_s=at_s, settings=settings, good=good, before=seen))

    def set_back(self, at_s: float, *, blocked_s: float) -> Safety:
        """The memory after the clock was set back: nothing in it waits for a time far ahead."""
        watch, changed_s = self.watch, self.changed_s
        return replace(
            self,
            changed_s=None if changed_s is None else min(changed_s, at_s),
            watch=None if watch is None else replace(watch, since_s=min(watch.since_s, at_s)),
            blocked=tuple(
                replace(block, until_s=min(block.until_s, at_s + blocked_s))
                for block in self.blocked
            ),
        )

    def _followed(self, applied: Settings, *, at_s: float) -> Safety:
        """The memory where somebody else may have changed the settings: theirs are good."""
        if self.watch is not None:
            ours = applied == self.watch.settings
        elif self.undo is not None:
            ours = self.forbids(applied, at_s=at_s)
        else:
            return self if applied == self.last_good else replace(self, last_good=applied)
        if ours:
            return self
        return replace(self, watch=None, undo=None, last_good=applied, recent=Period())

    def _judged(self, policy: Policy, *, at_s: float) -> Safety:
        """The memory with the watch judged, where that can be done now."""
        watch = self.watch
        assert watch is not None  # the caller says so
        verdict = judge(watch, policy, at_s=at_s)
        if verdict is None:
            return self
        known = replace(self, watch=None, verdict=verdict)
        if verdict is not Verdict.WORSE:
            return replace(known, last_good=watch.settings)
        if watch.raised_batch and fails(watch):
            known = known.refused(watch.settings.max_batch_size)
        block = Block(settings=watch.settings, until_s=at_s + policy.blocked_s, reload=watch.reload)
        return replace(
            known,
            undo=watch.good,
            last_good=watch.good,
            blocked=(*known.blocked, block),
        )
