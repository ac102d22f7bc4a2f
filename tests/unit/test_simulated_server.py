"""The simulated Triton at constant instances: its queue, its batches, and what it counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from control.core.queue_model import simulator
from control.core.service.learnt import ServiceTime
from perf.bench.control.scenarios import EMULATED
from perf.bench.control.simulated import IDEAL, SimulatedServer
from tests.unit.simulated import STEADY, at, server


@pytest.mark.parametrize("rate_rps", [20.0, 120.0, 160.0])
@pytest.mark.parametrize("delay_s", [0.0, 0.03])
def test_without_changes_it_is_the_queue_model(rate_rps: float, delay_s: float) -> None:
    """The same arrivals on constant instances: the core's simulator gives the same latencies."""
    arrival_s = at(rate_rps)
    playing = server(arrival_s, delay_s=delay_s)
    for second in range(70):  # looks must not disturb it
        playing.observe(float(second))
    playing.finish()
    expected = simulator.simulate(
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
