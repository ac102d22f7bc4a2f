"""Loads whose popularity moves: in each phase other models are asked most. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from conch.errors import ConfigError
from control.core.policy import Policy
from control.core.queue_model.capacity import capacity_rps
from control.core.service.learnt import ServiceTime
from perf import traces
from perf.traces import Times

MIB = 2**20
BEST, CHEAP = 2, 1
"""Version numbers, the best one highest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Models that are alike, what comes to them, and the memory that they share.

    Attributes:
        models: how many.
        room: so many fit at their best.
        cheap_size: memory of the cheap version as a share of the best one's.
        phase_s, phases: popularity is drawn anew in each.
        skew: exponent of Zipf's law: the n-th model is asked 1 / n**skew times as often.
        hottest_rps: what comes to the most popular one.
        load_s: how long a version takes to load.
        seed: of popularity and arrivals.
        slo_s: of each model.
        best, cheap: what a batch takes.
        largest_batch: requests.
        best_bytes: memory of one instance at its best.
    """

    models: int = 12
    room: int = 8
    cheap_size: float = 2 / 3
    phase_s: float = 300.0
    phases: int = 6
    skew: float = 1.0
    hottest_rps: float = 30.0
    load_s: float = 5.0
    seed: int = 1
    slo_s: float = 0.4
    best: ServiceTime = field(default=ServiceTime(alpha_s=0.008, beta_s=0.032))
    cheap: ServiceTime = field(default=ServiceTime(alpha_s=0.004, beta_s=0.016))
    largest_batch: int = 8
    best_bytes: int = 300 * MIB

    def __post_init__(self) -> None:
        """Reject what would starve a model."""
        if self.models * self.cheap_bytes > self.memory_bytes:
            raise ConfigError(
                f"--room {self.room}: holds {self.memory_bytes // self.cheap_bytes} models at "
                f"their cheapest, must hold all {self.models}.",
                hint="Raise --room, or have fewer --models or a smaller --cheap-size.",
            )

    @property
    def names(self) -> list[str]:
        """Of the models."""
        return [f"m{number:02d}" for number in range(self.models)]

    @property
    def cheap_bytes(self) -> int:
        """Memory of one instance at its cheapest."""
        return math.floor(self.best_bytes * self.cheap_size)

    @property
    def memory_bytes(self) -> int:
        """That all share."""
        return self.room * self.best_bytes

    @property
    def duration_s(self) -> float:
        """Of the whole load."""
        return self.phase_s * self.phases

    @property
    def best_at_once(self) -> int:
        """So many can be at their best while the others are at their cheapest."""
        more = self.memory_bytes - self.models * self.cheap_bytes
        each = self.best_bytes - self.cheap_bytes
        return self.models if each <= 0 else min(self.models, more // each)

    def policy(self) -> Policy:
        """Of each model."""
        return Policy(
            slo_s=self.slo_s,
            max_instances=1,
            max_batch_size=self.largest_batch,
            versions=(BEST, CHEAP),
            load_s=self.load_s,
        )

    def carried_rps(self, version: int) -> float:
        """Λ of one instance."""
        return capacity_rps(
            self.service(version),
            instances=1,
            largest_batch=self.largest_batch,
            max_queue_delay_s=0.0,
            policy=self.policy(),
        )

    def service(self, version: int) -> ServiceTime:
        """What its batches take."""
        return self.best if version == BEST else self.cheap

    def rates_rps(self, phase: int) -> list[float]:
        """What comes to each model in that phase."""
        order = np.random.default_rng((self.seed, phase)).permutation(self.models)
        return [self.hottest_rps / (1 + int(rank)) ** self.skew for rank in order]

    def arrivals(self) -> list[Times]:
        """float64 [n] for each model, s from the start, ascending."""
        rates = [self.rates_rps(phase) for phase in range(self.phases)]
        return [
            traces.steps(
                tuple((phase[number], self.phase_s) for phase in rates),
                seed=1000 * self.seed + number,
            ).arrival_s
            for number in range(self.models)
        ]
