"""A change, and a minute in which all batches are slow: whose doing it was, as a whole story."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from control.core.memory.changes import Applied
from control.core.reasons import Reason
from control.core.service.learnt import ServiceTime
from control.core.types import Settings
from tests.unit.story import TRUE, Story, a_policy, settings

CALM, NOISY = 0.4, 0.9
"""Busy share of the host without and with a neighbour."""
SLOWER = 3.0
ONE, TWO = settings(1, batch=1), settings(2, batch=1)
SMALL, LARGE = settings(1, batch=8), settings(1, batch=32)


@dataclass
class Shared(Story):
    """A story whose batches take so many times as long: always, and with a second instance."""

    slower: float = 1.0
    crowded: float = 1.0

    @property
    def true(self) -> ServiceTime:
        """As slow as it is now."""
        return TRUE.scaled(self.slower * (self.crowded if self.applied.instances > 1 else 1.0))

    def _serve(self, load_rps: float) -> None:
        """With the times of the requests."""
        before, waited = self.counters.success, self.pending
        super()._serve(load_rps)
        done = self.counters.success - before
        self.counters = replace(
            self.counters,
            queue_s=self.counters.queue_s + (waited + self.pending) / 2,
            compute_infer_s=self.counters.compute_infer_s
            + done * self.true.of(self.applied.largest_batch),
        )

    def host(self, busy: float, slower: float) -> Shared:
        """From now on it is so busy, and its batches are so slow."""
        self.gauges = {"cpu_fraction": busy}
        self.slower = slower
        return self


def _changed(was: Settings, wanted: Settings, load_rps: float, *, crowded: float = 1.0) -> Shared:
    """Half a minute on a calm host, and then the change; nothing that is decided is done."""
    policy = a_policy(max_instances=2, idle_cost=0.0)
    story = Shared(policy=policy, applied=was, obeys=False, crowded=crowded)
    story.host(CALM, 1.0).passes(30, load_rps=load_rps)
    change = Applied(at_s=story.at_s, settings=wanted, before=was, reload=True, ok=True)
    story.state = replace(story.state, safety=story.state.safety.begun()).tried(change)
    story.applied = wanted
    return story


@pytest.mark.parametrize(
    ("was", "good", "load_rps"),
    [(ONE, TWO, 150.0), (SMALL, LARGE, 500.0)],
    ids=["SCALE_UP", "REBATCH"],
)
def test_a_minute_of_noise_throws_no_good_change_away(
    was: Settings, good: Settings, load_rps: float
) -> None:
    """Batches of each size take three times as long; a queue grows, and all miss the SLO."""
    story = _changed(was, good, load_rps).host(NOISY, SLOWER).passes(60, load_rps=load_rps)
    assert story.state.budget.burning(story.policy, at_s=story.at_s)
    story.host(CALM, 1.0).passes(60, load_rps=load_rps)
    assert Reason.ROLLBACK not in story.reasons
    assert story.state.safety.last_good == good
    assert not story.state.safety.blocked


def test_a_count_that_makes_batches_slow_is_taken_back() -> None:
    """On a host that is no busier two take six times as long: they carry a third of one."""
    story = _changed(ONE, TWO, 150.0, crowded=6.0).passes(30, load_rps=150.0)
    assert Reason.ROLLBACK in story.reasons
    assert story.state.safety.undo == ONE
    assert story.state.safety.forbids(TWO, at_s=story.at_s)
