"""A rule on the simulated server: the loop of ``control.loop`` without its clock and its disk."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from control.core.memory.changes import Applied, InFlight
from control.core.memory.state import ControlState
from control.core.policy import Policy
from control.core.queue_model.expected import expected
from control.core.reasons import Reason
from control.core.rules.rule import Rule
from control.core.step import Begun, Ended, Event, Looked, Started, step
from control.core.types import Decision
from perf.bench.control.run import ChangeMade, ControlRun
from perf.bench.control.scenarios import Scenario
from perf.bench.control.simulated import Actuation, SimulatedServer
from perf.bench.emulated import EmulatedModel

TICK_S = 0.5
NEIGHBOUR_S, NEIGHBOUR_SLOWER = 2.0, 1.5


@dataclass(slots=True, kw_only=True)
class _Core:
    """The rule with its memory, and what it cost to ask it."""

    rule: Rule
    policy: Policy
    state: ControlState = field(default_factory=ControlState)
    cpu_s: float = 0.0

    def step(self, event: Event) -> Decision | None:
        """Feed it one event."""
        begun_s = time.process_time()
        self.state, decision = step(self.rule, self.state, event, self.policy)
        self.cpu_s += time.process_time() - begun_s
        return decision


@dataclass(frozen=True, slots=True, kw_only=True)
class _Acting:
    """A change in flight; times on the trace's axis."""

    begun_s: float
    decision: Decision


def simulate(
    rule: Rule,
    policy: Policy,
    scenario: Scenario,
    *,
    model: EmulatedModel,
    actuation: Actuation | None = None,
    tick_s: float = TICK_S,
    label: str = "",
    on_look: Callable[[float, Decision], None] | None = None,
) -> ControlRun:
    """Play the scenario under the rule; what happens in each tick is in ``ControlLoop``'s order.

    Args:
        rule: decides.
        policy: of the model.
        scenario: arrivals with their warm-up, and the instances to begin with.
        model: the emulated accelerator; its ``instances`` is not looked at.
        actuation: how long changes take; as measured where None.
        tick_s: between two looks.
        label: of the rule with its options; its name where empty.
        on_look: told of each look's time on the trace's axis, and what was decided.
    """
    arrival_s = scenario.arrival_s
    server = SimulatedServer(
        model=model,
        arrival_s=arrival_s,
        start_s=-scenario.warm_up_s,
        instances=scenario.instances,
        seed=scenario.seed,
        actuation=actuation or Actuation(),
        slower=slow_seconds(scenario),
    )
    core = _Core(rule=rule, policy=policy)
    core.step(Started(at_s=server.epoch_s - scenario.warm_up_s))
    changes: list[ChangeMade] = []
    said: list[tuple[float, float]] = []
    acting: _Acting | None = None
    ticks = 0
    while (now_s := ticks * tick_s - scenario.warm_up_s) < scenario.duration_s:
        ticks += 1
        ended = server.ended(now_s) if acting else None
        if acting and ended:
            changes.append(_change_made(acting, ended.at_s, reload=ended.reload))
            core.step(Ended(change=applied(changes[-1], server.epoch_s + now_s)))
            acting = None
        decision = core.step(Looked(seen=server.observe(now_s)))
        assert decision is not None  # a look is always answered
        if on_look:
            on_look(now_s, decision)
        now = expected(decision.terms, decision.applied) if now_s >= 0 else None
        if now is not None:
            said.append((now_s, now.p99_s))
        if not decision.changes or acting:
            continue
        assert decision.desired is not None  # `changes` says so
        assert decision.applied is not None
        since_s = server.epoch_s + now_s
        change = InFlight(since_s=since_s, settings=decision.desired, before=decision.applied)
        core.step(Begun(change=change))
        server.begin(decision.desired, fresh=decision.fresh, at_s=now_s)
        acting = _Acting(begun_s=now_s, decision=decision)
    server.finish()
    scored = arrival_s >= 0
    return ControlRun(
        rule=label or rule.name,
        trace_name=scenario.trace.name,
        description=scenario.trace.description,
        seed=scenario.seed,
        simulated=True,
        slo_s=policy.slo_s,
        duration_s=scenario.duration_s,
        intended_s=arrival_s[scored],
        latency_s=server.latency_s()[scored],
        paid=server.paid,
        changes=tuple(changes),
        expected=tuple(said),
        controller_cpu_s=core.cpu_s,
    )


def slow_seconds(scenario: Scenario) -> tuple[float, ...]:
    """How much longer batches take in each second of the run, for a neighbour that comes and goes.

    He works for two seconds at a time on average, and takes a third of the machine.
    """
    busy, count = scenario.neighbour_fraction, int(scenario.trace.duration_s) + 1
    if not busy:
        return ()
    rng, works, found = np.random.default_rng((scenario.seed, 0xB0B)), False, []
    leaves = 1.0 / NEIGHBOUR_S
    comes = min(1.0, leaves * busy / max(1e-9, 1.0 - busy))
    for _ in range(count):
        works = rng.random() >= leaves if works else rng.random() < comes
        found.append(NEIGHBOUR_SLOWER if works else 1.0)
    return tuple(found)


def _change_made(acting: _Acting, ended_s: float, *, reload: bool) -> ChangeMade:
    """The change for the record."""
    decision = acting.decision
    assert decision.desired is not None
    assert decision.applied is not None
    return ChangeMade(
        begun_s=acting.begun_s,
        ended_s=ended_s,
        reason=decision.reason.name,
        before=decision.applied,
        after=decision.desired,
        reload=reload,
    )


def applied(change: ChangeMade, at_s: float) -> Applied:
    """The change as the core remembers it; it is told at the tick after its end."""
    return Applied(
        at_s=at_s,
        settings=change.after,
        before=change.before,
        reload=change.reload,
        ok=change.ok,
        seconds=change.ended_s - change.begun_s,
        undo=change.reason == Reason.ROLLBACK.name,
    )
