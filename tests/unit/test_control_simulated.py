"""A rule beside the simulated Triton: the shell, the scenarios, and many runs side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from conch.errors import ConfigError
from control.core.memory.state import ControlState
from control.core.policy import Policy
from control.core.reasons import Reason
from control.core.rules import rule_named
from control.core.types import Decision, Observation
from perf import slo
from perf.bench.control import side_by_side
from perf.bench.control.scenarios import (
    EMULATED,
    KINDS,
    POLICY,
    Scenario,
    scenario,
)
from perf.bench.control.shapes import DIURNAL_HIGH_RPS, DIURNAL_LOW_RPS, DIURNAL_S
from perf.bench.control.shell import simulate
from perf.bench.control.side_by_side import Job
from perf.bench.control.simulated import IDEAL
from perf.bench.control.static_best import static_best
from perf.traces import Trace, cosine, poisson
from tests.unit.simulated import STEADY, at


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A rule that follows a script, and keeps what it was shown.

    Attributes:
        wanted: instances by the time on the trace's axis; None holds.
        seen: states and looks, as they came.
    """

    wanted: Callable[[float], int | None]
    seen: list[tuple[ControlState, Observation]]
    name: str = "script"

    def decide(
        self, state: ControlState, seen: Observation, policy: Policy
    ) -> tuple[Decision, ControlState]:
        """Ask for the count that the script wants."""
        del policy
        self.seen.append((state, seen))
        assert seen.applied is not None
        count = self.wanted(seen.at_s - 1e6)
        desired = replace(seen.applied, instances=count or seen.applied.instances)
        return Decision(
            tick_id=seen.tick_id,
            at_s=seen.at_s,
            reason=Reason.SCALE_BY_RULE,
            applied=seen.applied,
            desired=desired,
            terms={"stable_rps": 9.0, "service_alpha_s": 0.01, "service_beta_s": 0.1},
        ), state


def load(*, seconds: float = 30.0, warm_up_s: float = 10.0) -> Scenario:
    """50 requests a second."""
    trace: Trace = poisson(50.0, warm_up_s + seconds, seed=5)
    return Scenario(trace=trace, warm_up_s=warm_up_s, instances=1)


def test_the_shell_tells_the_core_of_begin_and_end_and_lets_one_change_be_in_flight() -> None:
    """A change is in flight from its tick until the first tick after its end."""
    seen: list[tuple[ControlState, Observation]] = []
    rule = Script(wanted=lambda at_s: 3 if at_s >= 5 else None, seen=seen)
    run = simulate(rule, POLICY, load(), model=STEADY, actuation=IDEAL, tick_s=1.0)
    flights = [look.at_s - 1e6 for state, look in seen if state.in_flight is not None]
    assert flights == [6.0, 7.0]  # begun at 5, after that look; ended at 8, told before that look
    (change,) = run.changes
    assert (change.begun_s, change.ended_s) == (5.0, 8.0)
    assert (change.before.instances, change.after.instances) == (1, 3)
    told = seen[-1][0].changes
    assert [(c.at_s - 1e6, c.seconds, c.ok) for c in told] == [(8.0, 3.0, True)]
    assert seen[0][1].at_s == 1e6 - 10
    assert len(seen) == 40
    assert [at_s for at_s, _ in run.expected] == [float(s) for s in range(30)]


def test_the_warm_up_is_served_and_not_scored() -> None:
    """Requests before time 0 are left out; changes in it have times below 0; its cost is not."""
    rule = Script(wanted=lambda at_s: 2 if at_s >= -8 else None, seen=[])
    played = load()
    run = simulate(rule, POLICY, played, model=STEADY, actuation=IDEAL)
    assert run.intended_s.size == np.count_nonzero(played.arrival_s >= 0) < played.trace.count
    assert run.intended_s[0] >= 0
    assert run.changes[0].begun_s == -8.0
    assert run.duration_s == 30.0
    assert slo.instance_seconds(run.paid, run.duration_s) == pytest.approx(60.0)
    assert run.simulated


@pytest.mark.parametrize("kind", KINDS)
def test_scenarios_are_fixed_by_their_seed(kind: str) -> None:
    """The same seed gives the same arrivals, another one others; the rate is the mean behind."""
    one, same, other = (scenario(kind, duration_s=300.0, seed=s) for s in (1, 1, 2))
    assert np.array_equal(one.arrival_s, same.arrival_s)
    assert not np.array_equal(one.arrival_s, other.arrival_s)
    rates = np.array([rate for _, rate in one.rate_steps()])
    assert one.trace.count / one.trace.duration_s == pytest.approx(rates.mean(), rel=0.03)
    assert one.duration_s == 300.0


