"""What came before the controller: asked of Prometheus, told to the core, and of use at once."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from conch.errors import TritonUnavailable
from control import session, sources
from control.core import seasonal
from control.core.foresight import Foresight
from control.core.policies.conch import Conch
from control.core.state import ControlState
from control.core.step import Started, step
from control.history import PrometheusHistory, Rates, nothing
from control.journal import Journal
from control.loop import ControlLoop, Mode
from control.policy_file import PolicyFile
from tests.unit.story import Story, a_policy

PERIOD_S = 240.0
START_S = 1000.0
Series = list[dict[str, Any]]


def _answered_by(monkeypatch: pytest.MonkeyPatch, *answers: Series) -> list[str]:
    """Prometheus gives these answers in turn; gives the queries."""
    asked: list[str] = []
    left = list(answers)

    def answer(self: object, query: str, **_: float) -> Series:
        asked.append(query)
        return left.pop(0)

    monkeypatch.setattr(sources.Prometheus, "range", answer)
    return asked


def _series(model: str, *values: tuple[float, str]) -> dict[str, Any]:
    return {"metric": {"model": model}, "values": [list(value) for value in values]}


def _wave(until_s: float) -> Rates:
    """As much of a wave of 50 to 150 req/s as a history holds, in its bins."""
    first = until_s - seasonal.RECALLED_S
    return tuple(
        (at_s, 100.0 + 50.0 * math.sin(2 * math.pi * at_s / PERIOD_S))
        for k in range(1, seasonal.MAX_BINS + 1)
        for at_s in [first + k * seasonal.BIN_S]
    )


def test_models_are_asked_for_together_and_seldom_scraped_ones_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One query for all; of a minute's mean where the steps have holes, and true in its middle."""
    asked = _answered_by(
        monkeypatch,
        [
            _series("a.b", (90.0, "2.5"), (100.0, "3.5")),
            _series("holes", (10.0, "1"), (100.0, "1")),
            _series("other", (90.0, "9")),
        ],
        [_series("holes", (90.0, "4"), (100.0, "5.00049"))],
    )
    history = PrometheusHistory("http://p", instance="s:1")
    found = history.rates(["holes", "a.b", "new"], last_s=95.0, step_s=10.0, now_s=109.9)
    assert found == {"a.b": ((90.0, 2.5), (100.0, 3.5)), "holes": ((65.0, 4.0), (75.0, 5.0))}
    assert len(asked) == 2
    assert 'model=~"a[.]b|holes|new",instance="s:1"}[10000ms]' in asked[0]
    assert 'model=~"holes|new",instance="s:1"}[60000ms]' in asked[1]


