"""The ladder: nobody is starved, the room is kept, who is asked most is at its best, in time."""

from __future__ import annotations

import itertools
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from control.core.budget.ladder import Climber, Plan, Step, plan


def _climber(model: str, rps: float, *, at: int = 1, climb_s: float = 2.0) -> Climber:
    """Best: 3 bytes; cheap: 2 bytes, at half the quality."""
    steps = (Step(size=3, worth=rps), Step(size=2, worth=rps / 2))
    return Climber(model=model, steps=steps, at=at, climb_s=climb_s)


def _played(loads: list[dict[str, float]], room: int, before: Plan | None = None) -> list[Plan]:
    """The plans of seconds with these loads."""
    plans = [before or Plan()]
    for rps in loads:
        last = plans[-1]
        of = [_climber(m, load, at=last.rungs.get(m, 1)) for m, load in rps.items()]
        plans.append(plan(of, room, last, 1.0))
    return plans[1:]


def _best(of: Plan) -> str:
    """The models at their best."""
    return "".join(sorted(model for model, at in of.rungs.items() if at == 0))


def test_where_all_fit_all_are_at_their_best() -> None:
    """Also those that nobody asks."""
    assert _best(_played([{"a": 10.0, "b": 0.0}], room=6)[0]) == "ab"


def test_a_rung_that_is_free_goes_to_whoever_is_asked_most() -> None:
    """Room for one of three."""
    assert _best(_played([{"a": 10.0, "b": 30.0, "c": 20.0}], room=7)[0]) == "b"


def test_a_swap_is_made_when_its_lead_has_cost_as_much() -> None:
    """The docstring's example: a lead of 25 a second, a cost of 140."""
    of = _played([{"a": 40.0, "b": 20.0}] + [{"a": 40.0, "b": 100.0}] * 10, room=5)
    assert [_best(one) for one in of] == ["a"] * 6 + ["b"] * 5


def test_the_coldest_gives_and_giver_and_taker_are_one_plan() -> None:
    """c is asked least; at no second are there two at their best, or none."""
    loads = {"a": 50.0, "b": 10.0, "c": 5.0, "d": 0.0}
    of = _played([loads] + [{**loads, "d": 80.0}] * 10, room=11)
    assert [_best(one) for one in (of[0], of[-1])] == ["abc", "abd"]
    assert {len(_best(one)) for one in of} == {3}


def test_phases_shorter_than_a_few_climbs_are_left_alone() -> None:
    """Loads that change places every 4 s move nothing; every 60 s they are followed."""

    def changes(phase_s: int) -> int:
        loads = [
            {"a": 60.0, "b": 30.0} if second // phase_s % 2 else {"a": 30.0, "b": 60.0}
            for second in range(240)
        ]
        best = [_best(one) for one in _played(loads, room=5)]
        return sum(one != other for one, other in itertools.pairwise(best))

    assert changes(4) == 0
    assert changes(60) == 3


def test_swaps_in_vain_make_it_wait_longer_and_swaps_that_paid_less_long() -> None:
    """Phases just longer than a lead takes: after some in vain it stays. Then they last."""

    def loads(phase_s: int, phases: int) -> list[dict[str, float]]:
        pair = ({"a": 60.0, "b": 30.0}, {"a": 30.0, "b": 60.0})
        return [pair[phase % 2] for phase in range(phases) for _ in range(phase_s)]

    short = _played(loads(9, 20), room=5)
    late = {_best(one) for one in short[-36:]}
    assert len(late) == 1
    assert short[-1].patience >= 2.0
    long = _played(loads(200, 8), room=5, before=short[-1])
    assert long[-1].patience < short[-1].patience
    assert len({_best(one) for one in long[-400:]}) == 2


def test_a_rung_that_answers_fewer_in_time_is_left() -> None:
    """And what it had goes to another at once."""
    worse = Climber(
        model="a", steps=(Step(size=3, worth=-1.0), Step(size=2, worth=9.0)), at=0, climb_s=2.0
    )
    made = plan([worse, _climber("b", 1.0)], 5, Plan(rungs={"a": 0, "b": 1}), 1.0)
    assert _best(made) == "b"


climbers = st.lists(
    st.tuples(st.integers(1, 9), st.integers(0, 9), st.floats(0, 99), st.integers(0, 2)),
    min_size=1,
    max_size=6,
).map(
    lambda rows: [
        Climber(
            model=f"m{number}",
            steps=tuple(
                Step(size=size + more * (2 - n), worth=rps * (3 - n) / 3) for n in range(3)
            ),
            at=at,
            climb_s=2.0,
        )
        for number, (size, more, rps, at) in enumerate(rows)
    ]
)


@given(climbers, st.integers(0, 60), st.integers(1, 30))
@settings(max_examples=150, deadline=None)
def test_the_room_is_kept_wherever_the_lowest_rungs_fit(
    of: list[Climber], more: int, seconds: int
) -> None:
    """Whatever was held before; with leads that are long enough for swaps, too."""
    room = sum(climber.steps[-1].size for climber in of) + more
    made = Plan(leads={climber.model: 50.0 for climber in of})
    for _ in range(5):
        made = plan([replace(c, at=made.rungs.get(c.model, c.at)) for c in of], room, made, seconds)
        assert sum(c.steps[made.rungs[c.model]].size for c in of) <= room