def test_a_burst_lies_in_each_slot_of_the_bursts() -> None:
    """15 s of twice the cosine, once in each 90 s of what is scored."""
    played = scenario("bursts", duration_s=360.0, seed=4)
    assert played.trace.rate is not None
    since_s = np.arange(0.0, 360.0, 0.1)
    base = cosine(DIURNAL_LOW_RPS, DIURNAL_HIGH_RPS, DIURNAL_S)(since_s)
    ratio = played.trace.rate(since_s + played.warm_up_s) / base
    assert np.isclose(ratio, 1.0).sum() + np.isclose(ratio, 2.0).sum() == since_s.size
    for slot in range(4):
        burst = np.flatnonzero(ratio[slot * 900 : (slot + 1) * 900] > 1.5)
        assert burst.size == pytest.approx(150, abs=1)
        assert burst[-1] - burst[0] == burst.size - 1


def test_an_unknown_trace_is_refused() -> None:
    """The message names what is known."""
    with pytest.raises(ConfigError, match="stationary, step, bursts, azure"):
        scenario("mountain", duration_s=60.0, seed=1)


def test_runs_are_the_same_in_any_process_and_are_stored(tmp_path: Path) -> None:
    """Two processes, one process and the store give the very same runs, in the jobs' order."""
    jobs = [
        Job(rule=rule, scenario=scenario("step", duration_s=40.0, seed=seed, warm_up_s=10.0))
        for rule, seed in (("hpa-utilisation", 1), ("clairvoyant", 2))
    ]
    alone = side_by_side.run_all(jobs, processes=1)
    apart = side_by_side.run_all(jobs, processes=2, folder=tmp_path)
    told: list[int] = []
    stored = side_by_side.run_all(
        jobs, processes=1, folder=tmp_path, on_done=lambda number, _: told.append(number)
    )
    assert told == [0, 1]
    assert min(change.begun_s for change in alone[1].changes) < 10.0  # it was told of the step
    assert len(list(tmp_path.glob("*.npz"))) == 2
    for one, two, three, job in zip(alone, apart, stored, jobs, strict=True):
        assert (one.rule, one.seed) == (job.rule, job.scenario.seed)
        assert np.array_equal(one.latency_s, two.latency_s)
        assert np.array_equal(one.latency_s, three.latency_s)
        assert one.paid == two.paid == three.paid
        assert one.changes == two.changes == three.changes
        assert two.controller_cpu_s == three.controller_cpu_s  # it was not made again


def test_the_best_static_count_is_the_fewest_that_is_enough() -> None:
    """One fewer misses the target on the same load."""
    arrival_s = np.concatenate([at(50.0), 60.0 + at(100.0, seconds=20.0)])
    trace = Trace(name="up", arrival_s=arrival_s, duration_s=80.0, description="up", seed=1)
    played = Scenario(trace=trace, warm_up_s=10.0, instances=1)
    best = static_best(played, POLICY, model=EMULATED)
    assert best.instances == 2
    assert 0.5 < best.attainment_below < 0.99 <= best.attainment
    assert slo.instance_seconds(best.run.paid, 70.0) == pytest.approx(140.0)
    assert best.run.changes == ()


@pytest.mark.parametrize(("kind", "seed"), [("step", 2), ("azure", 1), ("drift", 2)])
def test_batches_that_become_slow_take_no_good_settings_away(
    kind: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2.5 times as slow in mid-run: as good as the same settings without a controller."""
    policy = replace(POLICY, max_instances=8, cores=8, rebatch=True)
    play = scenario(kind, duration_s=200.0, warm_up_s=20.0, seed=seed, policy=policy)
    slower = (1.0,) * 120 + (2.5,) * 120
    monkeypatch.setattr("perf.bench.control.shell.slow_seconds", lambda _: slower)
    ours = simulate(rule_named("conch", {}), policy, play, model=EMULATED)
    static = simulate(
        rule_named("static", {"count": 8.0}),
        policy,
        replace(play, instances=8),
        model=EMULATED,
    )
    in_time = [float(np.mean(run.latency_s <= policy.slo_s)) for run in (ours, static)]
    assert in_time[0] >= in_time[1] - 0.005
