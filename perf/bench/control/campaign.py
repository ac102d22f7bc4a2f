"""Make the runs of a plan: stored as they finish, side by side while the machine has room.

A run that is stored under the same key is not made again. Ctrl-C (``stop``) ends the runs under way
without storing them; what finished stays.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from conch.errors import ConchError
from control.core.policy import Policy
from control.journal import codec
from perf import slo
from perf.bench.control import real, store
from perf.bench.control.plan import CLAIRVOYANT, STATIC_BEST, Contender, Item, Plan
from perf.bench.control.real import Play, Served
from perf.bench.control.run import ControlRun
from perf.bench.control.scenarios import EMULATED, Scenario
from perf.bench.control.shell import TICK_S
from perf.bench.control.side_by_side import Job, run_all
from perf.bench.control.static_best import static_best
from perf.bench.emulated import EmulatedModel
from perf.bench.neighbour import neighbour
from perf.replay import Progress

BUSY_LIMIT = 0.6
MOST_SIDE_BY_SIDE = 8
STATIC, STATIC_MAX = "static", "static-max"
GOAL, NEAR = 0.99, 0.97
"""The attainment that the best static count in hindsight needs, and that of one worth a try."""


class Teller(Protocol):
    """Where the progress goes; called from the threads of the runs."""

    def begins(self, item: Item) -> None:
        """A run begins."""

    def progress(self, item: Item, seen: Progress) -> None:
        """A replay is under way."""

    def ended(self, item: Item, run: ControlRun | None, *, stored: bool) -> None:
        """A run ended, was found stored, or failed (None)."""

    def note(self, text: str) -> None:
        """Something worth a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What came of a plan.

    Attributes:
        runs: every finished run, in the plan's order.
        side_by_side: the most that ran at a time.
        failures: what did not run, and why.
    """

    runs: tuple[ControlRun, ...]
    side_by_side: int = 1
    failures: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class Campaign:
    """Runs of one plan.

    Attributes:
        plan: what to run.
        served: what the real Triton serves; not looked at when the plan is simulated.
        folder: of the stored runs.
        teller: told of the progress.
        side_by_side: runs at a time; None chooses by what the first one took of the machine.
        stop: ends it when set.
    """

    plan: Plan
    served: Served | None
    folder: Path
    teller: Teller
    side_by_side: int | None = None
    stop: threading.Event = field(default_factory=threading.Event)

    def make(self) -> Made:
        """Every run of the plan.

        Raises:
            KeyboardInterrupt: when stopped from outside; what finished is stored.
        """
        if self.plan.simulated or self.served is None:
            return self._simulated()
        limit, known = self.side_by_side or 1, self.side_by_side is not None
        pending = deque(enumerate(self.plan.items))
        done: dict[int, ControlRun] = {}
        failures: list[str] = []
        active: dict[Future[tuple[ControlRun, bool]], tuple[int, Item]] = {}
        most = 1
        with ThreadPoolExecutor(MOST_SIDE_BY_SIDE) as pool:
            try:
                while (pending or active) and not self.stop.is_set():
                    while pending and len(active) < limit:
                        number, item = pending.popleft()
                        active[pool.submit(self._one, item)] = (number, item)
                    most = max(most, len(active))
                    ended, _ = wait(active, return_when=FIRST_COMPLETED, timeout=1.0)
                    for future in ended:
                        number, item = active.pop(future)
                        try:
                            done[number], stored = future.result()
                        except ConchError as error:
                            failures.append(f"{item.contender.label}: {error.message}")
                            self.teller.ended(item, None, stored=False)
                            self.teller.note(failures[-1])
                            continue
                        busy = done[number].busy_fraction
                        if not known and not stored:
                            known, limit = True, room_for(busy)
                            self.teller.note(
                                f"one run keeps the machine {busy * 100:.0f} % busy: "
                                f"{limit} at a time"
                            )
                        elif self.side_by_side is None and limit > 1 and busy > BUSY_LIMIT:
                            limit -= 1
                            self.teller.note(
                                f"the machine was {busy * 100:.0f} % busy: {limit} at a time now"
                            )
            except BaseException:
                self.stop.set()
                raise
        runs = tuple(done[number] for number in sorted(done))
        return Made(runs=runs, side_by_side=most, failures=tuple(failures))

    def _simulated(self) -> Made:
        """The plan on the simulator, in processes of its own."""
        items = self.plan.items
        jobs = [
            Job(
                rule=item.contender.rule,
                options=item.contender.options,
                label=item.contender.label,
                scenario=started(item.contender, item.scenario, self.plan.policy),
                policy=self.plan.policy,
                model=self.plan.model or EMULATED,
            )
            for item in items
        ]
        runs = run_all(
            jobs,
            folder=self.folder,
            processes=self.side_by_side,
            on_done=lambda number, run: self.teller.ended(items[number], run, stored=False),
        )
        return Made(runs=runs, side_by_side=self.side_by_side or os.cpu_count() or 1)

    def _one(self, item: Item) -> tuple[ControlRun, bool]:
        """One run, and whether an earlier start had made it."""
        self.teller.begins(item)
        if item.contender.rule == STATIC_BEST:
            run, stored = self._static_best(item)
        else:
            run, stored = self._played(item, item.contender)
        stopped = self.stop.is_set() and not run.valid
        self.teller.ended(item, None if stopped else run, stored=stored)
        return run, stored

    def _static_best(self, item: Item) -> tuple[ControlRun, bool]:
        """The fewest instances that attain the goal on this very trace, known only afterwards."""
        count = first_static(item.scenario, self.plan.policy, self.plan.model)
        while True:
            chosen = Contender(rule=STATIC, options={"count": float(count)})
            run, stored = self._played(item, chosen)
            attained = slo.slo_attainment(run.latency_s, run.slo_s)
            if attained >= GOAL or count >= self.plan.policy.max_instances or self.stop.is_set():
                return replace(run, rule=item.contender.label), stored
            count += 1

    def _played(self, item: Item, chosen: Contender) -> tuple[ControlRun, bool]:
        """One run of one rule, stored when it is valid."""
        scenario = started(chosen, item.scenario, self.plan.policy)
        key = self._key(chosen, scenario)
        if found := store.load(self.folder, key):
            return found, True
        run = self._make(item, chosen, scenario)
        if not run.valid and not self.stop.is_set():
            self.teller.note(f"{chosen.label}: not valid, once more ({run.invalid_reason})")
            run = self._make(item, chosen, scenario)
        if run.valid and not self.stop.is_set():
            store.save(run, self.folder, key)
        return run, False

    def _make(self, item: Item, chosen: Contender, scenario: Scenario) -> ControlRun:
        """One run on a real Triton."""
        assert self.served is not None
        asked = Play(
            trace=scenario.trace,
            warmup_s=scenario.warm_up_s,
            rule=chosen.rule,
            options=chosen.options,
            label=chosen.label,
            policy=self.plan.policy,
            instances=scenario.instances,
            tick_s=TICK_S,
        )
        with neighbour(scenario.neighbour_fraction, seed=scenario.seed):
            return real.play(
                self.served,
                asked,
                on_progress=lambda seen: self.teller.progress(item, seen),
                stop=self.stop,
            )

    def _key(self, chosen: Contender, scenario: Scenario) -> str:
        """The name of a run: everything that it depends on."""
        return store.key_of(
            {
                "served": self.served.label if self.served else "",
                "rule": chosen.rule,
                "options": dict(chosen.options),
                "policy": codec.plain(self.plan.policy),
                "instances": scenario.instances,
                "warm_up_s": scenario.warm_up_s,
                "duration_s": scenario.duration_s,
                "trace": scenario.trace.description,
                "seed": scenario.seed,
                "tick_s": TICK_S,
                "neighbour": scenario.neighbour_fraction,
            },
            arrivals=scenario.trace.arrival_s,
            deciding=chosen.rule not in (STATIC, STATIC_MAX),
        )


def room_for(busy_fraction: float) -> int:
    """How many runs keep the machine below the limit when one of them takes this share.

    Example:
        >>> room_for(0.17)
        3
    """
    if not busy_fraction > 0:
        return 1
    return max(1, min(MOST_SIDE_BY_SIDE, int(BUSY_LIMIT / busy_fraction)))


def started(chosen: Contender, scenario: Scenario, policy: Policy) -> Scenario:
    """The scenario as this rule begins it: a chosen constant count is there from the start."""
    if chosen.rule == STATIC_MAX:
        return replace(scenario, instances=policy.max_instances)
    if chosen.rule != STATIC:
        return scenario
    return replace(scenario, instances=int(chosen.options.get("count", 1)))


def first_static(scenario: Scenario, policy: Policy, model: EmulatedModel | None) -> int:
    """The instances that the search for the best static count begins with on a real server.

    The simulator's answer, or one fewer where that came near. A model of a repository has no
    simulator: its search begins with the fewest.
    """
    if model is None:
        return policy.min_instances
    best = static_best(scenario, policy, model=model)
    return best.instances - (best.attainment_below >= NEAR)


def references(plan: Plan, folder: Path) -> tuple[ControlRun, ...]:
    """Simulated clairvoyant runs on the plan's traces: what foresight alone would cost."""
    if plan.model is None or plan.simulated:
        return ()
    scenes = list({id(item.scenario): item.scenario for item in plan.items}.values())
    jobs = [
        Job(rule=CLAIRVOYANT, scenario=scene, policy=plan.policy, model=plan.model)
        for scene in scenes
    ]
    return run_all(jobs, folder=folder)
