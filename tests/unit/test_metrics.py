"""Triton's metrics and statistics: sums over label sets, differences, resets."""

from __future__ import annotations

import pytest

from serving import metrics, statistics
from serving.metrics import Device, MetricsError, ModelCounters
from serving.statistics import BatchStat, ModelStatistics

# As Triton 2.51 prints it, for a model on two GPUs.
TEXT = """\
# HELP nv_inference_request_success Number of successful inference requests, all batch sizes
# TYPE nv_inference_request_success counter
nv_inference_request_success{gpu_uuid="GPU-1",model="m",version="1"} 10
nv_inference_request_success{gpu_uuid="GPU-2",model="m",version="1"} 5
nv_inference_request_success{model="other",version="1"} 7
# HELP nv_inference_request_failure Number of failed inference requests, all batch sizes
# TYPE nv_inference_request_failure counter
nv_inference_request_failure{model="m",reason="REJECTED",version="1"} 2
nv_inference_request_failure{model="m",reason="BACKEND",version="1"} 1
# HELP nv_inference_queue_duration_us Cumulative inference queuing duration in microseconds
# TYPE nv_inference_queue_duration_us counter
nv_inference_queue_duration_us{gpu_uuid="GPU-1",model="m",version="1"} 1500000
nv_inference_queue_duration_us{gpu_uuid="GPU-2",model="m",version="1"} 500000
# HELP nv_inference_pending_request_count Instantaneous number of pending requests
# TYPE nv_inference_pending_request_count gauge
nv_inference_pending_request_count{model="m",version="1"} 3
# HELP nv_inference_request_summary_us Summary of inference request duration
# TYPE nv_inference_request_summary_us summary
nv_inference_request_summary_us_count{model="m",version="1"} 15
nv_inference_request_summary_us_sum{model="m",version="1"} 100
nv_inference_request_summary_us{model="m",version="1",quantile="0.99"} 42000
nv_inference_request_summary_us{model="m",version="1",quantile="0.5"} 9000
nv_inference_request_summary_us{model="other",version="1",quantile="0.99"} Nan
# HELP nv_cache_num_hits_per_model Number of cache hits per model
# TYPE nv_cache_num_hits_per_model counter
nv_cache_num_hits_per_model{model="m",version="1"} 4
nv_cache_num_misses_per_model{model="m",version="1"} 11
# HELP nv_cpu_utilization CPU utilization rate [0.0 - 1.0]
# TYPE nv_cpu_utilization gauge
nv_cpu_utilization 0.5
nv_cpu_memory_total_bytes 2.5e+10
nv_cpu_memory_used_bytes 1e+10
nv_gpu_utilization{gpu_uuid="GPU-1"} 0.25
nv_gpu_utilization{gpu_uuid="GPU-2"} 0.75
nv_gpu_memory_total_bytes{gpu_uuid="GPU-1"} 80
nv_gpu_memory_used_bytes{gpu_uuid="GPU-1"} 30
"""


def test_parse_sums_over_label_sets_and_converts_to_seconds() -> None:
    """A GPU model has one series per GPU; taking the first would lose the rest."""
    counters = metrics.parse(TEXT).models["m"]
    assert counters == ModelCounters(
        success=15, failure=3, rejected=2, queue_s=2.0, pending=3, cache_hits=4, cache_misses=11
    )


def test_parse_keeps_models_apart_and_reads_the_p99() -> None:
    """Another model's numbers stay its own; the summary gives Triton's p99."""
    snapshot = metrics.parse(TEXT)
    assert snapshot.models["other"].success == 7
    assert snapshot.request_p99_s == {"m": pytest.approx(0.042)}


def test_parse_reads_the_gauges_of_each_device() -> None:
    """A GPU by its uuid, and which of them a model answers on; the machine without one."""
    snapshot = metrics.parse(TEXT)
    assert snapshot.gpus["GPU-1"].memory_free_bytes == 50
    assert snapshot.gpus["GPU-2"] == Device(busy_fraction=0.75)
    assert snapshot.gpus["GPU-2"].memory_free_bytes is None
    assert snapshot.gpus_of == {"m": {"GPU-1", "GPU-2"}}
    assert snapshot.host is not None
    assert snapshot.host.memory_free_bytes == 15_000_000_000
    assert metrics.parse('nv_inference_request_success{model="m"} 1\n').host is None


@pytest.mark.parametrize(
    "line",
    [
        'nv_inference_request_success{model="a\\"b}",version="1"} 7',  # an escape
        'nv_inference_request_success{ model="a\\"b}" , version="1" }  7 1700000000000',
        'nv_inference_request_success{model="a\\"b}"} +7.0e0',
    ],
)
def test_parse_leaves_lines_that_are_not_plain_to_the_library(line: str) -> None:
    """What Triton does not print today is read as well, only slower."""
    assert metrics.parse(line + "\n").models['a"b}'].success == 7


