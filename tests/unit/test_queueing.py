"""The queue model against theory, and the capacity that is read off it."""

from __future__ import annotations

import numpy as np
import pytest

from control.core.queue_model import simulator
from control.core.service.learnt import ServiceTime
from tests.unit.story import TRUE

FIXED = ServiceTime(alpha_s=0.0, beta_s=0.01)


def _poisson(rate_rps: float, count: int = 60_000) -> np.ndarray:
    return np.cumsum(np.random.default_rng(7).exponential(1 / rate_rps, size=count))


@pytest.mark.parametrize("utilisation", [0.3, 0.6, 0.8])
def test_simulate_agrees_with_m_d_1(utilisation: float) -> None:
    """Without batching, mean wait = ρ·s / (2·(1 - ρ)) (Pollaczek-Khinchine)."""
    seen = simulator.simulate(
        _poisson(utilisation / 0.01), FIXED, instances=1, largest_batch=1, max_queue_delay_s=0
    )
    wait_s = float(seen.latency_s.mean()) - 0.01
    assert wait_s == pytest.approx(utilisation * 0.01 / (2 * (1 - utilisation)), rel=0.06)


def test_simulate_agrees_with_inoue_for_unbounded_batches() -> None:
    """Mean latency stays within 10% below the bound min(φ0, φ1) of Inoue (2021), B → ∞."""
    alpha, beta, rate = 0.001, 0.004, 400.0
    seen = simulator.simulate(
        _poisson(rate), TRUE, instances=1, largest_batch=10_000, max_queue_delay_s=0
    )
    la = rate * alpha
    phi0 = (alpha + beta) / (2 * (1 - la)) * (1 + 2 * rate * beta + (1 - rate * beta) / (1 + la))
    phi1 = 1.5 * beta / (1 - la) + alpha / 2 * (la + 2) / (1 - la**2)
    bound = min(phi0, phi1)
    assert 0.9 * bound <= float(seen.latency_s.mean()) <= 1.02 * bound


def test_simulate_serves_everyone_in_order_and_batches_greedily() -> None:
    """3 at once, B = 2, ℓ = 10 ms: two leave after 10 ms, the third after 20."""
    arrivals = np.array([0.0, 0.0, 0.0])
    seen = simulator.simulate(arrivals, FIXED, instances=1, largest_batch=2, max_queue_delay_s=0)
    assert seen.latency_s.tolist() == pytest.approx([0.01, 0.01, 0.02])
    assert seen.mean_batch == 1.5


def test_simulate_waits_for_the_delay_and_no_longer() -> None:
    """A lone request waits out d; two that fill the batch do not."""
    lone = simulator.simulate(
        np.array([0.0, 1.0]), FIXED, instances=1, largest_batch=2, max_queue_delay_s=0.005
    )
    assert lone.latency_s.tolist() == pytest.approx([0.015, 0.015])
    pair = simulator.simulate(
        np.array([0.0, 0.002]), FIXED, instances=1, largest_batch=2, max_queue_delay_s=0.005
    )
    assert pair.latency_s.tolist() == pytest.approx([0.012, 0.01])


def test_simulate_uses_every_instance() -> None:
    """4 at once on 4 instances all take one service time."""
    seen = simulator.simulate(np.zeros(4), FIXED, instances=4, largest_batch=1, max_queue_delay_s=0)
    assert seen.latency_s.tolist() == pytest.approx([0.01] * 4)


def test_a_small_delay_saves_work_at_low_load() -> None:
    """λ = 200/s, α = 1 ms, β = 4 ms: d = 5 ms lowers the busy share from about 0.76 to 0.59."""
    greedy = simulator.predict(200, TRUE, instances=1, largest_batch=32, max_queue_delay_s=0)
    patient = simulator.predict(200, TRUE, instances=1, largest_batch=32, max_queue_delay_s=0.005)
    assert greedy.busy_fraction == pytest.approx(0.76, abs=0.04)
    assert patient.busy_fraction == pytest.approx(0.59, abs=0.04)


def test_the_delay_runs_on_while_all_instances_are_busy() -> None:
    """B = 3, d = 8 ms, ℓ = 10 ms: what came at 12 ms starts when its delay ends, not later."""
    seen = simulator.simulate(
        np.array([0.0, 0.0, 0.0, 0.012]),
        FIXED,
        instances=1,
        largest_batch=3,
        max_queue_delay_s=0.008,
    )
    assert seen.latency_s[3] == pytest.approx(0.008 + 0.01)
    late = simulator.simulate(
        np.array([0.0, 0.0, 0.0, 0.001]),
        FIXED,
        instances=1,
        largest_batch=3,
        max_queue_delay_s=0.008,
    )
    assert late.latency_s[3] == pytest.approx(0.009 + 0.01)


def test_simulate_counts_overhead_transport_and_backlog() -> None:
    """Two wait already, B = 1: the second starts after ℓ and the overhead; transport is added."""
    seen = simulator.simulate(
        np.array([1.0]),
        FIXED,
        instances=1,
        largest_batch=1,
        max_queue_delay_s=0,
        overhead_s=0.002,
        transport_s=0.001,
        backlog_count=2,
    )
    assert seen.latency_s.tolist() == pytest.approx([0.011, 0.023, 0.011])


def test_scatter_of_the_service_time_makes_the_wait_longer() -> None:
    """M/G/1 at ρ = 0.8: the wait grows by 1 + cv² (Pollaczek-Khinchine); cv = 0.3."""
    scattered = ServiceTime(alpha_s=0.0, beta_s=0.01, cv_fraction=0.3)
    waits_s = [
        float(
            simulator.simulate(
                _poisson(80), curve, instances=1, largest_batch=1, max_queue_delay_s=0
            ).latency_s.mean()
        )
        - 0.01
        for curve in (FIXED, scattered)
    ]
    assert waits_s[1] / waits_s[0] == pytest.approx(1.09, abs=0.04)


@pytest.mark.parametrize("rate_rps", [300.0, 550.0, 640.0])
def test_keeps_agrees_with_predict(rate_rps: float) -> None:
    """Giving up early changes no answer."""
    setting = {"instances": 1, "largest_batch": 8, "max_queue_delay_s": 0.002}
    p99_s = simulator.predict(rate_rps, TRUE, **setting).p99_s
    assert simulator.keeps(rate_rps, TRUE, **setting, limit_s=p99_s * 1.02)
    assert not simulator.keeps(rate_rps, TRUE, **setting, limit_s=p99_s * 0.98)
