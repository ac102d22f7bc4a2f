"""The ladder between looks: what each model may hold under a memory limit."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from control.core.budget.ladder import Climber, Place, Plan, Rung, plan
from control.core.budget.shares import Shares
from control.core.budget.want import Limit, Want, want_of
from control.core.memory.changes import InFlight
from control.core.policy import Policy
from control.core.reasons import Reason
from control.core.types import Decision, Need, Observation, Settings
from tests.unit.story import settings as some_settings

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
        self.applied = {name: a_version(1) for name in names}
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
            wanted = a_version(max(may[name]), *sorted(may[name])[:-1])
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


def a_version(version: int, *standby: int) -> Settings:
    """Settings of one instance of it."""
    return replace(some_settings(1), version=version, standby=standby)


def _seen(version: int) -> Observation:
    """A look that shows nothing but a version."""
    return Observation(
        at_s=1.0, tick_id="t", counters=None, statistics=None, applied=a_version(version)
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
    fell = replace(seen, applied=a_version(1))
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
    change = InFlight(since_s=1.0, settings=a_version(1), before=a_version(2))
    want = want_of("a", seen, _decision(seen, 10.0), change, POLICY, None)
    assert (want.kept_bytes, want.taken_bytes) == (300, 500)
