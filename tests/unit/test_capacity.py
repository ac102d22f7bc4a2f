"""Capacity read off the queue model: monotone, scale-free, zero where nothing can be kept."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from control.core.queue_model.capacity import capacity_rps
from control.core.service.learnt import ServiceTime
from tests.unit.story import TRUE, a_policy


def _capacity(
    instances: int = 1,
    batch: int = 8,
    slo_s: float = 0.05,
    delay_s: float = 0.0,
    service: ServiceTime = TRUE,
    **added: float,
) -> float:
    return capacity_rps(
        service,
        instances=instances,
        largest_batch=batch,
        max_queue_delay_s=delay_s,
        policy=a_policy(slo_s=slo_s),
        **added,
    )


def test_capacity_grows_with_instances_and_with_the_slo() -> None:
    """More of either carries more, and never more than full batches can."""
    assert 1.8 * _capacity(1) < _capacity(2) < 2.3 * _capacity(1)
    assert _capacity(slo_s=0.03) < _capacity(slo_s=0.05) <= 8 / TRUE.of(8)


def test_capacity_grows_with_the_batch_where_the_fixed_cost_is_large() -> None:
    """β = 4α: batches of 8 carry about three times what single requests do."""
    assert _capacity(batch=8) > 2.5 * _capacity(batch=1)


def test_capacity_is_zero_when_the_service_time_alone_misses_the_slo() -> None:
    """ℓ(1) = 5 ms cannot meet 4 ms, nor 6 ms when 3 ms go into the transport."""
    assert _capacity(slo_s=0.004) == 0.0
    assert _capacity(slo_s=0.008, transport_s=0.003) == 0.0


def test_capacity_is_zero_when_a_lone_request_waits_too_long() -> None:
    """A delay of 45 ms leaves none of 50 for the batch, however soon a high load fills it."""
    assert _capacity(delay_s=0.045) == 0.0


def test_overhead_costs_capacity() -> None:
    """1 ms after each batch of up to 12 ms takes about a twelfth."""
    assert 0.85 < _capacity(overhead_s=0.001) / _capacity() < 0.97


@settings(max_examples=25, deadline=None)
@given(
    alpha=st.floats(0.001, 0.05),
    beta=st.floats(0.0, 0.3),
    batch=st.sampled_from([1, 3, 8, 32]),
    delay=st.sampled_from([0.0, 0.05]),
)
def test_more_instances_never_carry_less(
    alpha: float, beta: float, batch: int, delay: float
) -> None:
    """At equal ℓ, for any curve, batch size and delay."""
    curve = ServiceTime(alpha_s=alpha, beta_s=beta)
    found = [
        _capacity(count, batch, slo_s=1.0, delay_s=delay, service=curve) for count in range(1, 6)
    ]
    assert found == sorted(found)


def test_capacity_depends_on_ratios_only() -> None:
    """All times ten times as long: a tenth of the capacity."""
    slow = _capacity(2, slo_s=0.5, delay_s=0.02, service=TRUE.scaled(10.0))
    assert slow == pytest.approx(_capacity(2, slo_s=0.05, delay_s=0.002) / 10, rel=1e-9)
