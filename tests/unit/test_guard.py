"""What the guard lets through."""

from __future__ import annotations

from dataclasses import replace

from control.core.guard import guard
from control.core.state import Applied, ControlState
from control.core.types import Clamp, Settings
from tests.unit.story import a_policy, in_flight, settings

NOW_S = 5000.0


def _tried(wanted: Settings, *, ago_s: float, reload: bool = False, ok: bool = True) -> Applied:
    return Applied(at_s=NOW_S - ago_s, settings=wanted, reload=reload, ok=ok)


def _guard(wanted: Settings, applied: Settings, *changes: Applied, **policy: object):
    return guard(wanted, applied, ControlState(changes=changes), a_policy(**policy), at_s=NOW_S)


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


def test_guard_makes_small_steps_down() -> None:
    """From 8 to 2 at once is cut to a quarter."""
    seen = _guard(settings(2), settings(8), max_instances=8)
    assert seen.settings.instances == 6
    assert seen.clamps == (Clamp.STEP_DOWN,)


def test_guard_lets_a_scale_up_pass_in_the_cooldown() -> None:
    """Waiting would cost the SLO."""
    seen = _guard(settings(3), settings(2), _tried(settings(2), ago_s=1))
    assert seen.settings.instances == 3
    assert seen.clamps == ()


def test_guard_holds_a_scale_down_and_a_reload_in_the_cooldown() -> None:
    """After a change the system must settle first; it says when."""
    before = _tried(settings(2), ago_s=5)
    down = _guard(settings(1), settings(2), before)
    assert down.settings == settings(2)
    assert down.clamps == (Clamp.COOLDOWN,)
    assert down.may_act_at_s == NOW_S + 10
    rebatch = _guard(settings(3, batch=16), settings(2), before)
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


def test_guard_makes_a_fresh_scale_up_in_place_when_reloads_are_spent() -> None:
    """The instances come all the same."""
    spent = [_tried(settings(1), ago_s=600 * n, reload=True) for n in range(1, 5)]
    state = ControlState(changes=tuple(spent))
    seen = guard(settings(2), settings(1), state, a_policy(), at_s=NOW_S, fresh=True)
    assert (seen.settings.instances, seen.fresh) == (2, False)
    assert seen.clamps == (Clamp.RELOAD_BUDGET,)
    free = guard(settings(2), settings(1), ControlState(), a_policy(), at_s=NOW_S, fresh=True)
    assert free.fresh


def test_guard_allows_one_change_at_a_time() -> None:
    """While one is in flight everything holds, even a scale up."""
    seen = guard(
        settings(3),
        settings(1),
        ControlState(in_flight=in_flight(settings(2))),
        a_policy(),
        at_s=NOW_S,
    )
    assert seen.settings == settings(1)
    assert seen.clamps == (Clamp.CHANGE_IN_FLIGHT,)


def test_guard_rounds_up_to_whole_gpus() -> None:
    """3 wanted on a group of 2 GPUs are 4: never fewer than asked for."""
    seen = guard(settings(3), settings(2), ControlState(), a_policy(), at_s=NOW_S, granularity=2)
    assert seen.settings.instances == 4


def test_guard_passes_a_hold_without_a_word() -> None:
    """Nothing proposed, nothing clamped."""
    seen = _guard(settings(2), settings(2), _tried(settings(2), ago_s=1))
    assert seen.clamps == ()
    assert seen.settings == settings(2)
