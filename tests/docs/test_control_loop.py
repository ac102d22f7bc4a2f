"""The pages on the control loop have the code's order, reasons, terms and numbers."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from control.act import calibrator, probation
from control.core import reasons
from control.core.decision import limits
from control.core.decision.decide import PROPOSERS, Conch
from control.core.judgement import judge
from control.core.load import agreement, cache_use, demand
from control.core.load.agreement import Agreement
from control.core.load.cache_use import CacheUse
from control.core.memory import bounds
from control.core.memory.state import ControlState
from control.core.need import base, better_version, cached, hold, wanted
from control.core.policy import Policy
from control.core.queue_model import capacity, knowledge, simulator
from control.core.reasons import Reason
from control.core.service import evidence, slow_seconds, versions
from control.core.step import Looked, step
from control.core.types import Observation
from tests.unit.story import TRUE, Story, a_policy, settings

FOLDER = Path(__file__).parents[2] / "docs/explanation"
PAGE = (FOLDER / "control-loop.md").read_text(encoding="utf-8")
ROOMS = {path.stem: path.read_text(encoding="utf-8") for path in (FOLDER / "loop").glob("*.md")}
MOST_WORDS, MOST_WORDS_OF_A_ROOM = 1200, 550
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
        gauges={"may_load": (1, 2)},
    ).passes(8, load_rps=100)
    judged = replace(ControlState(), cache=CacheUse(hit_fraction=0.5))
    cache_terms = cached.terms(judged, replace(policy, response_cache=True))
    broken = Observation(at_s=math.nan, tick_id="t", counters=None, statistics=None, applied=None)
    _, held = step(Conch(), ControlState(), Looked(seen=broken), policy)
    contradicted = ControlState(agreement=Agreement(broken=True))
    _, doubted = step(Conch(), contradicted, Looked(seen=replace(broken, at_s=1.0)), policy)
    decisions = [*story.decisions, *outside.decisions, *cheap.decisions, held, doubted]
    names = {name for decision in decisions if decision for name in decision.terms} | set(
        cache_terms
    )
    return {re.sub(r"capacity_\d+_rps", "capacity_N_rps", name) for name in names}


def test_every_term_of_a_decision_has_a_meaning():
    """Whoever reads `conch control explain` finds each name on the page, and no other."""
    named = set(re.findall(r"`([a-z0-9N_]+)`", "\n".join(_first_cells(ROOMS["terms"]))))
    used = {name for name in terms_used() if not name.startswith("plan_")}
    assert named == used
    assert "`plan_…`" in ROOMS["terms"]
    assert any(name.startswith("plan_") for name in terms_used())


def test_first_page_is_short():
    """Who reads it sees the formulas and the path of a decision, and no more."""
    assert _words(PAGE) <= MOST_WORDS


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_page_of_a_room_is_short_and_linked_from_the_first(room: str):
    """Nobody has to search for a room, nor to read long in it."""
    assert _words(ROOMS[room]) <= MOST_WORDS_OF_A_ROOM
    assert f"](loop/{room}.md" in PAGE


def test_table_of_proposers_is_the_code_s():
    """First that speaks wins: the rows are in the order in which they are asked."""
    told = re.findall(r"^\| `([a-z_]+\.[a-z_]+)` \|", PAGE, flags=re.MULTILINE)
    asked = [f"{p.__module__.rpartition('.')[2]}.{p.__name__}" for p in PROPOSERS]
    assert told == asked


@pytest.mark.parametrize(
    "reason", [r for r in Reason if r not in reasons.RETIRED], ids=lambda reason: reason.name
)
def test_every_reason_is_on_the_first_page(reason: Reason):
    """The table says when each is given, or the text that none gives it."""
    assert f"`{reason.name}`" in PAGE


@pytest.mark.parametrize(
    "clamp", [c for c in reasons.Clamp if c not in reasons.RETIRED], ids=lambda clamp: clamp.name
)
def test_every_clamp_of_the_guard_is_on_its_page(clamp: reasons.Clamp):
    """The table says what each holds and what passes it."""
    assert f"`{clamp.name}`" in ROOMS["decision"]


@pytest.mark.parametrize(
    ("room", "text"),
    [
        ("load", ", ".join(f"{window_s:g} s: {z:g}" for window_s, z in demand.WINDOWS)),
        ("load", "(variance / mean), {:g} to {:g}".format(*demand.DISPERSION)),
        ("load", f"more than {demand.JUMP:g} times the rate of what came before"),
        ("load", f"by {demand.JUMP_Z:g} deviations"),
        ("load", f"Such a window takes {demand.JUMPED:g} z"),
        ("load", "summed over {:g} s and {:g} s".format(*agreement.WINDOWS_S)),
        ("load", f"differ by more than {agreement.SHARE * 100:g} %"),
        ("load", f"have agreed for {agreement.AGREED_S:g} s"),
        ("load", f"in blocks of {cache_use.BLOCK_REQUESTS} requests"),
        ("need", f"carry {wanted.RESERVE:g} times the highest load on record"),
        ("need", f"(T + {hold.SEEN_AND_DRAINED_S:g} s)"),
        ("queue-model", f"ρ = {POLICY.utilisation_limit:g}"),
        ("queue-model", f"{simulator.REQUESTS:,} Poisson arrivals"),
        ("queue-model", f"adds less than {knowledge.WORTH * 100:g} %"),
        ("queue-model", f"in steps of {capacity.ROUNDING * 100:g} %"),
        ("versions-and-cache", f"carries {better_version.TO_SPARE:g} times the load"),
        ("versions-and-cache", f"for {better_version.SHORT_FOR_S:g} s, or at once in a panic"),
        ("versions-and-cache", f"surely {better_version.GREAT:g} times that load"),
        ("versions-and-cache", f"takes {better_version.AS_DEAR * 100:.0f} % of the time"),
        ("versions-and-cache", f"is changed to only below {better_version.CHEAPER:g}"),
        ("versions-and-cache", f"expected to take {versions.GUESS:g} of the time"),
        ("versions-and-cache", f"trial waits for {cache_use.FIRST_WAIT_S / 3600:g} h"),
        ("versions-and-cache", f"did not pay, {cache_use.MOST_WAIT_S / 3600:g} h at most"),
        ("base-configuration", f"its capacity must be {base.LEAST_GAIN:g} times"),
        ("base-configuration", f"within {base.LIKE * 100:.0f} % of it"),
        ("base-configuration", f"- {base.TRANSPORT_S * 1e3:g} ms"),
        ("base-configuration", f"{calibrator.BATCHES} of the largest size"),
        ("base-configuration", f"as {calibrator.SHARE * 100:.0f} % of the device or the cores"),
        ("base-configuration", f"for {calibrator.MOST_S:g} s of work at most"),
        ("base-configuration", f"after {base.FIRST_PLAN_S:g} s"),
        ("base-configuration", f"by more than {bounds.BATCHED_REQUESTS:g} items a request"),
        ("service", f"half-life of {evidence.HALF_LIFE_S:g} s"),
        ("service", f"within {POLICY.settle_s:g} s of a change"),
        (
            "service",
            f"slow = 1 + max(0, {slow_seconds.Z:g} · σ - {slow_seconds.WITHIN_MARGINS:g})",
        ),
        ("service", f"average of {slow_seconds.LEVEL_S:g} s"),
        ("service", f"(of at least {slow_seconds.LEAST_BATCHES:g} batches)"),
        ("service", f"time constant {slow_seconds.KEPT_S:g} s"),
        ("service", f"expected to take {versions.GUESS:g} of the time"),
        ("decision", f"`reloads_per_hour` ({POLICY.reloads_per_hour})"),
        ("decision", f"`copies_per_hour` ({POLICY.copies_per_hour})"),
        ("decision", f"more than {POLICY.changes_per_hour} changes an hour"),
        ("decision", f"each {limits.COPY_MARGIN:g} times what one took"),
        ("judgement", f"{judge.LEAST_FAILED:g} failed"),
        ("judgement", f"fewer than {judge.LEAST_BATCHES:g} batches"),
        ("judgement", f"until {POLICY.watch_requests} requests were seen"),
        ("judgement", f"or {POLICY.watch_s:g} s have passed"),
        ("error-budget", f"Above {POLICY.burn_limit:g} over {POLICY.burn_long_s / 60:g} minutes"),
        ("error-budget", f"of at least {POLICY.burn_requests} requests"),
        ("act", f"answered for {probation.SETTLED_S:g} s"),
        ("act", f"is silent for {probation.SILENT_S:g} s meanwhile ({probation.BUSY_S:g} s where"),
    ],
)
def test_number_of_a_page_is_the_code_s(room: str, text: str):
    """A constant that is changed is changed on its page, too."""
    assert text in ROOMS[room]


def _words(page: str) -> int:
    """How many there are; the lines of a table and the signs of a formula are none."""
    return len(re.findall(r"\S*\w\S*", page))


def _first_cells(table: str) -> list[str]:
    """The first cell of each row."""
    return [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
