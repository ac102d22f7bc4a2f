"""The ladder: nobody is starved, the room is kept, who is asked most is at its best, in time."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.core.budget.ladder import Climber, Place, Plan, Rung, Step, plan
from control.core.budget.shares import Shares
from control.core.budget.want import Limit, Want, want_of
from control.core.memory.changes import InFlight
from control.core.policy import Policy
from control.core.reasons import Clamp, Reason
from control.core.types import Decision, Need, Observation, Settings
from tests.unit.story import TRUE, Story, a_policy
from tests.unit.story import settings as some_settings

HALF = TRUE.scaled(0.5)


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


# --- under a memory limit, between looks ---

POLICY = Policy(slo_s=0.1, max_instances=2, versions=(2, 1), load_s=2.0)
SIZES = {2: 300, 1: 200}


class _Held:
    """Models that do what they may, each change in two looks; greedy ones have all they may."""

    def __init__(
        self, names: str, memory: int, sizes: dict[int, int] = SIZES, *, greedy: bool = False
    ) -> None:
        self.shares = Shares(
            limit=Limit(memory_bytes=memory), policies=dict.fromkeys(names, POLICY)
        )
        self.sizes, self.greedy = sizes, greedy
        self.applied = {name: _version(1) for name in names}
        self.flying: dict[str, InFlight] = {}
        self.at_s = 0.0
        self.most = 0

    def look(self, rps: dict[str, float]) -> dict[str, tuple[int, ...]]:
        """One tick; gives what each may load."""
        self.at_s += 1.0
        self.shares = self.shares.tick(self.at_s)
        may = {}
        for name, rate_rps in rps.items():
            if flown := self.flying.pop(name, None):
                self.applied[name] = flown.settings
            seen = Observation(
                at_s=self.at_s,
                tick_id="t",
                counters=None,
                statistics=None,
                applied=self.applied[name],
                versions=(1, 2),
                version_bytes=self.sizes,
            )
            may[name] = self.shares.may_load(name, seen) or ()
            wanted = _version(max(may[name]), *sorted(may[name])[:-1])
            wanted = replace(wanted, instances=self.applied[name].instances)
            if self.greedy and wanted == self.applied[name]:
                cap = self.shares.cap(name, seen)
                assert cap is not None
                wanted = replace(wanted, instances=max(1, min(cap, POLICY.max_instances)))
            if wanted != self.applied[name] and not flown:
                self.flying[name] = InFlight(
                    since_s=self.at_s, settings=wanted, before=self.applied[name]
                )
            decision = _decision(seen, rate_rps)
            self.shares = self.shares.looked(name, seen, decision, self.flying.get(name))
            self.most = max(self.most, sum(w.kept_bytes for w in self.shares.wants.values()))
        return may


def _version(version: int, *standby: int) -> Settings:
    return replace(some_settings(1), version=version, standby=standby)


def _seen(version: int) -> Observation:
    """A look that shows nothing but a version."""
    return Observation(
        at_s=1.0, tick_id="t", counters=None, statistics=None, applied=_version(version)
    )


def _decision(seen: Observation, rate_rps: float) -> Decision:
    """A hold with a need of one instance; the best carries 100 req/s, the cheap one 200."""
    capacities = {2: {1: 100.0, 2: 200.0}, 1: {1: 200.0, 2: 400.0}}
    assert seen.applied is not None
    need = Need(
        rate_rps=rate_rps,
        needed=1,
        hold=1,
        goal=1,
        capacities=capacities[seen.applied.version or 2],
        by_version=capacities,
        load_s=2.0,
    )
    return Decision(
        tick_id="t",
        at_s=seen.at_s,
        reason=Reason.HOLD_STEADY,
        applied=seen.applied,
        desired=seen.applied,
        need=need,
    )


def test_the_giver_falls_before_the_taker_climbs() -> None:
    """Room for one best and one cheap: at no look are both best, whoever is in flight."""
    held = _Held("ab", 500)
    for _ in range(6):
        held.look({"a": 60.0, "b": 10.0})
    assert [held.applied[name].version for name in "ab"] == [2, 1]
    seen = [held.look({"a": 10.0, "b": 60.0}) for _ in range(20)]
    assert [held.applied[name].version for name in "ab"] == [1, 2]
    fell = next(n for n, may in enumerate(seen) if may["a"] == (1,))
    rose = next(n for n, may in enumerate(seen) if may["b"] == (2,))
    assert rose > fell
    assert seen[fell]["b"] == (1,)  # a still loads its cheap version beside the best
    assert held.most <= 500


loads = st.lists(
    st.tuples(*[st.sampled_from([0.0, 5.0, 60.0, 150.0, 500.0])] * 3), min_size=2, max_size=6
)


@given(loads, st.integers(600, 2000), st.sampled_from([SIZES, {2: 300, 1: 90}]))
@settings(max_examples=60, deadline=None)
def test_the_memory_is_never_passed_but_by_what_a_change_loads_beside(
    of: list[tuple[float, ...]], memory: int, sizes: dict[int, int]
) -> None:
    """Three models that grow, stand by and climb as far as they may; each load lasts 15 s."""
    held = _Held("abc", memory, sizes, greedy=True)
    for rates in of:
        for _ in range(15):
            held.look(dict(zip("abc", rates, strict=True)))
    assert held.most <= memory
    assert all(settings.instances >= 1 for settings in held.applied.values())


def test_a_standby_is_loaded_where_memory_is_left_and_goes_first() -> None:
    """700 bytes hold one best with its cheap version beside it, and a cheap one; or two best."""
    alone = _Held("a", 700)
    assert [alone.look({"a": 60.0})["a"] for _ in range(5)][-1] == (1, 2)
    held = _Held("ab", 700)
    for _ in range(8):
        may = held.look({"a": 60.0, "b": 50.0})
    assert may == {"a": (2,), "b": (2,)}


def test_a_model_that_needs_the_cheap_version_leaves_the_room_to_another() -> None:
    """b fell by itself, in a rush that its best version does not carry: a is at its best."""
    held = _Held("ab", 500)
    for _ in range(8):
        may = held.look({"a": 60.0, "b": 150.0})
    assert may == {"a": (2,), "b": (1,)}


def test_what_the_memory_lacks_is_told() -> None:
    """Two cheap versions of 200 bytes in 300; nobody is below its lowest rung all the same."""
    held = _Held("ab", 300)
    for _ in range(4):
        may = held.look({"a": 60.0, "b": 10.0})
    assert may == {"a": (1,), "b": (1,)}
    assert held.shares.lacks_bytes == 100
    enough = _Held("ab", 500)
    enough.look({"a": 60.0, "b": 10.0})
    assert enough.shares.lacks_bytes == 0


def test_without_a_memory_limit_every_version_may_be_loaded() -> None:
    """And for a model of one version there is nothing to choose."""
    shares = Shares(limit=Limit(instances=4), policies={"a": POLICY})
    seen = _seen(2)
    assert shares.tick(1.0).may_load("a", seen) is None
    one = Shares(limit=Limit(memory_bytes=900), policies={"a": replace(POLICY, versions=())})
    assert one.tick(1.0).may_load("a", seen) is None


def test_a_prediction_alone_costs_no_quality() -> None:
    """The rung in force is worth what the lowest is, also where it should carry less."""
    seen = replace(_seen(2), version_bytes=SIZES)
    policy = replace(POLICY, max_instances=1)
    held = want_of("a", seen, _decision(seen, 150.0), None, policy, None)
    assert [step.worth for step in held.steps()] == [75.0, 75.0]
    fell = replace(seen, applied=_version(1))
    want = want_of("a", fell, _decision(fell, 150.0), None, policy, held)
    assert [step.worth for step in want.steps()] == [-1.0, 75.0]


def test_a_model_that_the_cpu_carries_leaves_the_device_to_others() -> None:
    """The interface of a rung that the loop does not offer yet: as good, and no memory."""
    device = Rung(version=2, bytes_each=300, capacities={1: 200.0})
    cpu = Rung(version=2, place=Place.CPU, capacities={1: 50.0})
    of = _wants(device, cpu)
    made = plan(_climbers(of), 300, Plan(), 1.0)
    assert made.rungs == {"hot": 0, "warm": 1, "cold": 1}


def test_a_model_that_may_leave_does_so_where_it_is_asked_least() -> None:
    """The interface of the gateway: memory for two of three."""
    there = Rung(version=1, bytes_each=200, capacities={1: 200.0})
    gone = Rung(place=Place.NOT_RESIDENT, capacities={1: 0.0})
    of = _wants(there, gone)
    made = plan(_climbers(of), 400, Plan(), 1.0)
    assert made.rungs == {"hot": 0, "warm": 0, "cold": 1}


def _wants(*rungs: Rung) -> list[Want]:
    """Three models on the last of these rungs."""
    last = len(rungs) - 1
    return [
        Want(model=m, rate_rps=rps, rungs=rungs, rung=last, capacities=rungs[last].capacities)
        for m, rps in {"cold": 10.0, "warm": 30.0, "hot": 60.0}.items()
    ]


def _climbers(of: list[Want]) -> list[Climber]:
    return [Climber(model=w.model, steps=w.steps(), at=w.rung, climb_s=2.0) for w in of]


def test_a_change_of_the_version_counts_both_while_it_is_in_flight() -> None:
    """Best and cheap beside each other; afterwards the greater of both."""
    seen = replace(_seen(2), version_bytes=SIZES)
    change = InFlight(since_s=1.0, settings=_version(1), before=_version(2))
    want = want_of("a", seen, _decision(seen, 10.0), change, POLICY, None)
    assert (want.kept_bytes, want.taken_bytes) == (300, 500)


# --- the model's own decision ---


def _story(**gauges: object) -> Story:
    """Version 2 is the best, 1 takes half the time; after 20 quiet seconds at the best."""
    story = Story(
        policy=a_policy(max_instances=1, versions=(2, 1)),
        curves={2: TRUE, 1: HALF},
        applied=_version(2),
        gauges={"may_load": (2,), "version_bytes": SIZES, **gauges},
    )
    return story.passes(20, load_rps=200)


def test_a_version_is_given_up_at_once_and_nobody_takes_it_back() -> None:
    """Although it carries its load; the way back waits until the budget allows it."""
    story = _story()
    assert story.applied == _version(2)
    story.gauges["may_load"] = (1,)
    decision = story.tick(200)
    assert (decision.reason, decision.clamps) == (Reason.OVER_BUDGET, ())
    assert decision.desired == _version(1)
    assert decision.terms["rung_version"] == 1.0
    begin = len(story.decisions)
    story.passes(90, load_rps=200)
    assert not any(one.changes for one in story.decisions[begin:])
    story.gauges["may_load"] = (2,)
    story.passes(3, load_rps=200)
    assert story.applied == _version(2)
    assert story.reasons[-3:].count(Reason.QUALITY_UP) == 1


@pytest.mark.parametrize(("may_load", "standby"), [((2,), ()), ((1, 2), (1,))])
def test_a_cheaper_version_stands_by_only_where_the_budget_allows_it(
    may_load: tuple[int, ...], standby: tuple[int, ...]
) -> None:
    """And it goes at once where it does not any more."""
    story = _story(may_load=may_load)
    assert story.applied == _version(2, *standby)
    story.gauges["may_load"] = (2,)
    story.passes(2, load_rps=200)
    assert story.applied == _version(2)


def test_a_rush_is_met_below_the_rung_that_is_allowed() -> None:
    """900 req/s are the cheap version's, whatever the memory would hold; then the best again."""
    story = _story().passes(6, load_rps=900)
    assert story.applied == _version(1)
    assert Reason.QUALITY_DOWN in story.reasons
    story.passes(60, load_rps=200)
    assert story.applied == _version(2)


def test_a_model_that_nobody_asks_gives_up_its_version_too() -> None:
    """It has no need that could say so."""
    story = Story(
        policy=a_policy(max_instances=1, versions=(2, 1)),
        curves={2: TRUE, 1: HALF},
        applied=_version(2),
        gauges={"may_load": (1,), "version_bytes": SIZES},
    ).passes(8, load_rps=0)
    assert story.applied == _version(1)
    assert Reason.OVER_BUDGET in story.reasons
    assert Clamp.COOLDOWN not in story.decisions[-1].clamps


def test_the_need_tells_what_each_version_would_carry() -> None:
    """Only where the budget asks for it."""
    need = _story().decisions[-1].need
    assert need is not None
    assert need.by_version[1][1] > need.by_version[2][1] > 200
    assert need.load_s == 2.0
    other = _story(may_load=None).decisions[-1].need
    assert other is not None
    assert not other.by_version
