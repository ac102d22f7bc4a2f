"""Many simulated runs in processes of their own; one that is stored is not made again."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from control.core.policy import Policy
from control.core.rules import rule_named
from control.journal import codec
from perf.bench.control import store
from perf.bench.control.run import ControlRun
from perf.bench.control.scenarios import EMULATED, POLICY, Scenario
from perf.bench.control.shell import TICK_S, simulate
from perf.bench.control.simulated import Actuation
from perf.bench.control.static_best import static_best
from perf.bench.emulated import EmulatedModel

CLAIRVOYANT, STATIC_BEST = "clairvoyant", "static-best"
NICE = 10
CHUNK = 2
"""Runs that a process is given at a time."""

Asked = TypeVar("Asked")
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run to simulate.

    Attributes:
        rule: by its name; ``static-best`` is searched, ``clairvoyant`` is told the true rate.
        options: of the rule.
        label: as tables call it; the rule's name where empty.
        scenario: the load.
        policy: what the rule is held to.
        model: the emulated accelerator.
        actuation: how long changes take.
        tick_s: between two looks.
    """

    rule: str
    scenario: Scenario = field(repr=False)
    options: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""
    policy: Policy = POLICY
    model: EmulatedModel = EMULATED
    actuation: Actuation = field(default_factory=Actuation)
    tick_s: float = TICK_S

    @property
    def key(self) -> str:
        """A name for everything that the result depends on, the code included."""
        values = {
            "rule": self.rule,
            "options": codec.plain(dict(self.options)),
            "label": self.label,
            "policy": codec.plain(self.policy),
            "model": codec.plain(self.model),
            "actuation": codec.plain(self.actuation),
            "tick_s": self.tick_s,
            "warm_up_s": self.scenario.warm_up_s,
            "instances": self.scenario.instances,
            "trace": self.scenario.trace.description,
            "seed": self.scenario.seed,
            "neighbour": self.scenario.neighbour_fraction,
        }
        return store.key_of(values, arrivals=self.scenario.trace.arrival_s, deciding=True)


def run(job: Job) -> ControlRun:
    """The run, in this process.

    Raises:
        ConfigError: for a rule or an option that is not known.
    """
    if job.rule == STATIC_BEST:
        best = static_best(job.scenario, job.policy, model=job.model, actuation=job.actuation)
        return replace(best.run, rule=job.label or f"{STATIC_BEST}(count={best.instances})")
    return simulate(
        rule_named(job.rule, job.options),
        job.policy,
        job.scenario,
        model=job.model,
        actuation=job.actuation,
        tick_s=job.tick_s,
        label=job.label,
    )


def run_all(
    jobs: Sequence[Job],
    *,
    folder: Path | None = None,
    processes: int | None = None,
    on_done: Callable[[int, ControlRun], None] | None = None,
) -> tuple[ControlRun, ...]:
    """Every job's run, in the order of the jobs.

    Args:
        jobs: what to simulate.
        folder: of the stored runs; None stores nothing.
        processes: at a time, of low priority; the machine's cores where None. One runs them here.
        on_done: told (number, run) of each, stored ones first.

    Raises:
        ConfigError: for a rule or an option that is not known; runs that finished stay stored.
    """
    done: dict[int, ControlRun] = {}

    def finished(number: int, made: ControlRun, *, stored: bool) -> None:
        done[number] = made
        if folder is not None and not stored:
            store.save(made, folder, keys[number])
        if on_done:
            on_done(number, made)

    keys = [job.key for job in jobs] if folder is not None else []
    missing = []
    for number in range(len(jobs)):
        found = store.load(folder, keys[number]) if folder is not None else None
        if found is not None:
            finished(number, found, stored=True)
        else:
            missing.append(number)
    count = min(processes or os.cpu_count() or 1, len(missing))
    if count <= 1:
        for number in missing:
            finished(number, run(_told(jobs[number])), stored=False)
        return tuple(done[number] for number in range(len(jobs)))
    # A fresh interpreter: a fork would take the caller's threads' locks with it.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=context, initializer=_nice) as pool:
        futures = {pool.submit(run, _told(jobs[number])): number for number in missing}
        try:
            for future in as_completed(futures):
                finished(futures[future], future.result(), stored=False)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return tuple(done[number] for number in range(len(jobs)))


def _told(job: Job) -> Job:
    """The job as another process can take it: without the rate function, which is a closure."""
    options = dict(job.options)
    if job.rule == CLAIRVOYANT:
        options["rate"] = job.scenario.rate_steps()
    scenario = replace(job.scenario, trace=replace(job.scenario.trace, rate=None))
    return replace(job, options=options, scenario=scenario)


def _nice() -> None:
    """Leave the cores to others who want them."""
    os.nice(NICE)


def in_processes(
    play: Callable[[Asked], Made],
    todo: Sequence[Asked],
    *,
    on_done: Callable[[int, int], None] | None = None,
) -> list[Made]:
    """Simulated runs in processes of their own, as many as there are cores, and gentle to others.

    Args:
        play: one run; a function of a module.
        todo: what it is asked for, in the order of the answers.
        on_done: told how many of how many are done.
    """
    context = multiprocessing.get_context("spawn")
    found: list[Made] = []
    with ProcessPoolExecutor(os.cpu_count(), mp_context=context, initializer=_nice) as pool:
        for outcome in pool.map(play, todo, chunksize=CHUNK):
            found.append(outcome)
            if on_done:
                on_done(len(found), len(todo))
    return found
