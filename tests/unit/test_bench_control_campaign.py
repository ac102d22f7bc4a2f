"""The campaign: what is stored is not made again, and nothing unfinished is stored."""

from __future__ import annotations

import math
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from perf.bench.control import campaign, plan, real, store
from perf.bench.control.plan import Item
from perf.bench.control.run import ControlRun
from tests.unit.control_runs import a_run, change


def test_stored_runs_come_back_as_they_were(tmp_path: Path) -> None:
    """With every request, change and number, nan and inf among them."""
    run = a_run(
        "conch",
        changes=(change(1, 2, 3.0, math.inf),),
        expected=((1.0, 0.2),),
        paid=((-5.0, 1), (3.0, 2)),
        controller_cpu_s=math.nan,
    )
    store.save(run, tmp_path, "key")
    found = store.load(tmp_path, "key")
    assert found is not None
    assert math.isnan(found.controller_cpu_s)
    assert replace(found, **dict.fromkeys(("intended_s", "latency_s", "controller_cpu_s"))) == (
        replace(run, **dict.fromkeys(("intended_s", "latency_s", "controller_cpu_s")))
    )
    np.testing.assert_array_equal(found.latency_s, run.latency_s)
    assert store.load(tmp_path, "another") is None


def test_room_is_what_keeps_the_machine_below_the_limit() -> None:
    """At least one run, and never more than the most."""
    assert [campaign.room_for(share) for share in (0.0, 0.01, 0.17, 0.31, 0.9)] == [1, 8, 3, 1, 1]


class Quiet:
    """A teller that remembers."""

    def __init__(self) -> None:
        self.stored: list[bool] = []

    def begins(self, item: Item) -> None:
        """Nothing."""

    def progress(self, item: Item, seen: object) -> None:
        """Nothing."""

    def ended(self, item: Item, run: ControlRun | None, *, stored: bool) -> None:
        """Whether it was there already."""
        self.stored.append(stored)

    def note(self, text: str) -> None:
        """Nothing."""


def campaign_of(folder: Path, rules: str, teller: Quiet) -> campaign.Campaign:
    """A campaign of short runs."""
    made = plan.made(
        {"stationary": 12.0}, plan.contenders(rules), (1,), warm_up_s=2.0, simulated=False
    )
    served = real.emulator(made.model) if made.model else None
    return campaign.Campaign(plan=made, served=served, folder=folder, teller=teller, side_by_side=2)


def test_a_second_start_makes_only_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the best static count is searched upwards until it attains."""
    played: list[tuple[str, int]] = []

    def play(served: object, asked: real.Play, **_: object) -> ControlRun:
        played.append((asked.label, asked.instances))
        missed = 0 if asked.rule != "static" or asked.instances > 3 else 400
        return a_run(asked.label, instances=asked.instances, missed=missed)

    monkeypatch.setattr(real, "play", play)
    monkeypatch.setattr(campaign, "first_static", lambda *_: 2)
    first, second = Quiet(), Quiet()
    runs = campaign_of(tmp_path, "static-best", first).make().runs
    assert played == [("static(count=2)", 2), ("static(count=3)", 3), ("static(count=4)", 4)]
    assert runs[0].rule == "static-best"
    assert runs[0].paid == ((-5.0, 4),)
    again = campaign_of(tmp_path, "static-best,conch", second).make().runs
    assert [run.rule for run in again] == ["static-best", "conch"]
    assert [label for label, _ in played[3:]] == ["conch"]
    assert sorted(second.stored) == [False, True]


def test_a_stopped_campaign_stores_nothing_unfinished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was cut short is not a result."""
    stop = threading.Event()

    def play(served: object, asked: real.Play, **_: object) -> ControlRun:
        stop.set()
        return a_run(asked.label, valid=False, invalid_reason="stopped")

    monkeypatch.setattr(real, "play", play)
    halted = campaign_of(tmp_path, "conch,inferline", Quiet())
    halted.stop = stop
    halted.make()
    assert not list(tmp_path.glob("*.json"))
