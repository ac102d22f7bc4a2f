"""The response cache as stories: requests that repeat or do not, decisions out."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from control.core.load import windows
from control.core.load.cache_use import BLOCK_REQUESTS, LOOKUP_S, CacheUse, Trials
from control.core.memory.changes import Applied
from control.core.need.cached import advise
from control.core.policy import Policy
from control.core.reasons import Reason
from control.core.types import Observation, Settings
from serving.metrics import ModelCounters
from tests.unit.story import Story, a_policy, settings

OFF, ON = settings(), replace(settings(), response_cache=True)


def _policy(**changes: object) -> Policy:
    """One that lets the cache be switched, with a short watch."""
    return a_policy(**{"response_cache": True, "watch_s": 10.0, **changes})


@dataclass
class CachedStory(Story):
    """A story whose server has a cache that answers a share of the requests, where it is on.

    Attributes:
        hit_fraction: of the requests.
        lookup_s: of one request; None for a server that does not tell.
        has_cache: whether the server was started with one.
    """

    hit_fraction: float = 0.0
    lookup_s: float | None = None
    has_cache: bool = True

    def _serve(self, load_rps: float) -> None:
        on = self.applied.response_cache and self.has_cache
        hits = self.hit_fraction * load_rps if on else 0.0
        super()._serve(load_rps - hits)
        self.counters = replace(
            self.counters,
            success=self.counters.success + hits,
            cache_hits=self.counters.cache_hits + hits,
            cache_misses=self.counters.cache_misses + (load_rps - hits if on else 0.0),
            cache_s=self.counters.cache_s + load_rps * (self.lookup_s or 0.0),
        )

    @property
    def switches(self) -> list[bool]:
        """What the cache was switched to, in order."""
        changes = [d.desired for d in self.changes if d.reason is Reason.CACHE_SWITCH]
        return [desired.response_cache for desired in changes if desired is not None]


def test_requests_that_repeat_keep_the_cache_on() -> None:
    """A trial finds that most are hits, and it stays."""
    story = CachedStory(policy=_policy(), hit_fraction=0.8).passes(300, load_rps=100)
    assert story.switches == [True]
    assert story.last.terms["cache_hit_fraction"] == pytest.approx(0.8)
    assert story.last.reason is Reason.HOLD_STEADY


def test_requests_that_do_not_repeat_switch_it_off_again_for_an_hour() -> None:
    """On, 10 s and a block to fill it, a block to judge it, off; and tried again an hour later."""
    story = CachedStory(policy=_policy(), hit_fraction=0.0).passes(300, load_rps=100)
    assert story.switches == [True, False]
    on, off = (d.at_s for d in story.changes)
    assert 10 + BLOCK_REQUESTS / 100 <= off - on <= 10 + 2 * BLOCK_REQUESTS / 100 + 5
    assert story.last.terms["cache_hit_fraction"] == 0.0
    story.at_s = off + 3580.0
    story.passes(10, load_rps=100)
    assert story.switches == [True, False]
    story.passes(60, load_rps=100)
    assert story.switches == [True, False, True, False]


def _later(story: CachedStory, wait_s: float) -> CachedStory:
    """So long after the last trial began; a minute before, nothing was tried."""
    begun_s = story.state.cache.trials.begun_s
    assert begun_s is not None
    count = len(story.switches)
    story.at_s = begun_s + wait_s - 60.0
    story.passes(50, load_rps=100)
    assert len(story.switches) == count, wait_s
    return story.passes(80, load_rps=100)


def test_each_trial_in_vain_doubles_the_wait_for_the_next() -> None:
    """One hour, two, four and so on, up to a day; requests that never repeat cost two reloads."""
    story = CachedStory(policy=_policy(), hit_fraction=0.0).passes(100, load_rps=100)
    for number, hours in enumerate((1, 2, 4, 8, 16, 24, 24), start=1):
        assert story.switches == [True, False] * number
        _later(story, hours * 3600.0)
    assert story.switches == [True, False] * 8


def test_a_trial_that_paid_ends_the_doubling() -> None:
    """After two in vain, requests repeat for a while; when they stop, the wait is an hour again."""
    story = CachedStory(policy=_policy(), hit_fraction=0.0).passes(100, load_rps=100)
    _later(story, 3600.0)
    story.hit_fraction = 0.9
    _later(story, 7200.0)
    assert story.switches == [*[True, False] * 2, True]
    assert story.state.cache.trials.failed_count == 0
    story.hit_fraction = 0.0
    story.passes(30, load_rps=100)
    assert story.switches == [True, False] * 3
    story.at_s += 3600.0
    story.passes(100, load_rps=100)
    assert story.switches == [True, False] * 4
    _later(story, 3600.0)
    assert story.switches == [True, False] * 5


def test_only_a_trial_that_was_made_counts() -> None:
    """One that Triton refused does; one that met an outage, and any other change, does not."""
    tried = Applied(at_s=990.0, settings=ON, before=OFF, reload=True, ok=False)
    others = (
        replace(tried, unavailable=True),
        replace(tried, before=ON, settings=replace(ON, instances=2)),
        replace(tried, before=ON, settings=OFF),
    )
    state = Story().state
    for change in others:
        state = state.tried(change)
    assert state.cache.trials == Trials()
    assert state.tried(tried).cache.trials == Trials(failed_count=1, begun_s=990.0)


def test_a_clock_that_was_set_back_does_not_make_the_wait_longer() -> None:
    """A day back, and the wait of an hour is an hour from now."""
    story = CachedStory(policy=_policy(), hit_fraction=0.0, at_s=100_000.0)
    story.passes(100, load_rps=100)
    story.at_s -= 86_400.0
    story.passes(1, load_rps=100)
    assert story.state.cache.trials == Trials(failed_count=1, begun_s=story.at_s)
    _later(story, 3600.0)
    assert story.switches == [True, False] * 2


def test_a_cache_whose_hits_stop_is_switched_off() -> None:
    """The verdict is that of the newest block, and not of all time."""
    story = CachedStory(policy=_policy(), hit_fraction=0.9).passes(200, load_rps=100)
    story.hit_fraction = 0.0
    story.passes(30, load_rps=100)
    assert story.switches == [True, False]


def test_a_look_up_that_costs_more_than_its_hits_save_is_measured() -> None:
    """Three in ten of 5 ms are hits: 1.5 ms saved, and a large input takes 2 ms to look up."""
    story = CachedStory(policy=_policy(), hit_fraction=0.3, lookup_s=0.002)
    story.passes(100, load_rps=100)
    assert story.switches == [True, False]
    assert story.last.terms["cache_lookup_s"] == pytest.approx(0.002)
    cheap = CachedStory(policy=_policy(), hit_fraction=0.3, lookup_s=0.0001)
    assert cheap.passes(100, load_rps=100).switches == [True]


def test_a_server_without_a_cache_is_found_out_once() -> None:
    """Triton takes the setting and says nothing; no request is ever looked up."""
    story = CachedStory(policy=_policy(), hit_fraction=0.8, has_cache=False)
    story.passes(100, load_rps=100)
    assert story.switches == [True, False]
    assert story.last.terms["cache_absent"] == 1.0
    story.at_s += 7200.0
    story.passes(100, load_rps=100)
    assert story.switches == [True, False]


@pytest.mark.parametrize(
    "policy",
    [
        _policy(response_cache=False),
        _policy(reloads_per_hour=1),  # a trial may have to be taken back
    ],
)
def test_the_policy_forbids_a_trial(policy: Policy) -> None:
    """By its key, or by the hour's reloads."""
    assert CachedStory(policy=policy, hit_fraction=0.8).passes(100, load_rps=100).switches == []


