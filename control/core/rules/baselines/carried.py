"""What instance counts carry, for the rules that know a model of the server.

The same service times and the same simulator that Conch has: a baseline that is given less would be
no fair one.
"""

from __future__ import annotations

from dataclasses import dataclass

from control.core.memory.state import ControlState
from control.core.policy import Policy
from control.core.queue_model.capacity import capacity_rps
from control.core.service.learnt import ServiceTime
from control.core.types import Observation, Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """Λ by instance count with the settings in force; found when it is asked for.

    Attributes:
        state: for the service times.
        seen: for the threads.
        policy: for the SLO and the bounds.
        applied: the settings in force.
        rho: where it is above 0, Λ(c) = ρ·c·B/ℓ(B) without the simulator.
    """

    state: ControlState
    seen: Observation
    policy: Policy
    applied: Settings
    rho: float = 0.0

    @property
    def is_known(self) -> bool:
        """Whether a batch was ever executed."""
        return self._service(self.applied.instances) is not None

    def rps(self, count: int) -> float:
        """Λ of this count, requests per second; 0 while no batch was ever executed."""
        service = self._service(count)
        if service is None:
            return 0.0
        full = self.applied.largest_batch
        if self.rho > 0:
            full_s = service.of(full)
            return self.rho * count * full / full_s if full_s > 0 else 0.0
        return capacity_rps(
            service,
            instances=count,
            largest_batch=full,
            max_queue_delay_s=self.applied.max_queue_delay_s,
            policy=self.policy,
        )

    def fewest(self, need_rps: float) -> tuple[int, float]:
        """The fewest allowed instances that carry the need, and what they carry.

        Where none does, the one that carries most; of equals the smaller.
        """
        best = (self.policy.min_instances, -1.0)
        for count in range(self.policy.min_instances, self.policy.max_instances + 1):
            carried = self.rps(count)
            if carried >= need_rps:
                return count, carried
            if carried > best[1] + 0.1:
                best = (count, carried)
        return best

    def _service(self, count: int) -> ServiceTime | None:
        """ℓ with this count."""
        threads = self.applied.threads or self.seen.threads
        return self.state.learnt.at(count, threads=threads, cores=self.policy.cores)
