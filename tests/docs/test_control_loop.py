"""The page on the control loop has every reason and term, and the numbers of the code."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from control.act import calibrator
from control.core import types
from control.core.load import cache_use, demand
from control.core.load.cache_use import CacheUse
from control.core.memory.state import ControlState
from control.core.need import base, better_version, cached, wanted
from control.core.rules.conch import Conch
from control.core.service import slow_seconds, versions
from control.core.step import Looked, step
from control.core.types import Observation, Policy, Reason
from tests.unit.story import TRUE, Story, a_policy, settings

PAGE = (Path(__file__).parents[2] / "docs/explanation/control-loop.md").read_text(encoding="utf-8")
GUARD = (Path(__file__).parents[2] / "docs/explanation/guard.md").read_text(encoding="utf-8")
TERMS = PAGE.split("## The terms of a decision")[1]
POLICY = Policy(slo_s=0.1)


def terms_used() -> set[str]:
    """The terms of some lives: a jump, a budget, a plan, too many, a version; and the cache's.

    Counts become N.
    """
    policy = a_policy(rebatch=True)
    story = (
        Story(policy=policy, cap=4, slots=5)
        .measured()
        .passes(20, load_rps=100)
        .passes(10, load_rps=1500)
    )
    outside = Story(applied=settings(6)).passes(8, load_rps=100)
    cheap = Story(
        policy=a_policy(versions=(1, 2)),
        curves={1: TRUE, 2: TRUE.scaled(0.5)},
        applied=replace(settings(), version=2),
    ).passes(8, load_rps=100)
    judged = replace(ControlState(), cache=CacheUse(hit_fraction=0.5))
    cache_terms = cached.terms(judged, replace(policy, response_cache=True))
    broken = Observation(at_s=math.nan, tick_id="t", counters=None, statistics=None, applied=None)
    _, held = step(Conch(), ControlState(), Looked(seen=broken), policy)
    decisions = [*story.decisions, *outside.decisions, *cheap.decisions, held]
    names = {name for decision in decisions if decision for name in decision.terms} | set(
        cache_terms
    )
    return {re.sub(r"capacity_\d+_rps", "capacity_N_rps", name) for name in names}


def test_every_term_of_a_decision_has_a_meaning():
    """Whoever reads `conch control explain` finds each name on the page, and no other."""
    named = set(re.findall(r"`([a-z0-9N_]+)`", "\n".join(_first_cells(TERMS))))
    used = {name for name in terms_used() if not name.startswith("plan_")}
    assert named == used
    assert "`plan_…`" in TERMS
    assert any(name.startswith("plan_") for name in terms_used())


@pytest.mark.parametrize(
    "reason", [r for r in Reason if r not in types.RETIRED], ids=lambda reason: reason.name
)
def test_every_reason_is_on_the_page(reason: Reason):
    """The table says when each is given, or the text that none gives it."""
    assert f"`{reason.name}`" in PAGE


@pytest.mark.parametrize(
    ("page", "text"),
    [
        (PAGE, ", ".join(f"{window_s:g} s: {z:g}" for window_s, z in demand.WINDOWS)),
        (PAGE, "(variance / mean), {:g} to {:g}".format(*demand.DISPERSION)),
        (PAGE, f"more than {demand.JUMP:g} times the rate of what came before"),
        (PAGE, f"by {demand.JUMP_Z:g} deviations"),
        (PAGE, f"Such a window takes {demand.JUMPED:g} z"),
        (PAGE, f"carry {wanted.RESERVE:g} times the highest load on record"),
        (PAGE, f"(T + {wanted.SEEN_AND_DRAINED_S:g} s)"),
        (PAGE, f"ρ = {POLICY.utilisation_limit:g}"),
        (PAGE, f"carries {better_version.TO_SPARE:g} times the load"),
        (PAGE, f"its capacity must be {base.LEAST_GAIN:g} times"),
        (PAGE, f"within {base.LIKE * 100:.0f} % of it"),
        (PAGE, f"{calibrator.BATCHES} of the largest size"),
        (PAGE, f"as {calibrator.SHARE * 100:.0f} % of the device or the cores"),
        (PAGE, f"for {calibrator.MOST_S:g} s of work at most"),
        (PAGE, f"after {base.FIRST_PLAN_S:g} s"),
        (PAGE, f"for {better_version.SHORT_FOR_S:g} s, in a panic at once"),
        (PAGE, f"takes {better_version.AS_DEAR * 100:.0f} % of the time"),
        (PAGE, f"is changed to only below {better_version.CHEAPER:g}"),
        (PAGE, f"expected to take {versions.GUESS:g} of the time"),
        (PAGE, f"The next trial waits for {cache_use.FIRST_WAIT_S / 3600:g} h"),
        (PAGE, f"did not pay, {cache_use.MOST_WAIT_S / 3600:g} h at most"),
        (
            PAGE,
            f"slow = 1 + max(0, {slow_seconds.Z:g} · σ - {slow_seconds.WITHIN_MARGINS:g})",
        ),
        (PAGE, f"average of {slow_seconds.LEVEL_S:g} s"),
        (PAGE, f"(of at least {slow_seconds.LEAST_BATCHES:g} batches)"),
        (PAGE, f"time constant {slow_seconds.KEPT_S:g} s"),
        (PAGE, f"by more than {types.BATCHED_REQUESTS:g} items a request"),
        (GUARD, f"Above {POLICY.burn_limit:g} over {POLICY.burn_long_s / 60:g} minutes"),
    ],
)
def test_number_of_the_page_is_the_code_s(page: str, text: str):
    """A constant that is changed is changed on the page, too."""
    assert text in page


def _first_cells(table: str) -> list[str]:
    """The first cell of each row."""
    return [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
