"""What the guard lets through."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control.core.judgement.safety import Block, Safety
from control.core.memory.changes import Applied
from control.core.memory.state import ControlState
from control.core.reasons import Clamp
from control.core.types import Observation, Settings
from tests.unit.guarded import guarded
from tests.unit.story import a_policy, in_flight, settings

NOW_S = 5000.0
GOOD, BAD = settings(2, batch=8), settings(2, batch=32)


def _tried(wanted: Settings, *, ago_s: float, reload: bool = False, ok: bool = True) -> Applied:
    return Applied(at_s=NOW_S - ago_s, settings=wanted, reload=reload, ok=ok)


def _guard(wanted: Settings, applied: Settings, *changes: Applied, **policy: object):
    return guarded(wanted, applied, ControlState(changes=changes), a_policy(**policy), at_s=NOW_S)


def test_guard_lowers_to_max_instances() -> None:
    """No proposal goes above the policy."""
    seen = _guard(settings(9), settings(2))
    assert seen.settings.instances == 4
    assert seen.clamps == (Clamp.MAX_INSTANCES,)


def test_guard_raises_to_min_instances() -> None:
    """No proposal goes below the policy."""
    seen = _guard(settings(1), settings(2), min_instances=2)
    assert seen.settings.instances == 2
    assert seen.clamps == (Clamp.MIN_INSTANCES,)


def test_guard_lets_a_scale_up_pass_in_the_cooldown() -> None:
    """Waiting would cost the SLO."""
    seen = _guard(settings(3), settings(2), _tried(settings(2), ago_s=1))
    assert seen.settings.instances == 3
    assert seen.clamps == ()


def test_guard_holds_a_scale_down_and_a_reload_in_the_cooldown() -> None:
    """After a change the system must settle first; it says when."""
    before = _tried(settings(2), ago_s=5)
    down = _guard(settings(1), settings(2), before, cooldown_s=15.0)
    assert down.settings == settings(2)
    assert down.clamps == (Clamp.COOLDOWN,)
    assert down.may_act_at_s == NOW_S + 10
    rebatch = _guard(settings(3, batch=16), settings(2), before, cooldown_s=15.0)
    assert rebatch.clamps == (Clamp.COOLDOWN,)


def test_guard_keeps_the_reload_budget() -> None:
    """Four reloads in the hour are enough; instances still move."""
    spent = [_tried(settings(1), ago_s=600 * n, reload=True) for n in range(1, 5)]
    assert _guard(settings(1, batch=16), settings(1), *spent).clamps == (Clamp.RELOAD_BUDGET,)
    assert _guard(settings(2), settings(1), *spent).clamps == ()


def test_guard_does_not_try_again_what_failed() -> None:
    """A target that was rolled back is blocked for a while, then allowed."""
    bad = settings(1, batch=32)
    recent = _tried(bad, ago_s=60, reload=True, ok=False)
    assert _guard(bad, settings(1), recent).clamps == (Clamp.BLOCKED,)
    assert _guard(bad, settings(1), replace(recent, at_s=NOW_S - 700)).clamps == ()


def _copied(*, ago_s: float) -> Applied:
    """A scale up that was made by a second copy."""
    return replace(_tried(settings(2), ago_s=ago_s, reload=True), before=settings(1))


def test_guard_makes_a_fresh_scale_up_in_place_when_copies_are_spent() -> None:
    """The instances come all the same."""
    policy = a_policy(copies_per_hour=4)
    spent = tuple(_copied(ago_s=600 * n) for n in range(1, 5))
    for changes, clamps in ((spent, (Clamp.RELOAD_BUDGET,)), (spent[1:], ())):
        state = ControlState(changes=changes)
        seen = guarded(settings(2), settings(1), state, policy, at_s=NOW_S, fresh=True)
        assert (seen.settings.instances, seen.fresh) == (2, not clamps)
        assert seen.clamps == clamps


def test_guard_counts_planned_reloads_and_second_copies_apart() -> None:
    """An hour of scale ups leaves the batching free, and four new batchings the scale ups."""
    copies = tuple(_copied(ago_s=300 * n) for n in range(1, 11))
    assert _guard(settings(1, batch=16), settings(1), *copies).clamps == ()
    planned = tuple(
        replace(_tried(settings(1, batch=16), ago_s=600 * n, reload=True), before=settings(1))
        for n in range(1, 5)
    )
    state = ControlState(changes=planned)
    assert guarded(settings(2), settings(1), state, a_policy(), at_s=NOW_S, fresh=True).fresh
    again = _guard(settings(1, batch=32), settings(1), *planned)
    assert again.clamps == (Clamp.RELOAD_BUDGET,)


def test_guard_only_waits_after_triton_was_not_there() -> None:
    """Nothing is wrong with the target; each further outage in a row doubles the wait."""

    def tried(*ago_s: float, outage: bool = True, wanted: int = 3):
        changes = tuple(
            replace(
                _tried(settings(2), ago_s=ago, ok=False), before=settings(1), unavailable=outage
            )
            for ago in ago_s
        )
        return _guard(settings(wanted), settings(1), *changes, cooldown_s=5.0)

    assert tried(60, outage=False).clamps == (Clamp.BLOCKED,)
    assert tried(5).clamps == ()
    assert tried(5, wanted=2).clamps == ()
    held = tried(4)
    assert (held.clamps, held.may_act_at_s) == ((Clamp.COOLDOWN,), NOW_S + 1.0)
    assert tried(40, 10).clamps == ()
    assert tried(40, 9).clamps == (Clamp.COOLDOWN,)
    assert tried(60, 40, 19).clamps == (Clamp.COOLDOWN,)
    assert tried(*range(3999, 598, -10)).clamps == (Clamp.COOLDOWN,)
    assert tried(*range(4000, 599, -10)).clamps == ()


def test_guard_tries_a_rollback_that_fails_ever_more_seldom() -> None:
    """One that cannot load is no reason for 120 reloads in ten minutes."""
    policy = a_policy(cooldown_s=5.0, blocked_s=600.0)
    changes: list[Applied] = []
    for at_s in range(1200):
        state = ControlState(changes=tuple(changes))
        back = guarded(GOOD, BAD, state, policy, at_s=float(at_s), undo=True)
        if back.settings == GOOD:
            failed = Applied(at_s=at_s, settings=GOOD, before=BAD, reload=True, ok=False, undo=True)
            changes.append(failed)
    waits = [later.at_s - sooner.at_s for sooner, later in itertools.pairwise(changes)]
    assert waits == [5, 10, 20, 40, 80, 160, 320]
    done = replace(changes[-1], at_s=1200.0, ok=True)
    state = ControlState(changes=(*changes, done, replace(done, at_s=1201.0, ok=False)))
    assert guarded(GOOD, BAD, state, policy, at_s=1206.0, undo=True).settings == GOOD


def test_guard_allows_one_change_at_a_time() -> None:
    """While one is in flight everything holds, even a scale up."""
    seen = guarded(
        settings(3),
        settings(1),
        ControlState(in_flight=in_flight(settings(2))),
        a_policy(),
        at_s=NOW_S,
    )
    assert seen.settings == settings(1)
    assert seen.clamps == (Clamp.CHANGE_IN_FLIGHT,)


def _seen(**changes: object) -> Observation:
    base = Observation(at_s=NOW_S, tick_id="t", counters=None, statistics=None, applied=settings(2))
    return replace(base, **changes)


GB = 2**30


@pytest.mark.parametrize(
    ("wanted", "free", "lets", "fresh"),
    [
        (settings(4), 2.5 * GB, 4, False),  # two more take 2.4 GB
        (settings(4), 2.3 * GB, 3, False),
        (settings(4), 1.1 * GB, 2, False),
        (settings(4), 4.9 * GB, 4, True),  # a fresh copy of four takes 4.8
        (settings(2, batch=16), 2.5 * GB, 2, False),
        (settings(2, batch=16), 2.3 * GB, 2, False),
        (settings(1), 0.0, 1, False),
    ],
)
def test_guard_looks_for_memory(wanted: Settings, free: float, lets: int, fresh: bool) -> None:
    """A copy takes 1.2 times what one took; a scale up in place only the added ones."""
    seen = guarded(
        wanted,
        settings(2),
        ControlState(),
        a_policy(),
        at_s=NOW_S,
        fresh=wanted.instances == 4,
        seen=_seen(memory_free_bytes=int(free), memory_copy_bytes=GB),
    )
    assert (seen.settings.instances, seen.fresh) == (lets, fresh)
    held = wanted == settings(2, batch=16) and free < 2.4 * GB
    assert (seen.settings == settings(2)) == (held or lets == 2 != wanted.instances)
    less = held or (wanted.instances == 4 and not fresh)
    assert (Clamp.MEMORY in seen.clamps) == less


def test_guard_allows_what_memory_is_not_known_of() -> None:
    """Half of the figures is none."""
    for known in ({"memory_free_bytes": 0}, {"memory_copy_bytes": GB}):
        seen = guarded(
            settings(4), settings(2), ControlState(), a_policy(), at_s=NOW_S, seen=_seen(**known)
        )
        assert seen.settings.instances == 4


def test_guard_lowers_to_the_share_of_the_budget() -> None:
    """Up to the cap; above it no further up, and down is free."""

    def to(wanted: int, applied: int, cap: int):
        return guarded(
            settings(wanted),
            settings(applied),
            ControlState(),
            a_policy(max_instances=8),
            at_s=NOW_S,
            seen=_seen(cap=cap),
        )

    assert to(6, 2, 3).settings.instances == 3
    assert to(6, 2, 3).clamps == (Clamp.BUDGET,)
    assert to(6, 4, 3).settings.instances == 4
    assert to(3, 4, 2).settings.instances == 3
    assert to(6, 2, 6).clamps == ()


def test_guard_keeps_the_budget_of_changes() -> None:
    """It holds what does not add capacity."""
    spent = [_tried(settings(2), ago_s=100 * n) for n in range(1, 4)]
    down = _guard(settings(1), settings(2), *spent, changes_per_hour=3)
    assert down.clamps == (Clamp.CHANGE_BUDGET,)
    assert _guard(settings(1), settings(2), *spent, changes_per_hour=4).clamps == ()
    assert _guard(settings(3), settings(2), *spent, changes_per_hour=3).clamps == ()


def test_guard_lets_a_rollback_pass_every_budget() -> None:
    """Waiting in bad settings would be the worse way; but for one that has just failed."""
    spent = [_tried(settings(2), ago_s=n, reload=True) for n in range(5, 0, -1)]
    policy = a_policy(max_instances=8, changes_per_hour=1, reloads_per_hour=1, cooldown_s=15.0)

    def back(*changes: Applied):
        return guarded(
            settings(2, batch=8),
            settings(8, batch=16),
            ControlState(changes=changes),
            policy,
            at_s=NOW_S,
            safety=Safety(burns=True),
            fresh=True,
            undo=True,
        )

    seen = back(*spent)
    assert (seen.settings, seen.fresh, seen.clamps) == (settings(2, batch=8), True, ())
    assert back(_tried(settings(2), ago_s=1, ok=False)).clamps == (Clamp.COOLDOWN,)


def test_guard_blocks_what_was_judged_worse() -> None:
    """Its batching at any count, for as long as it is blocked."""
    block = Block(settings=settings(2, batch=32), until_s=NOW_S + 1.0, reload=True)
    for at_s, clamps in ((NOW_S, (Clamp.BLOCKED,)), (NOW_S + 1.0, ())):
        seen = guarded(
            settings(3, batch=32),
            settings(2),
            ControlState(),
            a_policy(),
            at_s=at_s,
            safety=Safety(blocked=(block,)),
        )
        assert seen.clamps == clamps


def test_guard_knows_from_a_rollback_what_was_worse() -> None:
    """All that a new controller has is the journal."""
    back = replace(
        _tried(settings(2), ago_s=60, reload=True), before=settings(2, batch=32), undo=True
    )
    assert _guard(settings(3, batch=32), settings(2), back).clamps == (Clamp.BLOCKED,)
    assert _guard(settings(3), settings(2), back).clamps == ()
    old = replace(back, at_s=NOW_S - 601)
    assert _guard(settings(3, batch=32), settings(2), old).clamps == ()


def test_guard_lets_no_rollback_go_to_what_was_taken_back() -> None:
    """A rollback that failed is tried again; what was worse, or killed the server, is not."""
    back = replace(_tried(GOOD, ago_s=60, reload=True), before=BAD, undo=True)
    failed = replace(_tried(BAD, ago_s=60, reload=True, ok=False), before=GOOD)
    for change, clamps in ((back, (Clamp.BLOCKED,)), (failed, ())):
        state = ControlState(changes=(change,))
        seen = guarded(BAD, GOOD, state, a_policy(), at_s=NOW_S, undo=True)
        assert seen.clamps == clamps


def test_guard_does_not_try_more_instances_than_failed_to_load() -> None:
    """Fewer may do."""
    failed = replace(_tried(settings(3), ago_s=60, ok=False), before=settings(1))
    assert _guard(settings(4), settings(1), failed).clamps == (Clamp.BLOCKED,)
    assert _guard(settings(2), settings(1), failed).clamps == ()


@given(
    st.builds(settings, st.integers(1, 20), batch=st.sampled_from([8, 16])),
    st.integers(1, 20),
    st.none() | st.integers(0, 20),
    st.integers(1, 4),
    st.none() | st.integers(0, 20),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_guard_never_grows_beyond_any_bound(
    wanted: Settings,
    count: int,
    cap: int | None,
    granularity: int,
    copies: int | None,
    fresh: bool,
    undo: bool,
    burns: bool,
) -> None:
    """Policy, budget and memory hold whatever is proposed."""
    applied = settings(count * granularity)
    policy = a_policy(max_instances=12)
    free = None if copies is None else copies * GB
    seen = guarded(
        wanted,
        applied,
        ControlState(),
        policy,
        at_s=NOW_S,
        fresh=fresh,
        undo=undo,
        granularity=granularity,
        safety=Safety(burns=burns),
        seen=_seen(cap=cap, memory_free_bytes=free, memory_copy_bytes=GB),
    )
    now = seen.settings.instances
    if now > applied.instances:
        assert now <= max(12, granularity)
        assert cap is None or now <= max(cap, granularity)
        if copies is not None:
            assert (now if seen.fresh else now - applied.instances) * 1.2 <= copies
    if seen.settings == applied:
        assert not seen.fresh
    assert now == wanted.instances or now % granularity == 0


def test_guard_rounds_up_to_whole_gpus() -> None:
    """3 wanted on a group of 2 GPUs are 4: never fewer than asked for."""
    seen = guarded(settings(3), settings(2), ControlState(), a_policy(), at_s=NOW_S, granularity=2)
    assert seen.settings.instances == 4


def test_guard_passes_a_hold_without_a_word() -> None:
    """Nothing proposed, nothing clamped."""
    seen = _guard(settings(2), settings(2), _tried(settings(2), ago_s=1))
    assert seen.clamps == ()
    assert seen.settings == settings(2)


def test_guard_grows_to_the_most_that_is_not_blocked() -> None:
    """A server that died while four came up says nothing of three, and one is too few."""
    died = replace(_tried(settings(3), ago_s=60), before=settings(4), undo=True)
    to_four = _guard(settings(4), settings(1), died)
    assert (to_four.settings, to_four.clamps) == (settings(3), (Clamp.BLOCKED,))
    to_five = _guard(settings(5), settings(1), died, max_instances=5)
    assert (to_five.settings, to_five.clamps) == (settings(3), (Clamp.BLOCKED,))
    failed = replace(_tried(settings(2), ago_s=60, ok=False), before=settings(1))
    none = _guard(settings(4), settings(1), failed)
    assert (none.settings, none.clamps) == (settings(1), (Clamp.BLOCKED,))
