"""The queue model against theory, and the capacity that is read off it."""

from __future__ import annotations

import numpy as np
import pytest

from control.core import queueing
from control.core.capacity import capacity_rps
from control.core.service_time import ServiceTime
from tests.unit.story import TRUE, a_policy

FIXED = ServiceTime(alpha_s=0.0, beta_s=0.01)


def _poisson(rate_rps: float, count: int = 60_000) -> np.ndarray:
    return np.cumsum(np.random.default_rng(7).exponential(1 / rate_rps, size=count))


@pytest.mark.parametrize("utilisation", [0.3, 0.6, 0.8])
def test_simulate_agrees_with_m_d_1(utilisation: float) -> None:
    """Without batching, mean wait = ρ·s / (2·(1 - ρ)) (Pollaczek-Khinchine)."""
    seen = queueing.simulate(
        _poisson(utilisation / 0.01), FIXED, instances=1, largest_batch=1, max_queue_delay_s=0
    )
    wait_s = float(seen.latency_s.mean()) - 0.01
    assert wait_s == pytest.approx(utilisation * 0.01 / (2 * (1 - utilisation)), rel=0.06)


def test_simulate_agrees_with_inoue_for_unbounded_batches() -> None:
    """Mean latency stays within 10% below the bound min(φ0, φ1) of Inoue (2021), B → ∞."""
    alpha, beta, rate = 0.001, 0.004, 400.0
    seen = queueing.simulate(
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
    seen = queueing.simulate(arrivals, FIXED, instances=1, largest_batch=2, max_queue_delay_s=0)
    assert seen.latency_s.tolist() == pytest.approx([0.01, 0.01, 0.02])
    assert seen.mean_batch == 1.5


def test_simulate_waits_for_the_delay_and_no_longer() -> None:
    """A lone request waits out d; two that fill the batch do not."""
    lone = queueing.simulate(
        np.array([0.0, 1.0]), FIXED, instances=1, largest_batch=2, max_queue_delay_s=0.005
    )
    assert lone.latency_s.tolist() == pytest.approx([0.015, 0.01])
    pair = queueing.simulate(
        np.array([0.0, 0.002]), FIXED, instances=1, largest_batch=2, max_queue_delay_s=0.005
    )
    assert pair.latency_s.tolist() == pytest.approx([0.012, 0.01])


def test_simulate_uses_every_instance() -> None:
    """4 at once on 4 instances all take one service time."""
    seen = queueing.simulate(np.zeros(4), FIXED, instances=4, largest_batch=1, max_queue_delay_s=0)
    assert seen.latency_s.tolist() == pytest.approx([0.01] * 4)


def test_a_small_delay_saves_work_at_low_load() -> None:
    """λ = 200/s, α = 1 ms, β = 4 ms: d = 5 ms lowers the busy share from about 0.76 to 0.59."""
    greedy = queueing.predict(200, TRUE, instances=1, largest_batch=32, max_queue_delay_s=0)
    patient = queueing.predict(200, TRUE, instances=1, largest_batch=32, max_queue_delay_s=0.005)
    assert greedy.busy_fraction == pytest.approx(0.76, abs=0.04)
    assert patient.busy_fraction == pytest.approx(0.59, abs=0.04)


def _capacity(instances: int = 1, batch: int = 8, slo_s: float = 0.05) -> float:
    return capacity_rps(
        TRUE,
        instances=instances,
        largest_batch=batch,
        max_queue_delay_s=0,
        policy=a_policy(slo_s=slo_s),
    )


def test_capacity_grows_with_instances_and_with_the_slo() -> None:
    """More of either carries more, and never more than full batches can."""
    assert 1.8 * _capacity(1) < _capacity(2) < 2.3 * _capacity(1)
    assert _capacity(slo_s=0.03) < _capacity(slo_s=0.05) <= 8 / TRUE.of(8)


def test_capacity_grows_with_the_batch_where_the_fixed_cost_is_large() -> None:
    """β = 4α: batches of 8 carry about three times what single requests do."""
    assert _capacity(batch=8) > 2.5 * _capacity(batch=1)


def test_capacity_is_zero_when_the_service_time_alone_misses_the_slo() -> None:
    """ℓ(1) = 5 ms cannot meet 4 ms."""
    assert _capacity(slo_s=0.004) == 0.0
