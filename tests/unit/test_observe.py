"""Configs as the loop's settings, and back; what a Prometheus of several servers is asked."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from conch.errors import ConfigError, TritonUnavailable
from control.act.knobs import settings_of, threads_of, threads_ours, with_settings
from control.watch import machine, prometheus
from control.watch.machine import Machine
from control.watch.observe import Observer
from control.watch.shown import CONFIG_EVERY_S
from control.watch.sources import Sample
from serving import metrics, model_config
from serving.client import TritonClient
from serving.model_config import ModelConfig
from serving.repository import Repository
from serving.statistics import ModelStatistics

CPU = """
name: "m" backend: "onnxruntime" max_batch_size: 8
instance_group [{ kind: KIND_CPU count: 2 }]
dynamic_batching { max_queue_delay_microseconds: 1500 }
"""


def test_with_settings_and_settings_of_are_inverse() -> None:
    """Every knob goes into the config and comes out again."""
    config = model_config.parse(CPU)
    wanted = replace(
        settings_of(config),
        instances=3,
        max_batch_size=4,
        max_queue_delay_s=0.005,
        threads=2,
        version=3,
        response_cache=True,
        refuse_after_s=0.25,
    )
    changed = with_settings(config, wanted)
    assert settings_of(changed) == wanted
    back = replace(settings_of(config), threads=2)
    assert settings_of(with_settings(changed, back)) == back
    several = model_config.with_versions(config, [1, 2])
    assert (settings_of(several).version, settings_of(several).standby) == (2, (1,))
    assert settings_of(model_config.with_newest_version(config)).version is None


def test_with_settings_leaves_an_equal_config_alone() -> None:
    """Nothing wanted, nothing touched: not even a preferred batch size."""
    config = model_config.parse(CPU)
    config.dynamic_batching.preferred_batch_size.append(8)
    assert with_settings(config, settings_of(config)) == config


@pytest.mark.parametrize(
    ("text", "threads", "ours"),
    [
        (CPU + 'parameters { key: "intra_op_thread_count" value { string_value: "3" } }', 3, True),
        (CPU.replace("onnxruntime", "python"), 1, False),
        (CPU.replace("KIND_CPU", "KIND_GPU"), 1, False),
    ],
)
def test_threads_are_ours_only_for_onnxruntime_on_the_cpu(
    text: str, threads: int, ours: bool
) -> None:
    """A GPU instance or another backend is left alone, and takes no core from another."""
    config = model_config.parse(text)
    assert (threads_of(config), threads_ours(config)) == (threads, ours)


def _answers(monkeypatch: pytest.MonkeyPatch, *answers: list[dict[str, Any]]) -> list[str]:
    """Prometheus gives these answers in turn; gives the queries."""
    asked: list[str] = []
    left = list(answers)

    def now(self: object, query: str) -> list[dict[str, Any]]:
        asked.append(query)
        return left.pop(0)

    monkeypatch.setattr(prometheus.Prometheus, "now", now)
    return asked


def _series(name: str, value: float, **labels: str) -> dict[str, Any]:
    return {"metric": {"__name__": name, **labels}, "value": [0, str(value)]}


SUCCESS = "nv_inference_request_success"


def test_prometheus_is_asked_once_for_all_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counters, their times and the gateway's totals: three queries, however many models."""
    asked = _answers(
        monkeypatch,
        [
            _series(SUCCESS, 5, model="a.b", instance="s:1"),
            _series(SUCCESS, 7, model="c", instance="s:1"),
            _series("nv_cpu_utilization", 0.5, instance="s:1"),
            _series("nv_cpu_utilization", 0.9, instance="other:1"),
        ],
        [_series("", 100.5, model="a.b"), _series("", 101.5, model="c")],
        [_series("", 42, conch="c")],
    )
    source = prometheus.PrometheusCounters("http://p", arrivals='hits{to="MODEL"}')
    sample = source.sample(["a.b", "c"])
    assert len(asked) == 3
    assert 'model=~"a[.]b|c"' in asked[0]
    assert 'sum(hits{to="a.b"})' in asked[2]
    seen = sample.counters("c")
    assert seen is not None
    assert (seen.success, sample.at_s) == (7, {"a.b": 100.5, "c": 101.5})
    assert sample.arrivals == {"c": 42}
    assert sample.snapshot.host is not None
    assert sample.snapshot.host.busy_fraction == 0.5


