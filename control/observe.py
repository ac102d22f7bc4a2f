"""Take one look at a model: gRPC statistics, counters from Triton or from Prometheus, the machine.

A tick surveys the server once, and then looks at each model. What cannot be read is None in the
observation, and logged: the core then holds.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass

import structlog
from tritonclient.grpc.model_config_pb2 import ModelInstanceGroup

from conch.errors import ConchError
from control import machine
from control.core.types import Observation, Settings
from control.machine import Machine, Use
from control.sources import CounterSource, PrometheusCounters, Sample, ScrapedCounters
from serving import ensembles, model_config
from serving import statistics as counted
from serving.client import TritonClient
from serving.model_config import ModelConfig
from serving.repository import Repository
from serving.statistics import ModelStatistics

__all__ = ["CounterSource", "Observer", "PrometheusCounters", "ScrapedCounters", "Survey"]

log = structlog.get_logger()

THREADS = "intra_op_thread_count"
CONFIG_EVERY_S = 3.0
"""So old the config in force may be where nothing speaks of a change: asking costs half a look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What all models of a server share in one tick.

    Attributes:
        sample: their counters; None when the source did not answer.
        host: the machine.
        ensembles: of the repository; empty without one.
    """

    sample: Sample | None
    host: Use
    ensembles: tuple[ModelConfig, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    """A config that Triton has shown, and all that tells of a newer one."""

    config: ModelConfig
    asked_s: float
    statistics: ModelStatistics
    written_ns: int | None


class Observer:
    """Looks at models of one server."""

    def __init__(
        self,
        client: TritonClient,
        source: CounterSource,
        repository: Repository | None = None,
        *,
        host: Machine | None = None,
    ) -> None:
        """Look through these.

        Args:
            client: of the server.
            source: of the counters.
            repository: tells the versions on disk and which ensembles a model is in.
            host: the server's machine; by default one that only the server's gauges tell of.
        """
        self._client = client
        self._repository = repository
        self._source = source
        self._host = host or Machine()
        self._shown: dict[str, _Shown] = {}
        self._ensembles: tuple[ModelConfig, ...] = ()
        self._ensembles_at_s: float | None = None

    def survey(self, models: Collection[str]) -> Survey:
        """One question to each source for all of these models; to be used for this tick's looks."""
        sample = None
        try:
            sample = self._source.sample(models)
        except ConchError as error:
            log.warning("counters.unreachable", models=sorted(models), error=error.message)
        host = self._host.use(sample.snapshot if sample else None)
        return Survey(sample=sample, host=host, ensembles=self._around())

    def _around(self) -> tuple[ModelConfig, ...]:
        """The ensembles, looked for anew every few seconds: one may have been published since."""
        now_s, last_s = time.monotonic(), self._ensembles_at_s
        if self._repository is not None and (last_s is None or now_s - last_s >= CONFIG_EVERY_S):
            self._ensembles = tuple(ensembles.of(self._repository).values())
            self._ensembles_at_s = now_s
        return self._ensembles

    def look(
        self,
        model: str,
        *,
        survey: Survey | None = None,
        clock: Callable[[], float] = time.time,
        renew: bool = True,
    ) -> Observation:
        """One observation; parts that failed are None.

        Args:
            model: which.
            survey: of this tick; made for this look alone where None.
            clock: seconds since the epoch.
            renew: ask for the config whatever is known; else one that was shown a few seconds ago
                will do, unless the statistics began anew or the file was written since. To be set
                while a change is in flight and after it.
        """
        shared = survey or self.survey([model])
        statistics, config = None, None
        try:
            statistics = self._client.statistics(model)
            config = self._config(model, statistics, now_s=clock(), renew=renew)
        except ConchError as error:
            log.warning("triton.unreachable", model=model, error=error.message)
        known = config if config is not None else ModelConfig()
        sample = shared.sample
        counters = sample.counters(model) if sample else None
        snapshot = sample.snapshot if sample else None
        versions = self._repository.versions(model) if self._repository else []
        gpu = machine.gpu_use(model, snapshot)
        on_gpu = gpu.memory_free_bytes is not None
        return Observation(
            at_s=clock(),
            tick_id=uuid.uuid4().hex[:12],
            counters=counters,
            counters_at_s=sample.at_s[model] if sample and counters else None,
            statistics=statistics,
            applied=settings_of(config) if config is not None else None,
            threads=threads_of(known),
            threads_ours=threads_ours(known),
            can_rebatch=model_config.can_rebatch(known),
            granularity=model_config.granularity(known),
            least_batch_size=ensembles.least_batch_size(model, shared.ensembles),
            versions=tuple(versions),
            arrivals=sample.arrivals.get(model) if sample else None,
            request_p99_s=snapshot.request_p99_s.get(model) if snapshot else None,
            cpu_fraction=shared.host.busy_fraction,
            memory_free_bytes=gpu.memory_free_bytes if on_gpu else shared.host.memory_free_bytes,
            memory_copy_bytes=self._host.copy_bytes(model, known, self._repository, versions),
            gpu_fraction=gpu.busy_fraction,
        )

    def _config(
        self, model: str, statistics: ModelStatistics, *, now_s: float, renew: bool
    ) -> ModelConfig:
        """The config in force, asked for where it may be another than the last one."""
        written_ns = self._written_ns(model)
        known = self._shown.get(model)
        if (
            known is not None
            and not renew
            and 0.0 <= now_s - known.asked_s < CONFIG_EVERY_S
            and known.written_ns == written_ns
            and counted.delta(known.statistics, statistics) is not None
        ):
            return known.config
        self._shown.pop(model, None)
        config = self._client.config(model)
        self._shown[model] = _Shown(
            config=config, asked_s=now_s, statistics=statistics, written_ns=written_ns
        )
        return config

    def _written_ns(self, model: str) -> int | None:
        """When the config on disk was written; None where it cannot be seen."""
        if self._repository is None:
            return None
        try:
            return self._repository.config_path(model).stat().st_mtime_ns
        except (OSError, ConchError):
            return None


def settings_of(config: ModelConfig) -> Settings:
    """The knobs in a config.

    Triton does not touch a version that stays: a policy that names the version which is served
    anyway is in force, but the config that Triton shows is the one that version was loaded with.
    """
    batching = model_config.batching(config)
    return Settings(
        instances=model_config.instance_count(config),
        max_batch_size=batching.max_batch_size,
        dynamic_batching=batching.dynamic,
        max_queue_delay_s=batching.max_queue_delay_us * 1e-6,
        threads=_configured_threads(config),
        version=model_config.only_version(config),
        response_cache=config.response_cache.enable,
    )


def with_settings(config: ModelConfig, wanted: Settings) -> ModelConfig:
    """The config with these knobs; what they say already is left exactly as it is.

    Without a wanted version, one that was pinned makes way for Triton's default: the newest.
    """
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
    if wanted.version != current.version:
        if wanted.version is None:
            config = model_config.with_newest_version(config)
        else:
            config = model_config.with_versions(config, [wanted.version])
    if wanted.response_cache != current.response_cache:
        config = model_config.with_response_cache(config, wanted.response_cache)
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
    # Not isdigit: that takes "²", and Python refuses to read 5,000 digits.
    whole = text is not None and text.isascii() and text.isdigit() and len(text) < 10
    return int(text or 0) or None if whole else None
