"""Take one look at a model: gRPC statistics, and counters from Triton or from Prometheus.

What cannot be read is None in the observation, and logged: the core then holds.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import requests
import structlog
from prometheus_api_client import PrometheusConnect
from prometheus_api_client.exceptions import PrometheusApiClientException
from tritonclient.grpc.model_config_pb2 import ModelInstanceGroup
from urllib3.util.retry import Retry

from conch.errors import ConchError, TritonUnavailable
from control.core.types import Observation, Settings
from serving import ensembles, metrics, model_config
from serving.client import TritonClient
from serving.metrics import ModelCounters
from serving.model_config import ModelConfig
from serving.repository import Repository

log = structlog.get_logger()

THREADS = "intra_op_thread_count"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Counters and when they were true (seconds since the epoch)."""

    counters: ModelCounters
    at_s: float


class CounterSource(Protocol):
    """Where the counters of a model come from."""

    def sample(self, model: str) -> Sample | None:
        """The newest counters; None when the source has none for this model.

        Raises:
            TritonUnavailable: when the source does not answer.
        """


class ScrapedCounters:
    """Counters by a scrape of Triton's own ``/metrics``."""

    def __init__(
        self,
        metrics_url: str,
        *,
        deadline_s: float = 2.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._url = metrics_url
        self._deadline_s = deadline_s

    def snapshot(self) -> metrics.Snapshot:
        """Every model's counters.

        Raises:
            TritonUnavailable: when the port does not answer in time.
        """
        try:
            response = requests.get(self._url, timeout=self._deadline_s)
            response.raise_for_status()
        except requests.RequestException as error:
            raise TritonUnavailable(
                f"metrics at {self._url}: no answer ({type(error).__name__}).",
                hint="Is the server running with metrics on? `conch doctor` looks.",
            ) from error
        return metrics.parse(response.text)

    def sample(self, model: str) -> Sample | None:
        """The model's counters now."""
        counters = self.snapshot().models.get(model)
        # Taken after the answer: a slow scrape must not squeeze its arrivals into a short interval.
        return Sample(counters=counters, at_s=self._clock()) if counters else None


class PrometheusCounters:
    """Counters as the newest samples of a Prometheus that scrapes this one server.

    The time of the sample counts and not that of the query: between two scrapes nothing is new, and
    a Prometheus that scrapes no more has no data, where the old numbers would look like no load.
    """

    def __init__(self, url: str, *, deadline_s: float = 2.0) -> None:
        self._url = url
        once = Retry(total=0)  # the next tick is the retry
        self._client = PrometheusConnect(url=url, retry=once, timeout=deadline_s)

    def sample(self, model: str) -> Sample | None:
        """The model's counters as of the last scrape."""
        series = f'{{__name__=~"nv_inference_.*", model="{model}"}}'
        stamps = self._query(f'timestamp(nv_inference_request_success{{model="{model}"}})')
        samples = self._query(series)
        lines = [_exposition(s["metric"], s["value"][1]) for s in samples]
        counters = metrics.parse("\n".join(lines) + "\n").models.get(model)
        if counters is None or not stamps:
            return None
        return Sample(counters=counters, at_s=max(float(s["value"][1]) for s in stamps))

    def _query(self, query: str) -> list[dict[str, Any]]:
        """An instant query."""
        try:
            found: list[dict[str, Any]] = self._client.custom_query(query)
        except (PrometheusApiClientException, requests.RequestException) as error:
            raise TritonUnavailable(
                f"Prometheus at {self._url}: no answer ({type(error).__name__}).",
                hint="Check the policy's `prometheus` key, or leave it out.",
            ) from error
        return found


def _exposition(labels: dict[str, str], value: str) -> str:
    """One sample as a line of Prometheus text, so that one parser serves both sources."""
    inner = ",".join(f'{k}="{v}"' for k, v in sorted(labels.items()) if k != "__name__")
    return f"{labels['__name__']}{{{inner}}} {value}"


class Observer:
    """Looks at models of one server."""

    def __init__(
        self, client: TritonClient, source: CounterSource, repository: Repository | None = None
    ) -> None:
        """Look through these; the repository tells which ensembles a model is in."""
        self._client = client
        self._repository = repository
        self._source = source

    def look(self, model: str, *, clock: Callable[[], float] = time.time) -> Observation:
        """One observation; parts that failed are None."""
        sample, statistics, config = None, None, None
        try:
            sample = self._source.sample(model)
        except ConchError as error:
            log.warning("counters.unreachable", model=model, error=error.message)
        try:
            statistics = self._client.statistics(model)
            config = self._client.config(model)
        except ConchError as error:
            log.warning("triton.unreachable", model=model, error=error.message)
        known = config if config is not None else ModelConfig()
        return Observation(
            at_s=clock(),
            tick_id=uuid.uuid4().hex[:12],
            counters=sample.counters if sample else None,
            counters_at_s=sample.at_s if sample else None,
            statistics=statistics,
            applied=settings_of(config) if config is not None else None,
            threads=threads_of(known),
            threads_ours=threads_ours(known),
            can_rebatch=model_config.can_rebatch(known),
            granularity=model_config.granularity(known),
            least_batch_size=self._least_batch_size(model),
        )

    def _least_batch_size(self, model: str) -> int:
        """Read anew each time: an ensemble may have been published since."""
        if self._repository is None:
            return 1
        return ensembles.least_batch_size(model, ensembles.of(self._repository).values())


def settings_of(config: ModelConfig) -> Settings:
    """The knobs in a config."""
    batching = model_config.batching(config)
    return Settings(
        instances=model_config.instance_count(config),
        max_batch_size=batching.max_batch_size,
        dynamic_batching=batching.dynamic,
        max_queue_delay_s=batching.max_queue_delay_us * 1e-6,
        threads=_configured_threads(config),
    )


def with_settings(config: ModelConfig, wanted: Settings) -> ModelConfig:
    """The config with these knobs; what they say already is left exactly as it is."""
    current = settings_of(config)
    if wanted.instances != current.instances:
        config = model_config.with_instances(config, wanted.instances)
    batching = model_config.Batching(
        max_batch_size=wanted.max_batch_size,
        dynamic=wanted.dynamic_batching,
        max_queue_delay_us=round(wanted.max_queue_delay_s * 1e6),
    )
    if batching != model_config.batching(config):
        config = model_config.with_batching(config, batching)
    if wanted.threads != current.threads and wanted.threads is not None:
        config = model_config.with_parameter(config, THREADS, str(wanted.threads))
    return config


def threads_of(config: ModelConfig) -> int:
    """Threads of one instance: as configured, else the backend's default of cores ÷ instances.

    1 where threads are not ours: a GPU instance, or a backend that says nothing of them.
    """
    configured = _configured_threads(config)
    if configured:
        return configured
    if not threads_ours(config):
        return 1
    return max(1, (os.cpu_count() or 1) // model_config.instance_count(config))


def threads_ours(config: ModelConfig) -> bool:
    """Whether threads mean anything for this model and are set by its config."""
    kinds = {group.kind for group in config.instance_group}
    return config.backend == "onnxruntime" and kinds == {ModelInstanceGroup.KIND_CPU}


def _configured_threads(config: ModelConfig) -> int | None:
    """The config's own word on it, or None."""
    text = model_config.parameter(config, THREADS)
    return int(text) if text and text.isdigit() and int(text) > 0 else None
