"""The report: self-contained, with its data beside it, whatever the run looked like."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest

from conch.errors import LoadError
from perf.replay_result import Outcome
from perf.report.contender import (
    ContenderResult,
    Marker,
    ReportMeta,
    TimelinePoint,
    VariantRow,
)
from perf.report.figures import numbered_decisions
from perf.report.page import write_report
from perf.traces import constant
from tests.unit.test_perf_result import a_result

START = TimelinePoint(at_s=0, instances=1, max_batch_size=1, max_queue_delay_s=0)
META = ReportMeta(title="A <b>title</b>", hardware="2 cores", date="today", command="conch demo")


def contenders() -> tuple[ContenderResult, ContenderResult]:
    """One that loses answers, and one that acts twice."""
    outcome = np.zeros(1000, dtype=np.int8)
    outcome[500:] = Outcome.LATE
    changed = TimelinePoint(at_s=4, instances=3, max_batch_size=8, max_queue_delay_s=0.002)
    return (
        ContenderResult(name="static", replay=a_result(outcome=outcome), timeline=(START,)),
        ContenderResult(
            name="conch",
            replay=a_result(),
            timeline=(START, changed),
            decisions=(
                Marker(at_s=3.9, label="instances 1 to 3", kind="instances"),
                Marker(at_s=4.0, label="batch 1 to 8", kind="batching"),
            ),
        ),
    )


def test_instance_seconds_come_from_the_timeline() -> None:
    """1 instance for 4 s and 3 for 6 s cost 22 instance-seconds."""
    assert [one.instance_seconds for one in contenders()] == [10.0, 22.0]


def test_decisions_are_numbered_in_the_order_of_time() -> None:
    """Numbers run over all contenders, so that the table and the figure agree."""
    one, two = contenders()
    early = ContenderResult(
        name="hpa",
        replay=one.replay,
        timeline=one.timeline,
        decisions=(Marker(at_s=1, label="x", kind="other"),),
    )
    numbered = numbered_decisions((early, two))
    assert [(number, index) for number, index, _ in numbered] == [(1, 0), (2, 1), (3, 1)]


def test_report_is_self_contained_and_escaped(tmp_path: Path) -> None:
    """The page loads nothing from elsewhere, escapes what it is given, and holds the figures."""
    variant = VariantRow(
        name="int8", size_bytes=23_000_000, latency_ms=4.7, fidelity=0.991, accepted=False
    )
    files = write_report(
        tmp_path / "out" / "report.html", constant(100, 10), contenders(), (variant,), META
    )
    page = files.html.read_text()
    assert not re.search(r"(src|href|srcset)=.?https?:", page)
    assert "<script" not in page
    assert "A &lt;b&gt;title&lt;/b&gt;" in page
    assert page.count("data:image/png;base64,") == 6
    assert "50.0 %" in page
    assert "100.0 %" in page
    assert "refused" in page
    assert all(picture.stat().st_size > 10_000 for picture in files.pngs)


def test_report_writes_the_data_of_its_figures(tmp_path: Path) -> None:
    """Each second of each contender is a row, and each decision too."""
    files = write_report(tmp_path / "r.html", constant(100, 10), contenders(), (), META)
    rows = {path.name: list(csv.DictReader(path.open())) for path in files.csvs}
    assert len(rows["windows.csv"]) == 20
    assert rows["windows.csv"][0]["p99_ms"] == "20.000"
    assert rows["windows.csv"][9]["p99_ms"] == "inf"
    assert [row["number"] for row in rows["decisions.csv"]] == ["1", "2"]
    assert len(rows["settings.csv"]) == 3


def test_report_refuses_contenders_of_another_trace(tmp_path: Path) -> None:
    """A comparison over different loads is no comparison."""
    with pytest.raises(LoadError, match="with this trace"):
        write_report(tmp_path / "r.html", constant(100, 5), contenders(), (), META)
    with pytest.raises(LoadError, match="0 contenders"):
        write_report(tmp_path / "r.html", constant(100, 5), (), (), META)
    assert not list(tmp_path.iterdir())