def test_what_is_no_rate_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the source, so that the journal has none, and by the core, whatever a journal has."""
    bad = ["NaN", "+Inf", "-Inf", "-1"]
    values = [(5.0 * k, rps) for k, rps in enumerate(["1", *bad, "2", "3"], start=1)]
    _answered_by(monkeypatch, [_series("m", *values)], [_series("m", *values)])
    found = PrometheusHistory("http://p").rates(["m"], last_s=60.0, step_s=5.0, now_s=60.0)
    assert [rps for _, rps in found["m"]] == [1.0, 2.0, 3.0]
    told = tuple((at_s, float(rps)) for at_s, rps in values)
    told += ((math.nan, 1.0), (math.inf, 1.0), (40.0, 1e300), (45.0, 4.0), (50.0, 9.0))
    history = Foresight.recalled(told, until_s=45.0).history
    assert (*history.rates_rps, history.requests) == (1.0,) * 5 + (2.0, 3.0, 3.0, 20.0)


def _refuses(_: threading.Event) -> None:
    raise TritonUnavailable("gone", hint="")


def _is_another(_: threading.Event) -> None:
    raise KeyError("data")


def _is_silent(end: threading.Event) -> None:
    end.wait(10.0)
    raise TritonUnavailable("too late", hint="")


@pytest.mark.parametrize(
    ("behaves", "said"),
    [(_refuses, "gone"), (_is_another, "KeyError"), (_is_silent, "no whole answer in 0.2 s")],
)
def test_a_prometheus_that_does_not_answer_costs_a_line_and_no_start(
    monkeypatch: pytest.MonkeyPatch, behaves: Callable[[threading.Event], None], said: str
) -> None:
    """However many models; what was told until then counts."""
    end = threading.Event()
    models = [f"m{k:02d}" for k in range(60)]
    asked: list[str] = []

    def answer(self: object, query: str, **_: float) -> Series:
        asked.append(query)
        if len(asked) > 1:
            behaves(end)
        return [_series(name, (5.0, "1")) for name in models[:20]]

    monkeypatch.setattr(sources.Prometheus, "range", answer)
    try:
        with capture_logs() as lines:
            found = PrometheusHistory("http://p", deadline_s=0.2).rates(
                models, last_s=10.0, step_s=5.0
            )
    finally:
        end.set()
    assert list(found) == models[:20]
    assert [line["event"] for line in lines] == ["history.unreachable"]
    assert said in lines[0]["error"]
    assert len(asked) == 2


def test_only_a_policy_with_a_prometheus_has_a_history(monkeypatch: pytest.MonkeyPatch) -> None:
    """As much as the core can hold, of the server that is meant."""
    assert session.history_of(PolicyFile()) is nothing
    ranges: list[float] = []

    def answer(self: object, query: str, *, start_s: float, end_s: float, step_s: float) -> Series:
        assert 'instance="s:1"' in query
        ranges.append((end_s - start_s) / step_s)
        return [_series("m", (5.0, "1"))]

    monkeypatch.setattr(sources.Prometheus, "range", answer)
    policy = PolicyFile(prometheus="http://p", prometheus_instance="s:1")
    assert session.history_of(policy)(["m"]) == {"m": ((5.0, 1.0),)}
    assert ranges == [seasonal.MAX_BINS]


def test_a_season_is_found_at_the_second_look_after_a_restart() -> None:
    """Without the history it takes two periods; with it the first interval is enough."""
    event = Started(at_s=START_S, history=_wave(START_S))
    for history, period_s in ((event.history, PERIOD_S), ((), 0.0)):
        began, nothing_decided = step(
            Conch(), ControlState(), Started(at_s=START_S, history=history), a_policy()
        )
        assert nothing_decided is None
        story = Story(state=began, at_s=START_S).passes(2, load_rps=100)
        assert story.decisions[-1].terms["season_s"] == pytest.approx(period_s, abs=2.0)


class _Hands:
    """An actuator that has nothing to bring into force; it says when it was asked."""

    def __init__(self, order: list[str]) -> None:
        self.order = order

    def reconcile(self, model: str) -> None:
        """Nothing to do."""
        self.order.append(model)


@pytest.fixture
def started(
    tmp_path: Path,
) -> Iterator[Callable[[Mode, Mapping[str, Rates]], tuple[ControlLoop, Journal, list[str]]]]:
    """A loop over the models a and b that has started with this history."""
    with Journal(tmp_path / "journal") as journal:

        def start(mode: Mode, told: Mapping[str, Rates]) -> tuple[ControlLoop, Journal, list[str]]:
            order: list[str] = []

            def history(models: Collection[str]) -> Mapping[str, Rates]:
                order.append(",".join(models))
                return told

            loop = ControlLoop(
                policies={"a": a_policy(), "b": a_policy()},
                observer=cast(Any, None),
                actuator=cast(Any, _Hands(order)),
                journal=journal,
                mode=mode,
                history=history,
                clock=lambda: START_S,
            )
            journal.start_run(
                at_s=START_S,
                mode=mode.value,
                policies=loop.policies,
                rules=dict.fromkeys("ab", Conch()),
            )
            loop.start()
            journal.flush()
            return loop, journal, order

        yield start


@pytest.mark.parametrize("mode", list(Mode))
def test_loop_asks_once_and_journals_what_it_was_told(started: Any, mode: Mode) -> None:
    """For all models together, after what is on disk is in force; advice knows it, too."""
    rates = ((START_S - 5.0, 7.0), (START_S, 8.0))
    loop, journal, order = started(mode, {"a": rates})
    assert order == (["a", "b", "a,b"] if mode is Mode.ACTIVE else ["a,b"])
    assert loop._states["a"].foresight.history.rates_rps == (7.0,)
    events = {name: [r.event for r in journal.records(1, name) if r.event] for name in "ab"}
    assert events["a"] == [Started(at_s=START_S, history=rates)]
    # An advisory loop that is told nothing begins with an empty memory, and no event.
    assert events["b"] == ([Started(at_s=START_S)] if mode is Mode.ACTIVE else [])