def test_prometheus_of_a_fleet_must_be_told_which_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sum over servers is the load of none of them."""
    two = [_series(SUCCESS, 5, model="m", instance=name) for name in ("s:1", "s:2")]
    _answers(monkeypatch, two)
    with pytest.raises(ConfigError, match="2 servers") as refused:
        prometheus.PrometheusCounters("http://p").sample(["m"])
    assert "prometheus_instance: s:1" in refused.value.hint
    asked = _answers(monkeypatch, two[:1], [])
    prometheus.PrometheusCounters("http://p", instance="s:1").sample(["m"])
    assert 'instance="s:1"' in asked[0]


def test_copy_is_estimated_from_the_files_where_no_process_is_seen(tmp_path: Path) -> None:
    """Twice the newest version; nothing is made up where there is none."""
    folder = tmp_path / "m" / "2" / "weights"
    folder.mkdir(parents=True)
    (folder / "w").write_bytes(b"x" * 500)
    config, repository = model_config.parse(CPU), Repository(tmp_path)
    assert Machine().copy_bytes("m", config, repository, [1, 2]) == 1000
    assert Machine().copy_bytes("m", config, repository, []) is None
    assert Machine().copy_bytes("m", config, None, [1]) is None


def test_gpu_of_a_model_is_its_busiest_and_its_fullest() -> None:
    """Other GPUs of the machine do not count; without any nothing is said."""
    text = (
        'nv_inference_request_success{model="m",gpu_uuid="A"} 1\n'
        'nv_inference_request_success{model="m",gpu_uuid="B"} 1\n'
    )
    for name, busy, used in (("A", 0.2, 90), ("B", 0.6, 10), ("C", 0.9, 99)):
        text += f'nv_gpu_utilization{{gpu_uuid="{name}"}} {busy}\n'
        text += f'nv_gpu_memory_total_bytes{{gpu_uuid="{name}"}} 100\n'
        text += f'nv_gpu_memory_used_bytes{{gpu_uuid="{name}"}} {used}\n'
    snapshot = metrics.parse(text)
    use = machine.gpu_use("m", snapshot)
    assert (use.busy_fraction, use.memory_free_bytes) == (0.6, 10)
    assert machine.gpu_use("other", snapshot) == machine.Use()


class _Triton:
    """A server that shows a config and counts how often it is asked."""

    def __init__(self) -> None:
        self.instances, self.requests, self.asked = 1, 0, 0

    def statistics(self, model: str) -> ModelStatistics:
        """Of ``requests``."""
        return ModelStatistics(inference_count=self.requests, success_count=self.requests)

    def config(self, model: str, *, versions: tuple[int, ...]) -> ModelConfig:
        """With ``instances``."""
        self.asked += 1
        return model_config.with_instances(model_config.parse(CPU), self.instances)


class _NoCounters:
    """A source without a model."""

    def sample(self, models: Collection[str]) -> Sample:
        """Nothing."""
        return Sample(snapshot=metrics.parse(""), at_s={})


def test_the_config_is_asked_for_where_it_may_have_changed(tmp_path: Path) -> None:
    """Not at every look; but after seconds, a reload, a written file, or when it is said."""
    (tmp_path / "m").mkdir()
    file = tmp_path / "m" / "config.pbtxt"
    file.write_text(CPU)
    server, now_s = _Triton(), 1000.0
    observer = Observer(cast(TritonClient, server), _NoCounters(), Repository(tmp_path))

    def instances(*, renew: bool = False) -> int:
        seen = observer.look("m", clock=lambda: now_s, renew=renew)
        assert seen.applied is not None
        return seen.applied.instances

    server.requests = 5
    assert instances() == 1
    server.instances, server.requests = 2, 9
    assert instances() == 1  # nothing speaks of it
    assert instances(renew=True) == 2
    server.instances, server.requests = 3, 0  # a reload begins to count anew
    assert instances() == 3
    server.instances = 4
    os.utime(file, ns=(1, 1))
    assert instances() == 4
    server.instances, now_s = 5, now_s + CONFIG_EVERY_S
    assert instances() == 5
    server.instances, now_s = 6, now_s - 60.0  # the clock was set back
    assert instances() == 6
    assert server.asked == 6


def test_an_outage_is_told_once_and_when_it_is_over() -> None:
    """Not once a look: an hour of it would be thousands of lines."""

    class Away:
        def __getattr__(self, name: str) -> Any:
            def call(*_: object, **__: object) -> Any:
                raise TritonUnavailable("Triton: away.")

            return call

    observer = Observer(Away(), Away())  # type: ignore[arg-type]
    with capture_logs() as logs:
        for _ in range(20):
            observer.look("m", survey=observer.survey(["m"]))
    told = [entry["event"] for entry in logs]
    assert told == ["counters.unreachable", "triton.unreachable"]
