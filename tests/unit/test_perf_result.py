"""What a replay's result says of itself: valid or not, failed or late, and what it saves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conch.errors import ConfigError, ThresholdMissed
from perf import perf_table, thresholds
from perf.replay_result import Outcome, ReplayResult


def a_result(**changes: Any) -> ReplayResult:
    """1,000 requests in 10 s, each answered in 20 ms and sent 1 ms late."""
    intended_s = np.arange(1000) / 100
    values: dict[str, Any] = {
        "trace_name": "t",
        "description": "made",
        "seed": 1,
        "model": "m",
        "duration_s": 10.0,
        "slo_s": 0.05,
        "deadline_s": 60.0,
        "processes": 1,
        "epoch_monotonic_s": 5.0,
        "client_cpu_s": 0.5,
        "intended_s": intended_s,
        "sent_s": intended_s + 0.001,
        "done_s": intended_s + 0.020,
        "outcome": np.zeros(1000, dtype=np.int8),
        "error_index": np.full(1000, -1, dtype=np.int16),
    }
    return ReplayResult(**{**values, **changes})


def with_outcomes(outcome: Outcome, count: int) -> ReplayResult:
    """The same with the first ``count`` requests ended otherwise."""
    outcomes = np.zeros(1000, dtype=np.int8)
    outcomes[:count] = outcome
    return a_result(outcome=outcomes)


def test_latency_counts_from_the_intended_time() -> None:
    """The replayer's own delay is part of the latency, never hidden."""
    summary = a_result().summary()
    assert summary["p50_ms"] == 20.0
    assert summary["lag_p99_ms"] == 1.0
    assert summary["slo_attainment"] == 1.0
    assert summary["client_cpu_us_per_request"] == 500.0
    assert summary["valid"] is True


def test_result_is_invalid_when_the_replayer_fell_behind() -> None:
    """A p99 lag above 10 ms describes the client, so the run is not valid."""
    slow = a_result(sent_s=np.arange(1000) / 100 + 0.011)
    assert not slow.valid
    assert "fell behind" in slow.invalid_reason


def test_lag_limit_grows_with_a_lax_slo() -> None:
    """A tenth of the SLO is allowed when that is more than 10 ms."""
    assert a_result(slo_s=0.5, sent_s=np.arange(1000) / 100 + 0.04).valid


def test_result_is_invalid_when_requests_were_not_sent() -> None:
    """A run that was cut short or lost a sender says so."""
    assert "3 of 1000" in with_outcomes(Outcome.UNSENT, 3).invalid_reason
    assert a_result(trouble="a sender died").invalid_reason == "a sender died"


def test_late_is_missed_but_not_failed() -> None:
    """A request without an answer in time is an SLO miss and nobody's error."""
    summary = with_outcomes(Outcome.LATE, 100).summary()
    assert (summary["failed"], summary["late"]) == (0, 100)
    assert summary["slo_attainment"] == 0.9
    assert summary["p99_ms"] is None
    assert summary["valid"] is True


def test_failed_is_missed_and_counted_with_its_reason() -> None:
    """Errors are counted by their text, most frequent first."""
    outcome = np.zeros(1000, dtype=np.int8)
    index = np.full(1000, -1, dtype=np.int16)
    outcome[:5] = Outcome.FAILED
    index[:2], index[2:5] = 0, 1
    result = a_result(outcome=outcome, error_index=index, errors=("rare", "common"))
    assert result.summary()["failed"] == 5
    assert list(result.error_counts().items()) == [("common", 3), ("rare", 2)]


def test_result_is_the_same_when_saved_and_loaded(tmp_path: Path) -> None:
    """Every row and figure survives the disk."""
    result = with_outcomes(Outcome.LATE, 7)
    result.save(tmp_path / "run")
    back = ReplayResult.load(tmp_path / "run")
    assert back.summary() == result.summary()
    assert np.array_equal(back.done_s, result.done_s)


def test_load_says_so_when_there_is_no_result(tmp_path: Path) -> None:
    """A folder without a result, or with a damaged one, is an error and not a traceback."""
    with pytest.raises(ConfigError, match="no result"):
        ReplayResult.load(tmp_path)
    (tmp_path / "requests.npz").write_bytes(b"damaged")
    with pytest.raises(ConfigError, match="no result"):
        ReplayResult.load(tmp_path)


def test_table_shows_what_was_never_answered() -> None:
    """The terminal's table copes with figures that do not exist."""
    text = perf_table.of_replay(with_outcomes(Outcome.LATE, 100).summary())
    assert "none in time" in text
    assert "90.00 %" in text


@pytest.mark.parametrize(
    ("text", "figures", "hit"),
    [
        ("p99_ms>50", {"p99_ms": 51.0}, True),
        ("p99_ms>50", {"p99_ms": 50.0}, False),
        ("p99_ms >= 50", {"p99_ms": 50.0}, True),
        ("slo_attainment<0.99", {"slo_attainment": 0.98}, True),
        ("p99_ms>50", {"p99_ms": None}, True),
    ],
)
def test_threshold_fails_on_the_bad_side(text: str, figures: dict[str, Any], hit: bool) -> None:
    """A threshold names the failing side, and a figure that is missing for good fails."""
    assert thresholds.parse(text).hit_by(figures) is hit


def test_thresholds_name_what_was_missed() -> None:
    """The error carries the figure, its value and the bound; exit code 5."""
    with pytest.raises(ThresholdMissed, match=r"p99_ms = 51.0 \(p99_ms>50\)") as caught:
        thresholds.check([thresholds.parse("p99_ms>50")], {"p99_ms": 51.0}, what="run")
    assert caught.value.exit_code == 5


def test_threshold_suggests_the_name_when_it_is_unknown() -> None:
    """A slip in a figure's name is an error with the nearest name."""
    with pytest.raises(ConfigError, match="Did you mean 'p99_ms'"):
        thresholds.parse("p99ms>50").hit_by({"p99_ms": 3.0, "model": "m"})
    for text in ("p99_ms", "p99_ms=5", "p99_ms>fifty", ">5"):
        with pytest.raises(ConfigError, match="--fail-on"):
            thresholds.parse(text)
