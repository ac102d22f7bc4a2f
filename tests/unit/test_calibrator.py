"""Full batches are measured by a few of our own, gently, and are no load."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from control.act.calibration_inputs import GivenInputs, read
from control.act.calibrator import BATCHES, MOST_S, SHARE, Calibrator, inputs_of
from control.core.load import windows
from control.core.memory.bounds import least_batch_limit
from control.core.own import Own
from control.core.policy import Policy
from control.core.types import Observation
from serving.client import InferenceFailed
from serving.metrics import ModelCounters
from serving.model_config import parse
from serving.statistics import BatchStat, ModelStatistics
from tests.unit.story import settings

CONFIG = """
name: "m"
backend: "onnxruntime"
max_batch_size: 16
input [ { name: "x" data_type: TYPE_FP32 dims: [ 4 ] }, { name: "ids" data_type: TYPE_INT64 dims: [ -1 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 4 ] } ]
model_warmup [ {
  name: "one" batch_size: 1
  inputs { key: "x" value { data_type: TYPE_FP32 dims: [ 4 ] random_data: true } }
  inputs { key: "ids" value { data_type: TYPE_INT64 dims: [ 32 ] zero_data: true } }
} ]
"""  # noqa: E501
BARE = CONFIG[: CONFIG.index("model_warmup")]


class Server:
    """Answers batches of b rows in ``alpha_s``·b + ``beta_s`` by a clock of its own."""

    def __init__(self, config: str = CONFIG, *, alpha_s: float = 0.01, beta_s: float = 0.0) -> None:
        self.made = parse(config)
        self.alpha_s, self.beta_s, self.now_s = alpha_s, beta_s, 0.0
        self.rows: list[int] = []
        self.first: dict[str, Any] = {}
        self.worked_s = 0.0
        self.fails = False

    def config(self, _: str) -> Any:
        """In force."""
        return self.made

    def infer(self, _: str, inputs: dict[str, Any], *, deadline_s: float) -> None:
        """One answer."""
        assert deadline_s > 0
        if self.fails:
            raise InferenceFailed("no")
        rows = len(next(iter(inputs.values())))
        self.first = self.first or inputs
        self.rows.append(rows)
        took_s = self.alpha_s * rows + self.beta_s
        self.worked_s += took_s
        self.now_s += took_s

    def sleep(self, seconds: float) -> None:
        """Time passes."""
        self.now_s += seconds


def _look(**changes: Any) -> Observation:
    seen = Observation(
        at_s=1.0, tick_id="t", counters=None, statistics=None, applied=settings(batch=16)
    )
    return replace(seen, **changes)


def _run(
    server: Server,
    *,
    measured: int = 0,
    given: dict[str, GivenInputs] | None = None,
    **policy: Any,
) -> tuple[Calibrator, Server]:
    """One look, and wait for what it began."""
    made = Calibrator(
        server,  # type: ignore[arg-type]
        Path("/nowhere"),
        {"m": Policy(slo_s=0.2, **policy)},
        given=given,
        sleep=server.sleep,
        clock=lambda: server.now_s,
    )
    made.looked("m", _look(), measured=measured)
    _wait(made)
    return made, server


def _wait(made: Calibrator) -> None:
    until_s = time.monotonic() + 10
    while made._models["m"].running and time.monotonic() < until_s:
        time.sleep(0.005)


def test_the_largest_batch_is_halved_until_it_takes_half_the_slo() -> None:
    """10 ms a row, 200 ms: 16 takes 160 and 8 takes 80; then one, and what lies between."""
    _, server = _run(Server())
    assert server.rows == [rows for rows in (16, 8, 1, 4, 2) for _ in range(BATCHES)]


def test_measuring_takes_a_twentieth_of_the_device_and_ends() -> None:
    """Its pauses are as long as its share asks for; a slow model ends it early."""
    _, server = _run(Server(), cores=4)
    assert server.worked_s / server.now_s == pytest.approx(4 * SHARE, rel=0.05)  # one of 4 cores
    _, slow = _run(Server(alpha_s=1.0))
    assert slow.worked_s <= MOST_S + BATCHES * 16.0


@pytest.mark.parametrize(
    ("config", "policy", "asked"),
    [
        (CONFIG, {}, True),
        (CONFIG, {"calibrate": False}, False),
        (BARE, {}, False),
        (BARE, {"calibrate": True}, True),
        (CONFIG.replace("onnxruntime", "python"), {}, False),
        (CONFIG.replace("onnxruntime", "python"), {"calibrate": True}, True),
        (CONFIG + "sequence_batching { }", {}, False),
        (CONFIG + "model_transaction_policy { decoupled: true }", {}, False),
        (CONFIG.replace("max_batch_size: 16", "max_batch_size: 0"), {"calibrate": True}, False),
    ],
)
def test_only_models_with_inputs_like_real_ones_are_asked(
    config: str, policy: dict[str, Any], asked: bool
) -> None:
    """Unless the owner says so."""
    assert bool(_run(Server(config), **policy)[1].rows) is asked


def test_given_inputs_are_those_that_are_sent(tmp_path: Path) -> None:
    """Not those of the warm-up; to a Python model, too. Ones that fit no more are not sent."""
    x, ids = np.float32([[1, 2, 3, 4], [5, 6, 7, 8]]), np.int64([[1, 2], [3, 4]])
    np.savez(tmp_path / "rows.npz", x=x, ids=ids)
    given = {"m": read(tmp_path / "rows.npz")}
    _, server = _run(Server(CONFIG.replace("onnxruntime", "python")), given=given, calibrate=True)
    assert server.rows[0] == 16
    assert server.first["x"].tolist() == x.tolist() * 8
    assert server.first["ids"].tolist() == ids.tolist() * 8
    changed = CONFIG.replace("dims: [ 4 ] }, {", "dims: [ 5 ] }, {")
    assert _run(Server(changed), given=given, calibrate=True)[1].rows == []


def test_what_is_known_is_not_measured_and_nothing_is_measured_twice() -> None:
    """Another thread count is another setting."""
    assert _run(Server(), measured=16)[1].rows == []
    made, server = _run(Server())
    sent = len(server.rows)
    made.looked("m", _look(), measured=0)
    _wait(made)
    assert len(server.rows) == sent
    made.looked("m", _look(threads=2), measured=0)
    _wait(made)
    assert len(server.rows) == 2 * sent


def test_measuring_ends_with_an_error_or_where_the_model_is_to_be_changed() -> None:
    """No harm is done by a model that refuses, and none by a change."""
    failing = Server()
    failing.fails = True
    made, _ = _run(failing)
    assert made.told("m", _look()).own == Own()
    server = Server()
    changed = Calibrator(
        server,  # type: ignore[arg-type]
        Path("/nowhere"),
        {"m": Policy(slo_s=0.2)},
        sleep=lambda _: changed.leave("m"),
        clock=lambda: server.now_s,
    )
    changed.looked("m", _look(), measured=0)
    _wait(changed)
    assert server.rows == [16]


def test_what_was_sent_is_told_and_is_no_load() -> None:
    """Totals, and those since the model was loaded; an interval has the batches and no arrivals."""
    made, server = _run(Server())
    before = made.told("m", _look(statistics=ModelStatistics(inference_count=500)))
    count, rows = len(server.rows), sum(server.rows)
    assert (before.own.requests, before.own.rows) == (count, rows)
    assert before.own.rows_loaded == rows
    after = made.told("m", _look(statistics=ModelStatistics(inference_count=5)))
    assert (after.own.rows, after.own.rows_loaded) == (rows, 0.0)

    stat = BatchStat(count=5, busy_s=0.8)
    start = _look(counters=ModelCounters(), statistics=ModelStatistics())
    end = _look(
        at_s=2.0,
        counters=ModelCounters(
            success=25, inference_count=20 + 5 * 16, request_s=1.0, compute_infer_s=0.9
        ),
        statistics=ModelStatistics(
            success_count=25, inference_count=100, execution_count=25, batches={16: stat}
        ),
        own=Own(requests=5, rows=80, seconds=0.8, requests_loaded=5, rows_loaded=80),
    )
    seen = windows.interval(start, end, stale_s=10.0)
    assert seen is not None
    assert (seen.arrivals, seen.completed) == (20.0, 20.0)
    assert seen.request_s == pytest.approx(0.2)
    assert seen.statistics is not None
    assert seen.statistics.batches == {16: stat}
    assert seen.statistics.success_count == 20
    assert least_batch_limit(end) == 1  # no request of others brought more than one row
    assert least_batch_limit(replace(end, own=Own())) == 16


def test_inputs_are_those_of_the_warm_up(tmp_path: Path) -> None:
    """Random, zeros, or what a file holds; none where a file is too short."""
    made = inputs_of(parse(CONFIG), tmp_path, rows=3, made_up=False)
    assert made is not None
    assert made["x"].shape == (3, 4)
    assert made["ids"].shape == (3, 32)
    assert not made["ids"].any()
    filed = CONFIG.replace("random_data: true", 'input_data_file: "x"')
    (tmp_path / "warmup").mkdir()
    np.arange(4, dtype=np.float32).tofile(tmp_path / "warmup" / "x")
    found = inputs_of(parse(filed), tmp_path, rows=2, made_up=False)
    assert found is not None
    assert found["x"].tolist() == [[0, 1, 2, 3]] * 2
    np.arange(3, dtype=np.float32).tofile(tmp_path / "warmup" / "x")
    assert inputs_of(parse(filed), tmp_path, rows=2, made_up=False) is None
