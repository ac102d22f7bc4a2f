"""Bounds that nobody wrote are the owner's own configuration; a written one holds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from control.core.memory import restart
from control.core.memory.bounds import LEAST_BUSY_S, CpuUse, effective
from control.core.policy import Policy
from control.core.reasons import Reason
from control.core.rules import rule_named
from control.core.service.learnt import NO_LIMIT
from control.core.types import Settings
from control.policy_file import ModelPolicy
from tests.unit import story
from tests.unit.life import Life

UNWRITTEN = ModelPolicy(slo=0.2, cooldown=1.0).typed(cores=2)
SIX = story.settings(6, batch=4)


def _bounds(policy: Policy, **known: object) -> tuple[int, int, int]:
    facts = {"owner": SIX, "applied": SIX, "refused_rows": None, "waits": None, **known}
    found = effective(policy, **facts)  # type: ignore[arg-type]
    return found.min_instances, found.max_instances, found.max_batch_size


def test_bounds_are_the_owners_where_nobody_wrote_one() -> None:
    """Six instances on two cores stay six, and four rows stay four."""
    assert _bounds(UNWRITTEN) == (6, 6, 4)


def test_bounds_let_one_instance_grow_to_the_cores() -> None:
    """The cores are more than the one instance of the config."""
    one = story.settings(1, batch=8)
    assert _bounds(UNWRITTEN, owner=one, applied=one) == (1, 2, 8)


def test_bounds_that_are_written_hold_against_the_owners_config() -> None:
    """The policy's numbers for that model are the owner's word, too."""
    written = ModelPolicy(min_instances=1, max_instances=3, max_batch_size=16).typed(cores=2)
    assert _bounds(written) == (1, 3, 16)


@pytest.mark.parametrize(
    ("waits", "trusted", "most"),
    [(True, 1, 8), (True, 9, 9), (True, NO_LIMIT, 16), (False, NO_LIMIT, 8), (None, NO_LIMIT, 8)],
)
def test_bounds_of_a_model_that_waits_grow_with_what_was_seen_at_work(
    waits: bool | None, trusted: int, most: int
) -> None:
    """The cores say nothing of it. Beyond twice as many all is a guess."""
    eight = replace(SIX, instances=8)
    assert _bounds(UNWRITTEN, applied=eight, waits=waits, trusted=trusted) == (6, most, 4)


@pytest.mark.parametrize(("most", "bounds"), [(3, (3, 3, 4)), (9, (6, 6, 4)), (None, (6, 6, 4))])
def test_bounds_leave_a_slot_to_others_whatever_the_owner_has(
    most: int | None, bounds: tuple[int, int, int]
) -> None:
    """With as many instances as slots one model could hold them all."""
    assert _bounds(UNWRITTEN, by_slots=most) == bounds
    written = replace(UNWRITTEN, min_instances=2, max_instances=8, unwritten=())
    assert _bounds(written, by_slots=most)[:2] == (2, min(8, most or 8))
    fixed = replace(written, min_instances=5)
    assert _bounds(fixed, by_slots=3)[:2] == (5, 5)  # a written least is the owner's word


@pytest.mark.parametrize(
    ("slots", "gpus", "most"), [(4, 1, 3), (1, 1, 1), (4, 2, 6), (None, 1, None)]
)
def test_most_instances_by_slots_are_one_fewer_on_each_device(
    slots: int | None, gpus: int, most: int | None
) -> None:
    """But for a single slot, which all take in turn."""
    seen = Life(rule=rule_named("conch"), applied=SIX).seen(slots=slots, granularity=gpus)
    assert seen.most_by_slots == most


@pytest.mark.parametrize("policy", [UNWRITTEN, Policy(slo_s=0.1, max_batch_size=32)])
def test_bounds_stay_below_what_the_model_refused_whoever_wrote_them(policy: Policy) -> None:
    """32 rows were refused: never as many again."""
    owner = story.settings(1, batch=64)
    assert _bounds(policy, owner=owner, applied=owner, refused_rows=32)[2] == 31


@pytest.mark.parametrize(("cpu_s", "waits"), [(0.0, True), (9.0, False), (0.5, True)])
def test_a_model_waits_where_its_processes_use_little_cpu(cpu_s: float, waits: bool) -> None:
    """Ten busy seconds, and what the kernel says its processes used."""
    looks = Life(rule=rule_named("conch"))
    old, new = looks.seen(cpu_s=1.0), looks.seen(cpu_s=1.0 + cpu_s)
    assert CpuUse().absorb(old, new, busy_s=10.0).waits is waits
    assert CpuUse().absorb(old, new, busy_s=LEAST_BUSY_S / 2).waits is None
    assert CpuUse().absorb(new, old, busy_s=10.0).busy_s == (0.0 if cpu_s else 10.0)


def test_a_model_that_waits_has_to_show_it_again_with_fewer_instances() -> None:
    """Three may have filled the cores and used little each; more than that use no more."""
    looks = Life(rule=rule_named("conch"))
    three = looks.seen(cpu_s=1.0, applied=replace(looks.applied, instances=3))
    two, four = (replace(three, applied=replace(looks.applied, instances=n)) for n in (2, 4))
    waits = CpuUse().absorb(three, three, busy_s=10.0)
    assert waits.waits is True
    assert waits.absorb(three, two, busy_s=10.0).waits is None
    assert waits.absorb(three, replace(four, cpu_s=None), busy_s=10.0).waits is True


def test_a_model_that_waits_has_its_instances_soon_though_nobody_wrote_how_many() -> None:
    """From one on two cores: two, and from then on twice as many while none slows another down."""
    loads = [1500.0] * 20  # one carries 630, and twice the load is to be carried
    life = Life(rule=rule_named("conch"), policy=UNWRITTEN, applied=story.settings(1, batch=8))
    life.lasts(loads, cpu_s=0.0)
    assert [change.desired.instances for change in life.changes if change.desired] == [2, 4, 5]
    busy = Life(rule=rule_named("conch"), policy=UNWRITTEN, applied=story.settings(1, batch=8))
    assert busy.lasts(loads).applied.instances == 2  # nobody knows whether it waits


def _lives(policy: Policy, applied: Settings, loads: list[float]) -> Life:
    return Life(rule=rule_named("conch"), policy=policy, applied=applied).lasts(loads)


def test_control_without_a_policy_never_falls_below_the_owners_count() -> None:
    """Almost nothing, and idle ones are dear: a written least is gone down to."""
    loads = [20.0] * 60
    dear = replace(UNWRITTEN, idle_cost=story.held_for(5.0))
    assert _lives(dear, SIX, loads).applied.instances == 6
    written = replace(dear, unwritten=(), max_instances=6)
    assert _lives(written, SIX, loads).applied.instances < 6


def test_control_without_a_policy_never_raises_the_batch_limit() -> None:
    """A load beyond what batches of four carry: with a written limit of 32 it is raised."""
    one = story.settings(1, batch=4)
    loads = [300.0] * 20 + [900.0] * 60
    kept = _lives(UNWRITTEN, one, loads)
    assert kept.applied.max_batch_size <= 4
    written = replace(UNWRITTEN, unwritten=("min_instances",), max_batch_size=32)
    assert _lives(written, one, loads).applied.max_batch_size > 4


def test_control_without_a_policy_leaves_the_batching_of_a_load_that_is_carried() -> None:
    """A gain on paper is no reason to reload what works."""
    single = story.settings(2, batch=8, dynamic=False)
    life = _lives(UNWRITTEN, single, [150.0] * 120)
    assert [d.reason for d in life.changes if d.reason is Reason.REBATCH] == []


def test_owner_is_what_was_found_where_nobody_tells() -> None:
    """The first settings in force; a later word of the owner's own config wins."""
    life = _lives(UNWRITTEN, SIX, [20.0] * 3)
    assert life.state.owner == SIX
    life.serves(20.0)
    life.looks(owner=replace(SIX, instances=4))
    assert life.state.owner is not None
    assert life.state.owner.instances == 4


