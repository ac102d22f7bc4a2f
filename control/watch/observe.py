"""Take one look at a model: gRPC statistics, counters from Triton or from Prometheus, the machine.

A tick surveys the server once, and then looks at each model. What cannot be read is None in the
observation, and logged: the core then holds.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import structlog

from conch.errors import ConchError
from conch.log import Repeated
from control.act.baseline import Baseline, File
from control.act.knobs import settings_of, threads_of, threads_ours
from control.core.types import Observation
from control.watch import machine
from control.watch.machine import Machine, Use
from control.watch.shown import CONFIG_EVERY_S, Shown
from control.watch.sources import CounterSource, Sample
from serving import ensembles, model_config, queue_limit, slots
from serving.client import TritonClient
from serving.model_config import ModelConfig
from serving.repository import Repository
from serving.revisions import edited_hint

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What all models of a server share in one tick.

    Attributes:
        sample: their counters; None when the source did not answer.
        host: the machine.
        ensembles: of the repository; empty without one.
        slots: executions at once on each device of the server; None where nobody knows of any.
    """

    sample: Sample | None
    host: Use
    ensembles: tuple[ModelConfig, ...]
    slots: int | None = None


class Observer:
    """Looks at models of one server."""

    def __init__(
        self,
        client: TritonClient,
        source: CounterSource,
        repository: Repository | None = None,
        *,
        host: Machine | None = None,
        baseline: Baseline | None = None,
        slots_of: Callable[[], int | None] = lambda: None,
    ) -> None:
        """Look through these.

        Args:
            client: of the server.
            source: of the counters.
            repository: tells the versions on disk and which ensembles a model is in.
            host: the server's machine; by default one that only the server's gauges tell of.
            baseline: tells a person's edits; None for one of its own.
            slots_of: how many slots the server was started with, as far as anybody knows.
        """
        self._client = client
        self._repository = repository
        self._source = source
        self._host = host or Machine()
        self._baseline = baseline or (Baseline(repository) if repository else None)
        self._shown = Shown(client, repository)
        self._files: dict[str, File] = {}
        self._slots_of = slots_of
        self._slots: int | None = None
        self._ensembles: tuple[ModelConfig, ...] = ()
        self._around_at_s: float | None = None
        self._outages = Repeated()

    def survey(self, models: Collection[str]) -> Survey:
        """One question to each source for all of these models; to be used for this tick's looks."""
        sample = None
        try:
            sample = self._source.sample(models)
        except ConchError as error:
            self._outages.seen("counters.unreachable", models=sorted(models), error=error.message)
        else:
            self._outages.over("counters.unreachable", said="counters.reached")
        host = self._host.use(sample.snapshot if sample else None)
        self._look_around()
        return Survey(sample=sample, host=host, ensembles=self._ensembles, slots=self._slots)

    def _look_around(self) -> None:
        """Ensembles and slots anew every few seconds: one published, a server started again."""
        now_s, last_s = time.monotonic(), self._around_at_s
        if last_s is None or now_s - last_s >= CONFIG_EVERY_S:
            if self._repository is not None:
                self._ensembles = tuple(ensembles.of(self._repository).values())
            self._slots = self._slots_of()
            self._around_at_s = now_s

    def look(
        self,
        model: str,
        *,
        survey: Survey | None = None,
        clock: Callable[[], float] = time.time,
        renew: bool = True,
        acting: bool = False,
    ) -> Observation:
        """One observation; parts that failed are None.

        Args:
            model: which.
            survey: of this tick; made for this look alone where None.
            clock: seconds since the epoch.
            renew: ask for the config whatever is known; else one that was shown a few seconds ago
                will do, unless the statistics began anew or the file was written since. To be set
                while a change is in flight and after it.
            acting: whether a change of ours is on its way: the file is then not compared.
        """
        shared = survey or self.survey([model])
        statistics, config = None, None
        try:
            statistics = self._client.statistics(model)
            config = self._shown.config(model, statistics, now_s=clock(), renew=renew)
        except ConchError as error:
            self._outages.seen("triton.unreachable", key=model, model=model, error=error.message)
        else:
            self._outages.over("triton.unreachable", key=model, said="triton.reached", model=model)
        known = config if config is not None else ModelConfig()
        sample = shared.sample
        counters = sample.counters(model) if sample else None
        snapshot = sample.snapshot if sample else None
        versions = self._repository.versions(model) if self._repository else []
        gpu = machine.gpu_use(model, snapshot)
        on_gpu = gpu.memory_free_bytes is not None
        file = self._file(model, None if acting else config)
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
            may_refuse=queue_limit.may_refuse(known),
            granularity=model_config.granularity(known),
            least_batch_size=ensembles.least_batch_size(model, shared.ensembles),
            versions=tuple(versions),
            arrivals=sample.arrivals.get(model) if sample else None,
            request_p99_s=snapshot.request_p99_s.get(model) if snapshot else None,
            cpu_fraction=shared.host.busy_fraction,
            memory_free_bytes=gpu.memory_free_bytes if on_gpu else shared.host.memory_free_bytes,
            memory_copy_bytes=self._host.copy_bytes(model, known, self._repository, versions),
            version_bytes=self._host.version_bytes(model, known, self._repository, versions),
            gpu_fraction=gpu.busy_fraction,
            edited=file.edited,
            owner=file.owner,
            cpu_s=self._host.cpu_s(model, known),
            slots=shared.slots if slots.asks(known) else None,
        )

    def _file(self, model: str, shown: ModelConfig | None) -> File:
        """The file against what is in force; its owner as known before where Triton is silent."""
        last = self._files.get(model, File(edited=False, owner=None))
        if self._baseline is None or shown is None:
            return replace(last, edited=False)
        file = self._baseline.of(model, shown)
        if file.edited and not last.edited:
            log.warning("config.edited", model=model, hint=edited_hint(model))
        elif last.edited and not file.edited:
            log.warning("config.edit_over", model=model)
        self._files[model] = file
        return file