@pytest.mark.parametrize("text", ["<html>", "nv_inference_count{model=", "a b c d\n", 'x{y="z"} q'])
def test_parse_refuses_what_is_no_exposition(text: str) -> None:
    """A web page on the wrong port is an error, not an empty server."""
    with pytest.raises(MetricsError):
        metrics.parse(text)


HOSTILE = ["a\rb", "\x0b\x0c\x1c\x1d\x1e", "\x85\u2028\u2029", 'a\\b\nc"d', "\\" * 2000, 'x",_m="y']


@pytest.mark.parametrize("value", HOSTILE)
def test_a_metric_tag_of_one_model_hides_nothing_of_others(value: str) -> None:
    """Triton writes any text as a label's value, with the three escapes of the format."""
    written = value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
    line = f'nv_inference_request_success{{_tag="{written}",model="hostile",version="1"}} 3\n'
    found = metrics.parse(TEXT + 200 * line).models
    assert found["hostile"].success == 600
    assert found["m"] == metrics.parse(TEXT).models["m"]
    ((_, labels, _),) = metrics._samples(line)
    assert labels == {"_tag": value, "model": "hostile", "version": "1"}


def test_a_page_with_windows_line_ends_is_read() -> None:
    """From a proxy that writes them."""
    assert metrics.parse(TEXT.replace("\n", "\r\n")) == metrics.parse(TEXT)


def test_delta_is_what_happened_in_between() -> None:
    """Counters differ, and the gauge's change may be negative."""
    old = ModelCounters(success=10, queue_s=1.0, pending=5)
    new = ModelCounters(success=25, queue_s=1.5, pending=2)
    assert metrics.delta(old, new) == ModelCounters(success=15, queue_s=0.5, pending=-3)


def test_delta_is_none_when_a_counter_went_back() -> None:
    """A server that restarted counts from zero; the difference means nothing."""
    assert metrics.delta(ModelCounters(success=10), ModelCounters(success=3)) is None


def test_delta_stands_where_only_the_cache_counts_from_zero_again() -> None:
    """Its counts go with the copy of the model that had the cache."""
    change = metrics.delta(
        ModelCounters(success=10, cache_hits=9, cache_misses=1), ModelCounters(success=12)
    )
    assert change == ModelCounters(success=2)


def test_delta_of_nan_is_none() -> None:
    """A number that is none is no load of zero."""
    assert metrics.delta(ModelCounters(), ModelCounters(success=float("nan"))) is None


def test_parse_leaves_out_a_model_that_is_not_all_there() -> None:
    """Only the pending gauge stays of an unloaded model: that is no data."""
    text = 'nv_inference_pending_request_count{model="gone",version="1"} 0\n'
    assert metrics.parse(text).models == {}


def test_delta_forgives_float_rounding() -> None:
    """A summed duration may lose a bit of its last digit."""
    assert metrics.delta(ModelCounters(queue_s=0.3), ModelCounters(queue_s=0.1 + 0.2)) is not None
    assert metrics.delta(ModelCounters(queue_s=0.1 + 0.2), ModelCounters(queue_s=0.3)) is not None


def _statistics(count: int, busy_s: float) -> ModelStatistics:
    return ModelStatistics(
        inference_count=4 * count,
        execution_count=count,
        success_count=4 * count,
        batches={4: BatchStat(count=count, busy_s=busy_s)},
    )


def test_statistics_delta_counts_each_batch_once() -> None:
    """Six more batches of 4 in 60 ms."""
    change = statistics.delta(_statistics(10, 0.1), _statistics(16, 0.16))
    assert change is not None
    assert change.batches[4].count == 6
    assert change.batches[4].busy_s == pytest.approx(0.06)


def test_statistics_delta_is_none_after_a_reload() -> None:
    """A full reload zeroes them; so does a batch size that vanished."""
    assert statistics.delta(_statistics(10, 0.1), _statistics(4, 0.04)) is None
    gone = ModelStatistics(inference_count=50, execution_count=20, success_count=50)
    assert statistics.delta(_statistics(10, 0.1), gone) is None


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_free_memory_that_is_no_number_is_not_told(odd: float) -> None:
    """A driver that fails shows such gauges."""
    assert Device(memory_total_bytes=odd, memory_used_bytes=1.0).memory_free_bytes is None
    assert Device(memory_total_bytes=8.0, memory_used_bytes=odd).memory_free_bytes is None
    assert Device(memory_total_bytes=8.0, memory_used_bytes=9.0).memory_free_bytes == 0
