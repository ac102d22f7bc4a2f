"""The ablation takes out what it names, and gives it back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from click.testing import CliRunner

from cli.main import root as cli
from conch.errors import ConfigError
from control.core.load import demand
from perf.bench.control.ablation import play, table
from perf.bench.control.ablation.mechanisms import MECHANISMS, without
from perf.bench.control.ablation.play import Case, Outcome

CASE = Case(
    mechanism="", load="bursts", seed=1, idle_cost=play.IDLE_COST, neighbour=False, duration_s=200.0
)


@pytest.mark.parametrize("name", MECHANISMS)
def test_each_mechanism_is_taken_out_and_put_back(name: str) -> None:
    """Its names exist, are others while it is out, and are what they were afterwards."""
    before = [getattr(owner, attribute) for owner, attribute, _ in MECHANISMS[name].names]
    with without(name):
        for owner, attribute, value in MECHANISMS[name].names:
            assert getattr(owner, attribute) is value
    after = [getattr(owner, attribute) for owner, attribute, _ in MECHANISMS[name].names]
    assert after == before


def test_a_run_without_a_mechanism_is_another_run() -> None:
    """One window sees a burst later; without a mechanism named, nothing is changed."""
    whole, again = play.play(CASE), play.play(CASE)
    assert whole.late_fraction == again.late_fraction
    assert play.play(replace(CASE, mechanism="windows")).late_fraction != whole.late_fraction
    slowed = play.play(replace(CASE, neighbour=True))
    assert slowed.mean_instances > whole.mean_instances


def test_nothing_is_left_patched_after_an_error() -> None:
    """An exception in a run puts the mechanism back, too."""
    windows = demand.WINDOWS
    with pytest.raises(ZeroDivisionError), without("windows"):
        raise ZeroDivisionError
    assert windows == demand.WINDOWS


def test_rows_compare_with_the_runs_that_have_everything() -> None:
    """Means over loads and seeds; a load counts as changed where any of its seeds does."""

    def of(mechanism: str, load: str, seed: int, late: float) -> Outcome:
        return Outcome(
            case=replace(CASE, mechanism=mechanism, load=load, seed=seed),
            late_fraction=late,
            mean_instances=2.0,
            changes_per_hour=6.0,
            flaps=1,
        )

    outcomes = [
        of("", "a", 1, 0.00),
        of("", "b", 1, 0.02),
        of("jumps", "a", 1, 0.00),
        of("jumps", "b", 1, 0.04),
    ]
    whole, jumps = table.rows(outcomes)
    assert (whole.mechanism, whole.late_percent, whole.loads_changed) == (table.ALL, 1.0, 0)
    assert (jumps.late_percent, jumps.loads_changed) == (2.0, 1)
    assert (jumps.worst_load, jumps.worst_percent) == ("b", pytest.approx(4.0))
    text = table.markdown([whole, jumps])
    assert "| jumps | a jump must be as sure as noise | 2.00 | 2.00 | 6.0 | 1 | b, 4.00 % |" in text


@pytest.mark.parametrize("option", ["--without", "--load"])
def test_command_refuses_what_it_does_not_know(option: str) -> None:
    """With what there is."""
    result = CliRunner().invoke(cli, ["perf", "bench", "ablation", option, "nothing"])
    assert isinstance(result.exception, ConfigError)
    assert "must be one of" in result.exception.message
