"""Triton's ``/metrics`` text as typed counters, and the difference of two of them.

Pure. Triton counts times in µs; they become seconds here, once. Every series is summed over its
label sets (a GPU model has one per ``gpu_uuid``; pending and failures have none). A page has
three times the lines that are of use here; the others are passed over.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
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
    overflow of ``max_queue_size`` increments nothing. A request that the response cache answers is
    a success and a hit, and no inference. ``cache_s`` is what looking up and storing took.
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
    cache_hits: float = 0.0
    cache_misses: float = 0.0
    cache_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Gauges of one GPU, or of the server's machine.

    Attributes:
        busy_fraction: 0 to 1, over Triton's own interval.
        memory_total_bytes, memory_used_bytes: of the device; 0 when they are not told.
    """

    busy_fraction: float = 0.0
    memory_total_bytes: float = 0.0
    memory_used_bytes: float = 0.0

    @property
    def memory_free_bytes(self) -> int | None:
        """What is left; None when it is not told, or told by no number."""
        free = self.memory_total_bytes - self.memory_used_bytes
        if self.memory_total_bytes <= 0 or not math.isfinite(free):
            return None
        return max(0, int(free))


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One scrape.

    Attributes:
        models: counters by model name.
        request_p99_s: p99 of the request time over Triton's own window, by model, where the server
            runs with summary latencies; one without a request in that window has none.
        gpus: by ``gpu_uuid``.
        gpus_of: the GPUs that have answered for a model, by model.
        host: the server's machine; None when the page does not tell.
    """

    models: Mapping[str, ModelCounters]
    request_p99_s: Mapping[str, float] = field(default_factory=dict)
    gpus: Mapping[str, Device] = field(default_factory=dict)
    gpus_of: Mapping[str, frozenset[str]] = field(default_factory=dict)
    host: Device | None = None


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
    "nv_cache_num_hits_per_model": ("cache_hits", 1.0),
    "nv_cache_num_misses_per_model": ("cache_misses", 1.0),
    "nv_cache_hit_duration_per_model": ("cache_s", 1e-6),
    "nv_cache_miss_duration_per_model": ("cache_s", 1e-6),
}
_DEVICES = {
    "nv_gpu_utilization": "busy_fraction",
    "nv_gpu_memory_total_bytes": "memory_total_bytes",
    "nv_gpu_memory_used_bytes": "memory_used_bytes",
    "nv_cpu_utilization": "busy_fraction",
    "nv_cpu_memory_total_bytes": "memory_total_bytes",
    "nv_cpu_memory_used_bytes": "memory_used_bytes",
}
_SUMMARY = "nv_inference_request_summary_us"
NAMES = frozenset({*_SERIES, *_DEVICES, _SUMMARY})
"""Every series that ``parse`` reads."""

_HOST = ""
_MAY_FALL = ("pending", "cache_hits", "cache_misses", "cache_s")

# A sample as Triton prints it, or a comment. Whatever else a line is, the library reads it: that
# takes 40 µs a line, which a page of hundreds of lines, looked at each second, cannot afford.
_STRING = r'"(?:[^"\\]|\\.)*"'
_LABEL = re.compile(rf"(\w+)=({_STRING}),?")
_ESCAPED = re.compile(r'\\([\\"n])')
_NUMBER = r"[-+]?(?:\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|(?i:inf|nan))"  # 2.51 writes Nan
_LABELS = rf"\{{(?P<labels>(?:\w+={_STRING},?)*)\}}"
_MOST_ODD_CHARACTERS = 2**18
"""The library's time grows with the square of a line; Triton's page has no such line at all."""
_PLAIN = re.compile(rf"#.*|(?P<name>[a-zA-Z_:][\w:]*)(?:{_LABELS})? (?P<value>{_NUMBER})")


def parse(text: str) -> Snapshot:
    """The counters in the text of ``GET /metrics``.

    Raises:
        MetricsError: when the text is no Prometheus exposition.
    """
    sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    devices: dict[str, dict[str, float]] = defaultdict(dict)
    gpus_of: dict[str, set[str]] = defaultdict(set)
    p99: dict[str, float] = {}
    try:
        for name, labels, value in _samples(text):
            model, gpu = labels.get("model"), labels.get("gpu_uuid")
            if name in _DEVICES:
                devices[gpu or _HOST][_DEVICES[name]] = value
            elif model is None:
                continue
            elif name in _SERIES:
                attribute, factor = _SERIES[name]
                sums[model][attribute] += value * factor
                if gpu is not None:
                    gpus_of[model].add(gpu)
                if attribute == "failure" and labels.get("reason") == "REJECTED":
                    sums[model]["rejected"] += value
            elif labels.get("quantile") == "0.99" and not math.isnan(value):
                p99[model] = max(p99.get(model, 0.0), value * 1e-6)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise MetricsError(
            f"/metrics: {error}, must be Prometheus text.",
            hint="Is this Triton's metrics port?",
        ) from error
    host = devices.pop(_HOST, None)
    return Snapshot(
        # A model without its main counter is not all there: no data, and not a load of zero.
        models={m: ModelCounters(**values) for m, values in sums.items() if "success" in values},
        request_p99_s=p99,
        gpus={uuid: Device(**values) for uuid, values in devices.items()},
        gpus_of={model: frozenset(uuids) for model, uuids in gpus_of.items()},
        host=Device(**host) if host else None,
    )


def _samples(text: str) -> Iterator[tuple[str, Mapping[str, str], float]]:
    """(name, labels, value) of every series of use."""
    odd, size = [], 0
    for line in text.split("\n"):  # a label's value may hold any other end of a line
        if not line.strip():
            continue
        plain = _PLAIN.fullmatch(line.removesuffix("\r"))
        if plain is None:
            odd.append(line)
            size += len(line)
            if size > _MOST_ODD_CHARACTERS:
                raise ValueError(f"line {line[:50]!r} and too many others like it")
            continue
        name = plain["name"]
        if name in NAMES:
            labels = _LABEL.findall(plain["labels"] or "")
            yield name, {key: _unquoted(text) for key, text in labels}, float(plain["value"])
    for family in text_string_to_metric_families("\n".join(odd) + "\n"):
        for sample in family.samples:
            name = sample.name.removesuffix("_total")
            if name in NAMES:
                yield name, sample.labels, float(sample.value)  # it may be a whole number


def _unquoted(string: str) -> str:
    """A label's value as it was before it was written into a page."""
    inner = string[1:-1]
    if "\\" not in inner:
        return inner
    return _ESCAPED.sub(lambda found: "\n" if found[1] == "n" else found[1], inner)


def delta(old: ModelCounters, new: ModelCounters) -> ModelCounters | None:
    """What happened between two scrapes, or None when any counter went back (a reset) or is NaN.

    ``pending`` is the change of the gauge, and may be negative. The counts of the response cache
    go with the copy of the model that had it: where they go back nothing is known of the hits, and
    the rest still stands.
    """
    changes = {f.name: getattr(new, f.name) - getattr(old, f.name) for f in fields(ModelCounters)}
    if not all(math.isfinite(change) for change in changes.values()):
        return None
    # A summed duration may shrink by float rounding alone; a reset loses far more than that.
    if any(change < -1e-6 for name, change in changes.items() if name not in _MAY_FALL):
        return None
    return ModelCounters(
        **{name: c if name == "pending" else max(0.0, c) for name, c in changes.items()}
    )
