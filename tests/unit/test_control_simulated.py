"""The simulated Triton under control: its queue, its changes, what is paid, and the shell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from conch.errors import ConfigError
from control.core import queueing
from control.core.service_time import ServiceTime
from control.core.state import ControlState
from control.core.types import Decision, Observation, Policy, Reason, Settings
from perf import slo
from perf.bench.control import side_by_side
from perf.bench.control.scenarios import (
    DIURNAL_HIGH_RPS,
    DIURNAL_LOW_RPS,
    DIURNAL_S,
    EMULATED,
    KINDS,
    POLICY,
    Scenario,
    scenario,
)
from perf.bench.control.shell import simulate
from perf.bench.control.side_by_side import Job
from perf.bench.control.simulated import IDEAL, Actuation, SimulatedServer
from perf.bench.control.static_best import static_best
from perf.traces import Trace, cosine, poisson

STEADY = replace(EMULATED, jitter_fraction=0.0)


def server(
    arrival_s: np.ndarray,
    *,
    instances: int = 2,
    actuation: Actuation = IDEAL,
    jitter: bool = False,
    delay_s: float = 0.0,
) -> SimulatedServer:
    """A server that begins at 0."""
    return SimulatedServer(
        model=replace(EMULATED if jitter else STEADY, max_queue_delay_s=delay_s),
        arrival_s=arrival_s,
        start_s=0.0,
        instances=instances,
        seed=1,
        actuation=actuation,
    )


def settings(instances: int, *, max_batch_size: int = 8) -> Settings:
    """Of the emulated accelerator."""
    return Settings(
        instances=instances,
        max_batch_size=max_batch_size,
        dynamic_batching=True,
        max_queue_delay_s=0.0,
    )


def at(rate_rps: float, *, seconds: float = 60.0, seed: int = 3) -> np.ndarray:
    """Poisson arrivals."""
    return poisson(rate_rps, seconds, seed=seed).arrival_s


def ended_after(playing: SimulatedServer, begun_s: float, *, within_s: float = 60.0) -> float:
    """Seconds from the change's begin until it is told as ended."""
    for look in np.arange(begun_s, begun_s + within_s, 0.05):
        ended = playing.ended(float(look))
        if ended:
            return ended.at_s - begun_s
    return np.inf


@pytest.mark.parametrize("rate_rps", [20.0, 120.0, 160.0])
@pytest.mark.parametrize("delay_s", [0.0, 0.03])
def test_without_changes_it_is_the_queue_model(rate_rps: float, delay_s: float) -> None:
    """The same arrivals on constant instances: the core's simulator gives the same latencies."""
    arrival_s = at(rate_rps)
    playing = server(arrival_s, delay_s=delay_s)
    for second in range(70):  # looks must not disturb it
        playing.observe(float(second))
    playing.finish()
    expected = queueing.simulate(
        arrival_s,
        ServiceTime(alpha_s=STEADY.alpha_s, beta_s=STEADY.beta_s),
        instances=2,
        largest_batch=8,
        max_queue_delay_s=delay_s,
    )
    np.testing.assert_allclose(playing.latency_s(), expected.latency_s, atol=1e-9)


def test_mean_wait_of_a_single_server_is_that_of_theory() -> None:
    """M/D/1 (Pollaczek-Khinchine): the mean wait at ρ = 0.6 is ρ·ℓ / (2·(1 - ρ))."""
    service_s, load = 0.04, 0.6
    arrival_s = at(load / service_s, seconds=8000.0)
    playing = SimulatedServer(
        model=replace(STEADY, max_batch_size=1),
        arrival_s=arrival_s,
        start_s=0.0,
        instances=1,
        seed=1,
        actuation=IDEAL,
    )
    playing.finish()
    expected_s = load * service_s / (2 * (1 - load))
    assert float(playing.latency_s().mean() - service_s) == pytest.approx(expected_s, rel=0.05)


def test_jitter_scatters_the_batches_by_its_fraction() -> None:
    """Batches of one take ℓ(1)·(1 ± 3 %), cut off at three standard deviations."""
    arrival_s = np.arange(1.0, 4000.0)
    playing = server(arrival_s, jitter=True)
    playing.finish()
    factor = playing.latency_s() / (EMULATED.alpha_s + EMULATED.beta_s)
    assert factor.std() == pytest.approx(0.03, rel=0.1)
    assert np.abs(factor - 1).max() <= 0.09 + 1e-9


