"""The closed form as a filter: near enough to the simulator over the whole grid."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from control.core import closed_form, queueing
from control.core.service_time import ServiceTime
from tests.unit.story import TRUE


def test_closed_form_is_within_its_factor_of_the_simulator() -> None:
    """0.5 to 1.7 times the simulated p99 over curves, c, B, d and ρ."""
    ratios = []
    for alpha_ms, c, batch, delay, load in itertools.product(
        (0.2, 1.0, 4.0), (1, 2, 4, 8), (1, 8, 32), (0.0, 1.0), (0.3, 0.6, 0.8, 0.9)
    ):
        curve = ServiceTime(alpha_s=alpha_ms / 1e3, beta_s=0.004)
        rate_rps = load * c * batch / curve.of(batch)
        setting = {
            "instances": c,
            "largest_batch": batch,
            "max_queue_delay_s": delay * curve.of(1),
        }
        simulated = queueing.predict(rate_rps, curve, **setting).p99_s
        ratios.append(closed_form.p99_s(rate_rps, curve, **setting).item() / simulated)
    assert min(ratios) >= 0.5
    assert max(ratios) <= 1.7


def test_closed_form_answers_a_whole_grid_and_knows_overload() -> None:
    """667/s are full batches of 8: 600 has a p99, 700 has none; two instances carry both."""
    found = closed_form.p99_s(
        np.array([600.0, 700.0]),
        TRUE,
        instances=np.array([[1], [2]]),
        largest_batch=8,
        max_queue_delay_s=0.0,
    )
    assert np.isfinite(found).tolist() == [[True, False], [True, True]]


@pytest.mark.parametrize("rate_rps", [50.0, 400.0, 800.0])
def test_mean_bound_is_just_above_the_simulated_mean(rate_rps: float) -> None:
    """Inoue's bound holds, and is no more than 10 % too high."""
    bound_s = closed_form.mean_bound_s(rate_rps, alpha_s=TRUE.alpha_s, beta_s=TRUE.beta_s)
    mean_s = queueing.predict(
        rate_rps, TRUE, instances=1, largest_batch=5000, max_queue_delay_s=0.0
    ).latency_s.mean()
    assert 0.9 * bound_s <= mean_s <= 1.02 * bound_s