def test_refused_rows_are_forgotten_when_the_owner_writes_another_batch_limit() -> None:
    """The owner may have mended the model."""
    life = _lives(UNWRITTEN, SIX, [20.0] * 3)
    life.state = replace(life.state, safety=life.state.safety.refused(3))
    life.serves(20.0)
    life.looks(owner=SIX)
    assert life.state.safety.refused_rows == 3
    life.serves(20.0)
    life.looks(owner=replace(SIX, max_batch_size=16))
    assert life.state.safety.refused_rows is None


def test_refused_rows_stay_when_the_owner_is_told_for_the_first_time() -> None:
    """Found in force was a batch limit of ours; nobody wrote another one."""
    life = _lives(UNWRITTEN, replace(SIX, max_batch_size=2), [20.0] * 3)
    life.state = replace(life.state, safety=life.state.safety.refused(3))
    for _ in range(2):
        life.serves(20.0)
        life.looks(owner=SIX)
        assert life.state.safety.refused_rows == 3


def test_refused_rows_survive_a_restart() -> None:
    """In the saved form, and in the changes of the last hour."""
    life = _lives(UNWRITTEN, SIX, [20.0] * 3)
    life.state = replace(life.state, safety=life.state.safety.refused(32))
    saved = restart.to_plain(life.state, at_s=life.at_s)
    again = restart.restored(changes=(), learnt=saved, at_s=life.at_s + 1.0)
    assert again.safety.refused_rows == 32
