"""The arithmetic of ``conch perf bench tuned``: which rate is tried next, and what a run says."""

from __future__ import annotations

import math

import numpy as np
import pytest

from control.core.types import Settings
from perf.bench import tuned_score
from perf.bench.control.run import ChangeMade, ControlRun
from perf.bench.tuned_score import Tried
from serving import model_config

ONE = Settings(instances=1, max_batch_size=32, dynamic_batching=False, max_queue_delay_s=0.0)
TWO = Settings(instances=2, max_batch_size=8, dynamic_batching=True, max_queue_delay_s=0.0)


def tried(rate_rps: float, attainment: float) -> Tried:
    """A probe."""
    return Tried(rate_rps=rate_rps, attainment=attainment, p99_s=0.1)


def played(latency_s: list[float], changes: tuple[ChangeMade, ...] = ()) -> ControlRun:
    """One request a tenth of a second."""
    return ControlRun(
        rule="conch",
        trace_name="constant",
        description="",
        seed=1,
        simulated=False,
        slo_s=0.1,
        duration_s=len(latency_s) / 10,
        intended_s=np.arange(len(latency_s)) / 10,
        latency_s=np.array(latency_s),
        changes=changes,
    )


def change(begun_s: float, ended_s: float) -> ChangeMade:
    """A reload."""
    return ChangeMade(
        begun_s=begun_s, ended_s=ended_s, reason="REBATCH", before=ONE, after=TWO, reload=True
    )


def staircase(capacity_rps: float, start_rps: float) -> list[Tried]:
    """The probes of a server that carries exactly so much."""
    found: list[Tried] = []
    while (rate := tuned_score.next_rate(found, start_rps)) is not None:
        found.append(tried(rate, 1.0 if rate <= capacity_rps else 0.9))
    return found


@pytest.mark.parametrize("start_rps", [20.0, 200.0, 900.0])
def test_staircase_finds_the_capacity_from_any_start(start_rps: float) -> None:
    """It ends within the precision, below the capacity."""
    found = tuned_score.capacity_rps(staircase(230.0, start_rps))
    assert 230.0 / (1 + tuned_score.PRECISION) <= found <= 230.0


def test_a_rate_that_missed_once_is_tried_again() -> None:
    """One hiccup of the machine is no verdict; two are."""
    assert tuned_score.next_rate([tried(100, 0.95)], 100.0) == 100.0
    assert tuned_score.next_rate([tried(100, 0.0)], 100.0) == 100.0
    assert tuned_score.next_rate([tried(100, 0.95), tried(100, 0.95)], 100.0) == 80.0
    assert tuned_score.next_rate([tried(100, 0.95), tried(100, 0.995)], 100.0) == 125.0


def test_capacity_is_zero_where_nothing_was_carried() -> None:
    """And the greatest carried rate otherwise, whatever failed below it."""
    assert tuned_score.capacity_rps([tried(100, 0.1), tried(100, 0.1)]) == 0.0
    assert tuned_score.capacity_rps([tried(100, 0.9), tried(100, 0.9), tried(120, 1.0)]) == 120.0


def test_cold_start_tells_when_the_settings_were_final_and_the_slo_met() -> None:
    """8 s of misses, a reload until 7.5 s, then calm."""
    run = played([0.5] * 80 + [0.02] * 920, (change(5.0, 7.5),))
    found = tuned_score.cold_start(run)
    assert found["final_s"] == 7.5
    assert found["met_s"] == 8.0
    assert found["changes_after"] == 0
    assert found["held_attainment"] == 1.0
    assert found["attainment"] == pytest.approx(0.92)


def test_a_change_after_the_first_minute_is_told_and_not_final() -> None:
    """Settings that are still moved were not found."""
    found = tuned_score.cold_start(played([0.02] * 900, (change(5.0, 7.0), change(70.0, 72.0))))
    assert (found["final_s"], found["changes_after"]) == (7.0, 1)


def test_cold_start_that_never_meets_the_slo_says_inf() -> None:
    """No second from which on it is met."""
    found = tuned_score.cold_start(played([0.5] * 900))
    assert math.isinf(found["met_s"])
    assert found["held_attainment"] == 0.0


def test_worse_is_a_loss_beyond_the_noise_of_the_default_itself() -> None:
    """The default, played twice, says what a difference means."""
    same = {"before": 0.99, "after": 0.99}
    assert tuned_score.worse([{**same, "conch": 0.97}])
    assert not tuned_score.worse([{**same, "conch": 0.989}])
    assert not tuned_score.worse([{"before": 0.99, "after": 0.93, "conch": 0.91}])
    assert not tuned_score.worse([{**same, "conch": 1.0}])


def test_static_default_is_what_nobody_tuned() -> None:
    """One instance, no batching, and the backend's own number of threads."""
    published = model_config.parse(
        'name: "m" backend: "onnxruntime" max_batch_size: 32 dynamic_batching {} '
        "instance_group { count: 2 kind: KIND_CPU } "
        'parameters { key: "intra_op_thread_count" value { string_value: "1" } }'
    )
    default = model_config.static_default(published)
    assert model_config.instance_count(default) == 1
    assert not default.HasField("dynamic_batching")
    assert "intra_op_thread_count" not in default.parameters
    assert default.max_batch_size == 32
    assert published.instance_group[0].count == 2
