"""Loads that move between the models of one server: in each phase another one is busy. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from conch.errors import ConfigError
from control.core.policy import Policy
from perf import traces
from perf.bench.control.many import Member
from perf.bench.emulated import EmulatedModel
from perf.traces import Trace

WARM_UP_S = 20.0
"""Played before and not scored: a controller finds its settings."""
NAMES = "abcdefgh"
MODEL_SCALE = 2.0
"""Times of the emulated accelerator against those of the one-model comparison: at these rates two
cores send, serve and decide at once without becoming the bottleneck."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What comes, and what there is for it.

    Attributes:
        members: the models.
        budget: instances that may execute at once, over all models.
        ratio: of what the budget carries within the SLO if it were split right in each phase.
        phase_s: length of a phase; phases: how many.
        seed: of the arrivals.
        head_start: batches that the first model has executed before: Triton's limiter lets those
            of others go first.
        warm_up_s: before the first phase, at the light load of each; not scored.
    """

    members: tuple[Member, ...]
    budget: int
    ratio: float
    phase_s: float
    phases: int
    seed: int
    head_start: int = 0
    warm_up_s: float = WARM_UP_S

    @property
    def light(self) -> int:
        """Instances that a model needs whose turn it is not."""
        return max(1, self.budget // (2 * len(self.members)))

    @property
    def heavy(self) -> int:
        """Instances that the busy model needs."""
        return self.budget - self.light * (len(self.members) - 1)

    @property
    def duration_s(self) -> float:
        """Of what is scored."""
        return self.phase_s * self.phases

    def rate_rps(self, number: int, phase: int) -> float:
        """What comes to a model in a phase."""
        busy = phase % len(self.members) == number
        return self.ratio * self.members[number].carried_rps(self.heavy if busy else self.light)

    def before(self, number: int, instances: int) -> int:
        """Batches that each of a model's instances has executed before."""
        return self.head_start // instances if number == 0 else 0

    def trace(self, number: int) -> Trace:
        """A model's arrivals, the warm-up with its light load first."""
        light_rps = self.ratio * self.members[number].carried_rps(self.light)
        levels = [(light_rps, self.warm_up_s)]
        levels += [(self.rate_rps(number, phase), self.phase_s) for phase in range(self.phases)]
        return traces.steps(tuple(levels), seed=1000 * self.seed + number)


def moving(
    *,
    models: int,
    budget: int,
    ratio: float,
    phase_s: float,
    phases: int,
    seed: int,
    head_start: int = 0,
) -> Load:
    """The load that is on one model after the other.

    Raises:
        ConfigError: when the budget does not give each model an instance and one a second.
    """
    if budget <= models:
        raise ConfigError(
            f"budget: {budget} instances, must be more than the {models} models.",
            hint="Raise --budget, or have fewer --models.",
        )
    members = tuple(
        Member(
            model=EmulatedModel(
                name=name, alpha_s=0.008 * MODEL_SCALE, beta_s=0.032 * MODEL_SCALE, load_s=3.0
            ),
            policy=Policy(
                slo_s=0.4 * MODEL_SCALE,
                max_instances=budget,
                max_batch_size=8,
                cores=budget,
                rebatch=False,
                load_s=3.0,
            ),
            work_fraction=1 / models,
        )
        for name in NAMES[:models]
    )
    return Load(
        members=members,
        budget=budget,
        ratio=ratio,
        phase_s=phase_s,
        phases=phases,
        seed=seed,
        head_start=head_start,
    )