def test_every_request_is_answered_once_through_all_kinds_of_changes() -> None:
    """Overload, more, fewer, reloads, another batch size: nothing is lost or counted twice."""
    arrival_s = at(180.0)
    playing = server(arrival_s, actuation=Actuation(), jitter=True)
    asked = [(settings(4), True), (settings(6), False), (settings(3), False)]
    asked += [(settings(3, max_batch_size=4), False), (settings(5), False)]
    begun = False
    for look in np.arange(0.0, 90.0, 0.5):
        if begun and playing.ended(float(look)):
            begun = False
        if asked and not begun and look >= 5:
            wanted, fresh = asked.pop(0)
            playing.begin(wanted, fresh=fresh, at_s=float(look))
            begun = True
        counters = playing.observe(float(look)).counters
        assert counters is not None
        here = np.searchsorted(arrival_s, look, side="right")
        assert 0 <= here - counters.success - counters.pending <= 8 * 16
    playing.finish()
    assert not asked
    assert not begun
    latency_s = playing.latency_s()
    assert np.isfinite(latency_s).all()
    assert (latency_s > EMULATED.alpha_s + 0.9 * EMULATED.beta_s).all()
    last = playing.observe(1000.0)
    assert last.counters is not None
    assert last.counters.success == arrival_s.size
    assert last.counters.inference_count == arrival_s.size
    assert last.counters.pending == 0
    transport_s = Actuation().transport_s
    assert last.counters.request_s == pytest.approx(float((latency_s - transport_s).sum()))
    assert last.statistics is not None
    assert 0 < last.statistics.success_count < arrival_s.size  # it began anew with the last copy


def test_a_request_counts_when_it_is_answered_and_waits_until_its_batch_begins() -> None:
    """Ten at once on one instance: eight execute, two wait; the first look counts none."""
    playing = server(np.full(10, 1.0), instances=1)
    looks = [playing.observe(at_s).counters for at_s in (1.01, 1.1, 1.2)]
    assert [(c.success, c.pending) for c in looks if c] == [(0, 2), (8, 0), (10, 0)]
    assert [c.exec_count for c in looks if c] == [0, 1, 2]


def test_statistics_hold_the_time_of_each_batch_size() -> None:
    """What Conch learns from: seconds a batch are ℓ(b) and what Triton adds."""
    playing = server(at(150.0), actuation=replace(IDEAL, batch_s=0.001))
    seen = playing.observe(50.0)
    assert seen.statistics is not None
    assert len(seen.statistics.batches) >= 6
    for size, stat in seen.statistics.batches.items():
        expected_s = STEADY.alpha_s * size + STEADY.beta_s + 0.001
        assert stat.busy_s / stat.count == pytest.approx(expected_s)


def test_new_instances_work_when_they_have_loaded_and_the_call_returns_when_nothing_waits() -> None:
    """2 → 4 in place at 1.3 times the capacity: a real Triton took 3.3 s and 8 s."""
    arrival_s = at(215.0)
    playing = server(arrival_s, actuation=replace(Actuation(), probe_before_s=0.0))
    playing.observe(10.0)
    playing.begin(settings(4), fresh=False, at_s=10.0)
    done = {s: playing.observe(s).counters for s in (12.0, 13.0, 14.0, 15.0)}
    rates = [done[s + 1].success - done[s].success for s in (12.0, 14.0)]  # type: ignore[union-attr]
    assert rates[0] == pytest.approx(165.0, abs=15)
    assert rates[1] == pytest.approx(330.0, abs=20)
    assert playing.settings.instances == 2
    took_s = ended_after(playing, 10.0)
    assert 6.0 < took_s < 14.0
    assert playing.settings.instances == 4
    assert playing.observe(10.0 + took_s).counters.pending <= 8  # type: ignore[union-attr]


def test_an_update_in_place_never_returns_while_the_queue_is_never_empty() -> None:
    """2 → 3 at 1.8 times the capacity of 2 stays saturated; no other change can begin."""
    playing = server(at(300.0), actuation=Actuation())
    playing.begin(settings(3), fresh=False, at_s=10.0)
    assert ended_after(playing, 10.0, within_s=45.0) == np.inf
    assert playing.settings.instances == 2
    with pytest.raises(ValueError, match="in flight"):
        playing.begin(settings(8), fresh=True, at_s=56.0)


