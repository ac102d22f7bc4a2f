"""What the acts share: the server, the configurations of the contenders, and how one is played."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from conch.errors import LoadError
from control import session
from demo import contender
from demo.scenario import Scenario
from perf import capacity
from perf.replay import Progress, ReplayTarget, replay
from perf.replay_result import ReplayResult
from perf.traces import Trace
from serving import model_config
from serving.client import TritonClient
from serving.model_config import Batching, ModelConfig
from serving.repository import Repository
from serving.runtime.supervisor import TritonServer

MOST_INSTANCES = 8
"""By hand and of the policy: one for each core, up to this many."""
BATCH = 16
BURST_S = 1.5
PROBED_S, PROBE_S = 20.0, 3.0
"""For finding what a config carries within the SLO, and one probe of that."""
FIRST_SHARE, GROWTH = 0.7, 1.2
"""The first probe, as a share of what a full queue gives, and the factor to the next."""
BURSTS = 2
"""The best of these counts: others on the machine can only make one slower."""
BURST = (100, 3000)
"""Requests at once, at least and at most, that fill a queue for ``BURST_S``."""
MIDDLE = (0.1, 0.8)
"""Of the answers to a burst: at its ends the queue is not full."""


class Teller(Protocol):
    """Where the progress goes."""

    def step(self, number: int, text: str) -> None:
        """A step begins."""

    def note(self, text: str) -> None:
        """Something was found."""

    def progress(self, seen: Progress) -> None:
        """A replay is under way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """One contender over one trace.

    Attributes:
        name: how it is called.
        replay: what the requests met.
        config: what was in force at the start.
        ticks: of the controller; none where there was none.
        controller_cpu_s: CPU seconds that it used.
    """

    name: str
    replay: ReplayResult
    config: ModelConfig
    ticks: Sequence[dict[str, Any]] = ()
    controller_cpu_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A server with the model, and what may be put on it.

    Attributes:
        published: the config as the export wrote it.
        best, cheap: numbers of the fp32 and the INT8 version.
    """

    out: Path
    scenario: Scenario
    server: TritonServer
    client: TritonClient
    repository: Repository
    target: ReplayTarget
    published: ModelConfig
    best: int
    cheap: int
    teller: Teller

    @property
    def instances(self) -> int:
        """One a core."""
        return min(os.cpu_count() or 1, MOST_INSTANCES)

    def default(self, version: int) -> ModelConfig:
        """Triton's defaults: 1 instance, no batching, default threads."""
        config = model_config.static_default(self.published)
        return model_config.with_versions(config, [version])

    def by_hand(self, *versions: int) -> ModelConfig:
        """What an expert would set: an instance of one thread for each core, full batches."""
        batching = Batching(max_batch_size=BATCH, dynamic=True, max_queue_delay_us=0)
        config = model_config.with_instances(self.published, self.instances)
        config = model_config.with_batching(config, batching)
        config = model_config.with_parameter(config, "intra_op_thread_count", "1")
        if not versions:
            return model_config.with_newest_version(config)
        return model_config.with_versions(config, versions)

    def reset(self, config: ModelConfig) -> None:
        """Bring a config into force, freshly loaded, and forget what was learnt."""
        self.repository.write_config(config.name, config, reason="demo: the start of a contender")
        self.client.unload(config.name)
        self.client.load(config.name)
        journal = session.journal_path(self.repository)
        for path in journal.parent.glob(f"{journal.name}*"):
            path.unlink(missing_ok=True)

    def full_queue_rps(self, config: ModelConfig) -> float:
        """What a config answers each second while its queue is full."""
        self.reset(config)
        return max(self._burst_rps() for _ in range(BURSTS))

    def _burst_rps(self) -> float:
        """Answers a second amid one burst."""
        model, inputs = self.target.model, self.target.inputs
        one_s = min(_seconds(self.client, model, inputs) for _ in range(5))
        count = int(np.clip(BURST_S / one_s, *BURST))
        arrivals = np.linspace(0.0, 0.05, count)
        trace = Trace(
            name="burst", arrival_s=arrivals, duration_s=0.1, description="all at once", seed=0
        )
        done_s = np.sort(self.play(trace).done_s)
        begin, end = (int(share * count) for share in MIDDLE)
        return float((end - begin) / max(1e-3, done_s[end] - done_s[begin]))

    def carried_rps(self, config: ModelConfig) -> float:
        """What a config carries within the SLO; half of a full queue's rate where the sender is
        too slow to find out."""
        full_rps = self.full_queue_rps(config)
        try:
            found = capacity.find_capacity(
                self.target,
                self.scenario.slo_s,
                budget_s=PROBED_S,
                probe_s=PROBE_S,
                start_rps=FIRST_SHARE * full_rps,
                growth=GROWTH,
                on_probe=lambda probe: self.teller.note(
                    f"{probe.rate_rps:6.0f} req/s: p99 {probe.p99_s * 1e3:6.0f} ms"
                    f"{'' if probe.carried else '   too much'}"
                ),
            )
        except LoadError as error:
            self.teller.note(f"half of a full queue's rate is taken: {error.message}")
            return full_rps / 2
        return found.rate_rps or full_rps / 2

    def play(self, trace: Trace) -> ReplayResult:
        """The trace, open loop. A sender that fell behind is no error: latencies count from the
        intended times, so a lag only makes them longer, for every contender.

        Raises:
            LoadError: when requests were never sent.
        """
        deadline_s = 20.0
        result = replay(
            trace,
            self.target,
            slo_s=self.scenario.slo_s,
            deadline_s=deadline_s,
            on_progress=self.teller.progress,
        )
        if result.trouble or np.isnan(result.sent_s).any():
            raise LoadError(
                f"replay of {trace.name}: {result.invalid_reason}.",
                hint="Run it again; --debug shows more.",
            )
        return result

    def static(self, name: str, config: ModelConfig, trace: Trace) -> Played:
        """A configuration that nobody changes."""
        self.reset(config)
        return Played(name=name, replay=self.play(trace), config=config)

    def conch(self, config: ModelConfig, trace: Trace, *, policy: str, label: str) -> Played:
        """The same start, with ``conch control run`` beside it, which knows nothing yet."""
        self.reset(config)
        with self.controlled(policy, label=label) as watched:
            result = self.play(trace)
        return Played(
            name="Conch",
            replay=result,
            config=config,
            ticks=watched.ticks,
            controller_cpu_s=watched.cpu_s,
        )

    @contextlib.contextmanager
    def controlled(self, policy: str, *, label: str) -> Iterator[contender.Watched]:
        """The controller with this policy, written beside the results."""
        path = self.out / f"policy-{label}.yaml"
        path.write_text(policy, encoding="utf-8")
        log = self.out / f"control-{label}.log"
        with contender.controlled(self.server.endpoint, path, self.repository.root, log) as watched:
            yield watched

    def policy(self, *more: str) -> str:
        """What a user writes: the SLO, how many instances there may be, the verified batch."""
        lines = [f"slo: {self.scenario.slo_s * 1e3:g}ms", f"max_instances: {self.instances}"]
        lines += [f"max_batch_size: {BATCH}", *more]
        body = "".join(f"    {line}\n" for line in lines)
        return f"version: 1\ntick: 200ms\nmodels:\n  {self.scenario.model}:\n{body}"


def _seconds(client: TritonClient, model: str, inputs: Any) -> float:
    """Of one inference."""
    begun_s = time.monotonic()
    client.infer(model, inputs)
    return time.monotonic() - begun_s
