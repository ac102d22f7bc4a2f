"""What the comparison with nobody in control concludes from its seconds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from cli.perf_never_worse import never_worse
from perf.bench.never_worse.compare import Compared, Pair, Verdict, block_interval
from perf.bench.never_worse.play import Played, changes_of
from perf.bench.never_worse.subjects import SHARES, SUBJECTS, Kind, Subject
from serving import model_config

SECONDS, RATE = 60, 50
BY_NAME = {subject.name: subject for subject in SUBJECTS}


def _played(good_fraction: float, *, failed: int = 0, invalid: str = "") -> Played:
    offered = np.full(SECONDS, RATE)
    good = np.round(offered * good_fraction).astype(np.int64)
    return Played(offered=offered, good=good, failed=failed, late=0, invalid_reason=invalid)


def _compared(subject: Subject, *pairs: Pair) -> Compared:
    return Compared(subject=subject, capacity_rps=100.0, rates_rps=(60.0, 78.0), pairs=pairs)


def _pair(alone: float, controlled: float, **kwargs: int) -> Pair:
    return Pair(alone=_played(alone), controlled=_played(controlled, **kwargs))


@pytest.mark.parametrize(
    ("name", "controlled", "worse"),
    [("sleep6", 1.0, False), ("sleep6", 0.98, True), ("burn1", 1.0, False), ("burn1", 0.96, True)],
)
def test_a_loss_of_attainment_is_worse(name: str, controlled: float, worse: bool) -> None:
    """Half a point for what waits, the interval's lower end for what burns."""
    verdict = _compared(BY_NAME[name], _pair(1.0, controlled)).verdict
    assert verdict is (Verdict.WORSE if worse else Verdict.OK)


def test_requests_that_fail_under_control_only_are_worse() -> None:
    """Whatever the attainment says."""
    assert _compared(BY_NAME["burn1"], _pair(1.0, 1.0, failed=1)).verdict is Verdict.WORSE


def test_a_comparison_without_a_valid_pair_does_not_pass() -> None:
    """A client that fell behind says nothing about the server."""
    pair = Pair(alone=_played(1.0, invalid="fell behind"), controlled=_played(1.0))
    compared = _compared(BY_NAME["sleep6"], pair)
    assert compared.counted == ()
    assert compared.verdict is Verdict.NOT_VALID


def test_the_interval_holds_the_difference_and_widens_with_its_bursts() -> None:
    """A loss in one block of seconds is less certain than the same loss everywhere."""
    everywhere = _pair(1.0, 0.9)
    in_one_block = replace(everywhere, controlled=_played(1.0))
    in_one_block.controlled.good[10:16] = 0
    low, high = block_interval([in_one_block])
    assert low <= in_one_block.difference <= high
    assert high - low > 0.1
    assert block_interval([everywhere]) == pytest.approx((-0.1, -0.1))


def test_the_interval_of_pairs_needs_two() -> None:
    """Student's t over three differences."""
    subject = BY_NAME["sleep6"]
    assert np.isnan(_compared(subject, _pair(1.0, 1.0)).by_pairs()[0])
    pairs = [_pair(1.0, good) for good in (1.0, 0.98, 0.96)]
    assert _compared(subject, *pairs).by_pairs() == pytest.approx((-0.0697, 0.0297), abs=1e-3)


def test_changes_are_told_with_what_differs() -> None:
    """Reason, the settings that changed, and a failure."""
    decision = {
        "reason": "REBATCH",
        "applied": {"instances": 1, "max_batch_size": 4},
        "desired": {"instances": 1, "max_batch_size": 32},
    }
    ticks = [
        {"ended": None},
        {"ended": {"decision": decision, "action": {"outcome": "applied"}}},
        {"ended": {"decision": decision, "action": {"outcome": "unchanged"}}},
        {"ended": {"decision": decision, "action": None}},
    ]
    assert changes_of(ticks) == (
        "REBATCH max_batch_size 4→32",
        "REBATCH max_batch_size 4→32 (failed)",
    )


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_a_subject_is_a_model_that_its_owner_could_serve(subject: Subject, tmp_path) -> None:
    """Its config parses, its sources compile, and what waits says what it carries."""
    subject.publish(tmp_path)
    folder = tmp_path / subject.name
    config = model_config.parse((folder / "config.pbtxt").read_text(), source=subject.name)
    assert config.name == subject.name
    source = folder / "1" / "model.py"
    if source.exists():
        compile(source.read_text(), str(source), "exec")
    assert (subject.capacity_rps is None) is (subject.kind is Kind.BURNS)
    assert max(SHARES[subject.kind]) < 0.8


def test_the_list_has_a_row_for_each_model() -> None:
    """A reader picks from it what `--models` takes."""
    shown = CliRunner().invoke(never_worse, ["--list"])
    assert shown.exit_code == 0
    for name, subject in BY_NAME.items():
        assert f"{name} " in shown.output
        assert subject.what in shown.output
