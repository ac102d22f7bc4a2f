"""Reading perf_analyzer's report; the text is one that version 2.51.0 wrote."""

from __future__ import annotations

import pytest

from conch.errors import LoadError
from perf.perf_analyzer import PerfResult, parse_report, to_csv

REPORT = """\
Request Rate,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,\
Server Compute Input,Server Compute Infer,Server Compute Output,Client Recv,p50 latency,\
p90 latency,p95 latency,p99 latency,Avg latency,request/response,response wait
100,94.9444,8,416,92,28,244,88,1,758,1351,1668,2989,879,9,862
200,185.679,6,209,48,20,173,126,1,510,713,837,2561,586,7,572
"""


def test_report_gives_one_level_a_row_in_milliseconds() -> None:
    """Microseconds become milliseconds, and a batch of 2 halves the requests a second."""
    levels = parse_report(REPORT, batch=2)
    assert [level.load for level in levels] == [100, 200]
    assert levels[0].throughput_rps == pytest.approx(47.472, abs=1e-3)
    assert levels[0].inferences_rps == pytest.approx(94.944, abs=1e-3)
    assert (levels[0].avg_ms, levels[0].p99_ms, levels[0].queue_ms) == (0.879, 2.989, 0.092)
    assert levels[1].infer_ms == 0.173


def test_report_reads_concurrency_and_delayed_requests() -> None:
    """The closed loop's column and the count of late sends are read where they are."""
    text = REPORT.replace("Request Rate,", "Concurrency,Delayed Request Count,").replace(
        "100,94", "4,7,94"
    )
    levels = parse_report("\n".join(text.splitlines()[:2]), batch=1)
    assert (levels[0].load, levels[0].delayed_count) == (4, 7)


@pytest.mark.parametrize(
    "text",
    ["", "Request Rate\n", "Request Rate,p50 latency\n1,2\n", REPORT.replace("94.9444", "many")],
)
def test_report_of_another_form_is_refused(text: str) -> None:
    """A missing column, a word for a number or no row at all is an error, not a zero."""
    with pytest.raises(LoadError, match="report"):
        parse_report(text, batch=1)


def test_csv_has_a_line_for_each_level() -> None:
    """Our own CSV has our field names and one line per load."""
    result = PerfResult(
        model="m",
        kind="rate",
        batch=1,
        distribution="poisson",
        duration_s=6,
        shapes={},
        origin="wheel",
        levels=tuple(parse_report(REPORT, batch=1)),
    )
    lines = to_csv(result).splitlines()
    assert lines[0].startswith("load,throughput_rps,")
    assert len(lines) == 3
    assert result.as_json()["version"] == 1
