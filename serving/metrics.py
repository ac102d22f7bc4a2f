"""Triton's ``/metrics`` text as typed counters, and the difference of two of them.

Pure. Triton counts times in µs; they become seconds here, once. Every series is summed over its
label sets (a GPU model has one per ``gpu_uuid``; pending and failures have none).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from prometheus_client.parser import text_string_to_metric_families

from conch.errors import ConchError


class MetricsError(ConchError):
    """The text is no Prometheus exposition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCounters:
    """Counters of one model since the server started; times are summed *per request*, in seconds.

    A batch of 8 adds its compute time 8 times, so ``compute_infer_s`` is no busy time. ``pending``
    is a gauge: requests that wait, not those that execute. ``rejected`` counts queue timeouts; an
    overflow of ``max_queue_size`` increments nothing.
    """

    success: float = 0.0
    failure: float = 0.0
    rejected: float = 0.0
    inference_count: float = 0.0
    exec_count: float = 0.0
    request_s: float = 0.0
    queue_s: float = 0.0
    compute_input_s: float = 0.0
    compute_infer_s: float = 0.0
    compute_output_s: float = 0.0
    pending: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One scrape.

    Attributes:
        models: counters by model name.
        request_p99_s: p99 of the request time over Triton's own window, by model, where the server
            runs with summary latencies.
    """

    models: Mapping[str, ModelCounters]
    request_p99_s: Mapping[str, float] = field(default_factory=dict)


_SERIES = {
    "nv_inference_request_success": ("success", 1.0),
    "nv_inference_request_failure": ("failure", 1.0),
    "nv_inference_count": ("inference_count", 1.0),
    "nv_inference_exec_count": ("exec_count", 1.0),
    "nv_inference_request_duration_us": ("request_s", 1e-6),
    "nv_inference_queue_duration_us": ("queue_s", 1e-6),
    "nv_inference_compute_input_duration_us": ("compute_input_s", 1e-6),
    "nv_inference_compute_infer_duration_us": ("compute_infer_s", 1e-6),
    "nv_inference_compute_output_duration_us": ("compute_output_s", 1e-6),
    "nv_inference_pending_request_count": ("pending", 1.0),
}
_SUMMARY = "nv_inference_request_summary_us"


def parse(text: str) -> Snapshot:
    """The counters in the text of ``GET /metrics``.

    Raises:
        MetricsError: when the text is no Prometheus exposition.
    """
    sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    p99: dict[str, float] = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                model = sample.labels.get("model")
                if model is None:
                    continue
                name = sample.name.removesuffix("_total")
                if name in _SERIES:
                    attribute, factor = _SERIES[name]
                    sums[model][attribute] += sample.value * factor
                    if attribute == "failure" and sample.labels.get("reason") == "REJECTED":
                        sums[model]["rejected"] += sample.value
                elif name == _SUMMARY and sample.labels.get("quantile") == "0.99":
                    p99[model] = max(p99.get(model, 0.0), sample.value * 1e-6)
    except (ValueError, KeyError, IndexError) as error:
        raise MetricsError(
            f"/metrics: {error}, must be Prometheus text.",
            hint="Is this Triton's metrics port?",
        ) from error
    return Snapshot(
        # A model without its main counter is not all there: no data, and not a load of zero.
        models={m: ModelCounters(**values) for m, values in sums.items() if "success" in values},
        request_p99_s=p99,
    )


def delta(old: ModelCounters, new: ModelCounters) -> ModelCounters | None:
    """What happened between two scrapes, or None when any counter went back (a reset) or is NaN.

    ``pending`` is the change of the gauge, and may be negative.
    """
    changes = {f.name: getattr(new, f.name) - getattr(old, f.name) for f in fields(ModelCounters)}
    if not all(math.isfinite(change) for change in changes.values()):
        return None
    # A summed duration may shrink by float rounding alone; a reset loses far more than that.
    if any(change < -1e-6 for name, change in changes.items() if name != "pending"):
        return None
    return ModelCounters(
        **{name: c if name == "pending" else max(0.0, c) for name, c in changes.items()}
    )