def test_there_is_no_trial_in_an_overload() -> None:
    """A reload is dear then; with less load it is made."""
    story = CachedStory(policy=_policy(max_instances=1), hit_fraction=0.8)
    story.passes(100, load_rps=900)
    assert story.switches == []
    story.pending = 0.0
    assert story.passes(400, load_rps=100).switches == [True]


def test_settings_that_did_not_load_are_not_tried_again_for_an_hour() -> None:
    """Triton refuses a cache for a model of another kind."""
    refused = Applied(at_s=990.0, settings=ON, before=OFF, reload=True, ok=False)
    story = CachedStory(policy=_policy(blocked_s=60.0), hit_fraction=0.8)
    story.state = story.state.tried(refused)
    assert story.passes(200, load_rps=100).switches == []


def test_instances_are_for_what_misses_the_cache() -> None:
    """1,000/s need two instances; with four hits in five one is enough for the other 200."""
    policy = _policy()
    plain = CachedStory(policy=policy, obeys=False).passes(30, load_rps=1000)
    hits = CachedStory(policy=policy, obeys=False, applied=ON, hit_fraction=0.8)
    hits.passes(30, load_rps=1000)
    assert plain.last.terms["needed_instances"] == 2
    assert hits.last.terms["needed_instances"] == 1
    for term in ("fast_rps", "stable_rps"):
        assert hits.last.terms[term] == pytest.approx(200)
    assert hits.last.terms["need_rps"] <= 200


def _seen(at_s: float, applied: Settings, **counters: float) -> Observation:
    """A look at these counters."""
    return Observation(
        at_s=at_s,
        tick_id="t",
        counters=ModelCounters(**counters),
        statistics=None,
        applied=applied,
    )


def test_hits_of_a_copy_that_is_new_are_counted_from_zero() -> None:
    """A reload takes the old copy's counts with it."""
    old = _seen(0.0, ON, success=1000, cache_hits=900, cache_misses=100)
    new = _seen(1.0, ON, success=1100, cache_hits=70, cache_misses=30)
    interval = windows.interval(old, new, stale_s=10)
    assert interval is not None
    assert (interval.cache_hits, interval.cache_misses, interval.uncached) == (70, 30, 30)


@pytest.mark.parametrize(
    ("on", "hits", "rate_rps", "reload_cost_s", "may_try", "expected"),
    [
        (True, None, 100.0, 7.0, False, None),  # not judged yet
        (True, 0.02, 100.0, 7.0, False, None),  # 100 µs saved, 50 µs paid
        (True, 0.005, 100.0, 7.0, False, False),  # 25 µs saved
        (False, None, 100.0, 7.0, True, True),  # a trial
        (False, None, 100.0, 7.0, False, None),  # not now
        (False, None, 0.001, 7.0, True, None),  # too few requests for two reloads
        (False, 0.0, 100.0, 7.0, True, None),  # known not to pay
        (False, 0.5, 100.0, 7.0, True, True),  # known to pay
        (False, 0.02, 0.01, 7.0, True, None),  # pays for look-ups, not for reloads
    ],
)
def test_advise_compares_what_hits_save_with_what_they_cost(
    on: bool,
    hits: float | None,
    rate_rps: float,
    reload_cost_s: float,
    may_try: bool,
    expected: bool | None,
) -> None:
    """A request is 5 ms of work and a look-up 50 µs."""
    use = CacheUse(on=on, hit_fraction=hits, lookup_s=LOOKUP_S, judged_s=100.0)
    answer = advise(
        use,
        on=on,
        service_s=0.005,
        rate_rps=rate_rps,
        reload_cost_s=reload_cost_s,
        may_try=may_try,
        at_s=200.0,
    )
    assert answer is expected