def test_a_reload_leaves_what_waited_to_the_old_copy() -> None:
    """From the swap on new requests are fast, and the old ones are worked off beside them."""
    arrival_s = at(215.0)
    playing = server(arrival_s, actuation=replace(Actuation(), probe_before_s=0.0))
    playing.observe(10.0)
    playing.begin(settings(4), fresh=True, at_s=10.0)
    took_s = ended_after(playing, 10.0)
    assert 3.0 < took_s < 4.0
    playing.finish()
    latency_s = playing.latency_s()
    probe_s = STEADY.alpha_s + STEADY.beta_s + Actuation().batch_s
    swap = np.searchsorted(arrival_s, 10.0 + took_s - probe_s)
    assert np.quantile(latency_s[swap : swap + 400], 0.99) < 0.25
    assert latency_s[swap - 30 : swap].min() > 1.0
    done_s = arrival_s + latency_s
    both = np.count_nonzero((done_s > 10.0 + took_s) & (done_s < 11.0 + took_s))
    assert both == pytest.approx(215 + 165, abs=40)


def test_the_inference_before_a_change_waits_behind_the_queue_up_to_its_deadline() -> None:
    """A backlog of 3 s holds the change up for 3 s; one of 20 s for the deadline."""
    behind = {}
    for rate_rps, deadline_s in ((215.0, 10.0), (400.0, 10.0), (215.0, 0.0)):
        playing = server(at(rate_rps), actuation=replace(Actuation(), probe_before_s=deadline_s))
        playing.begin(settings(4), fresh=True, at_s=12.0)
        behind[rate_rps, deadline_s] = ended_after(playing, 12.0)
    change_s = behind[215.0, 0.0]
    assert behind[215.0, 10.0] - change_s == pytest.approx(12 * (215 / 166.7 - 1), abs=0.8)
    assert behind[400.0, 10.0] - change_s == pytest.approx(10.0)


@pytest.mark.parametrize(("count", "parallel", "seconds"), [(3, True, 3.0), (3, False, 6.0)])
def test_load_time_is_obeyed(count: int, *, parallel: bool, seconds: float) -> None:
    """Two new instances load side by side, or one after the other."""
    playing = server(at(10.0), instances=1, actuation=replace(IDEAL, parallel=parallel))
    playing.begin(settings(count), fresh=False, at_s=5.0)
    assert ended_after(playing, 5.0) == pytest.approx(seconds, abs=0.1)


def test_what_is_paid_begins_with_loading_and_ends_with_removal() -> None:
    """1 → 3 in place, a reload to 2, and 2 → 1, each beside hardly any load."""
    playing = server(np.arange(0.5, 100.0), instances=1, actuation=replace(IDEAL, unload_s=2.0))
    playing.begin(settings(3), fresh=False, at_s=10.0)
    assert playing.ended(20.0)
    playing.begin(settings(2), fresh=True, at_s=30.0)
    assert playing.ended(40.0)
    playing.begin(settings(1), fresh=False, at_s=50.0)
    assert playing.ended(60.0)
    assert [count for _, count in playing.paid] == [1, 3, 5, 2, 1]
    times = [at_s for at_s, _ in playing.paid]
    assert times == pytest.approx([0.0, 10.0, 30.0, 35.0, 52.0], abs=0.05)
    assert slo.instance_seconds(playing.paid, 100.0) == pytest.approx(
        10 + 20 * 3 + 5 * 5 + 17 * 2 + 48, abs=0.5
    )


def test_surplus_instances_take_no_more_batches_at_once_though_the_call_takes_longer() -> None:
    """4 → 2: the new count shows after 0.2 s, the change ends after 2.5 s."""
    playing = server(at(50.0), instances=4, actuation=replace(Actuation(), probe_before_s=0.0))
    playing.begin(settings(2), fresh=False, at_s=10.0)
    assert playing.observe(10.1).applied == settings(4)
    assert playing.observe(10.3).applied == settings(2)
    assert ended_after(playing, 10.0) == pytest.approx(2.5, abs=0.1)


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
            terms={"expected_p99_s": 0.2},
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
        scenario("sawtooth", duration_s=60.0, seed=1)


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
