"""What the demo asks of the controlled run: late only while an unforeseen step is met."""

import numpy as np
import pytest

from demo.scenario import Scenario, settled_attainment

SCENARIO = Scenario(low_s=10.0, recovery_s=5.0, slo_s=0.1)


def late_at(*seconds: float) -> np.ndarray:
    """float64 [30], a latency for each second, beyond the SLO at ``seconds``."""
    latency_s = np.full(30, 0.05)
    latency_s[list(seconds)] = np.inf
    return latency_s


@pytest.mark.parametrize(
    ("late_s", "expected"),
    [
        pytest.param((), 1.0, id="never-late"),
        pytest.param((10, 12, 14), 1.0, id="late-in-the-recovery"),
        pytest.param((9,), 24 / 25, id="late-before-the-step"),
        pytest.param((15, 29), 23 / 25, id="late-from-the-end-of-the-recovery-on"),
    ],
)
def test_requests_count_unless_the_step_was_just_now(
    late_s: tuple[int, ...], expected: float
) -> None:
    """Only what is late outside of the recovery lowers it."""
    seen = settled_attainment(np.arange(30.0), late_at(*late_s), SCENARIO)
    assert seen == pytest.approx(expected)
