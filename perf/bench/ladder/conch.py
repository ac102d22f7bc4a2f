"""The control loop's ladder on simulated models: its own allocator, a look a second. Pure.

The models do what the loop would: they give up what they may not load, and load what they may.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field, replace

from control.core.budget.shares import Shares
from control.core.budget.want import Limit
from control.core.memory.changes import InFlight
from control.core.reasons import Reason
from control.core.types import Decision, Need, Observation, Settings
from perf.bench.ladder.held import Held
from perf.bench.ladder.loads import BEST, CHEAP, Load
from perf.traces import Times

TICK_S = 1.0


@dataclass(slots=True, kw_only=True)
class _Model:
    """One model, its settings, and the change that it is in."""

    number: int
    times: list[float]
    applied: Settings
    in_flight: InFlight | None = None
    ends_s: float = 0.0
    sizes: dict[int, int] = field(default_factory=dict)

    def rate_rps(self, now_s: float, window_s: float) -> float:
        """Mean arrivals over the window."""
        came = bisect_left(self.times, now_s) - bisect_left(self.times, now_s - window_s)
        return came / min(window_s, max(TICK_S, now_s))


def conch(load: Load, arrivals: list[Times]) -> Held:
    """What each model holds; all begin at their cheapest."""
    held = Held.constant([CHEAP] * load.models)
    policy, names = load.policy(), load.names
    shares = Shares(
        limit=Limit(memory_bytes=load.memory_bytes), policies=dict.fromkeys(names, policy)
    )
    sizes = {BEST: load.best_bytes, CHEAP: load.cheap_bytes}
    capacities = {version: {1: load.carried_rps(version)} for version in sizes}
    models = [
        _Model(number=number, times=times.tolist(), applied=_settings(load, CHEAP), sizes=sizes)
        for number, times in enumerate(arrivals)
    ]
    for tick in range(1, int(load.duration_s / TICK_S)):
        now_s = tick * TICK_S
        shares = shares.tick(now_s)
        for model, name in zip(models, names, strict=True):
            _end(model, held, now_s)
            seen = Observation(
                at_s=now_s,
                tick_id="",
                counters=None,
                statistics=None,
                applied=model.applied,
                versions=(CHEAP, BEST),
                version_bytes=sizes,
            )
            may_load = shares.may_load(name, seen)
            assert may_load is not None  # the memory has a limit
            begun = _begin(model, may_load, load.load_s, now_s)
            held.changes += begun
            here = capacities[model.applied.version or BEST]
            need = Need(
                rate_rps=model.rate_rps(now_s, policy.fast_window_s),
                needed=1,
                hold=1,
                goal=1,
                capacities=here,
                by_version=capacities,
                load_s=load.load_s,
            )
            decision = Decision(
                tick_id="",
                at_s=now_s,
                reason=Reason.HOLD_STEADY,
                applied=model.applied,
                desired=model.in_flight.settings if model.in_flight else model.applied,
                need=need,
            )
            shares = shares.looked(name, seen, decision, model.in_flight)
        used = sum(want.kept_bytes for want in shares.wants.values())
        held.most_bytes = max(held.most_bytes, used)
    return held


def _end(model: _Model, held: Held, now_s: float) -> None:
    """The change is over, where its time has come."""
    if model.in_flight is not None and model.ends_s <= now_s:
        model.applied = model.in_flight.settings
        held.set(model.number, model.ends_s, model.applied.version)
        model.in_flight = None


def _begin(model: _Model, may_load: tuple[int, ...], load_s: float, now_s: float) -> bool:
    """Load what the model may, and give up the rest; gives whether its version changes."""
    if model.in_flight is not None:
        return False
    version = max(may_load)
    standby = tuple(sorted(other for other in may_load if other != version))
    wanted = replace(model.applied, version=version, standby=standby)
    if wanted == model.applied:
        return False
    loads = wanted.loads_beside(model.applied) > 0
    model.in_flight = InFlight(since_s=now_s, settings=wanted, before=model.applied)
    model.ends_s = now_s + (load_s if loads else 0.0)
    return version != model.applied.version


def _settings(load: Load, version: int) -> Settings:
    """One instance of that version."""
    return Settings(
        instances=1,
        max_batch_size=load.largest_batch,
        dynamic_batching=True,
        max_queue_delay_s=0.0,
        version=version,
    )
