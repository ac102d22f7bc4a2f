"""Conch's ladder on a real Triton: emulated models that hold real memory, one replay for each.

``conch control run`` decides in a process of its own, as a user starts it.
"""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from control.journal.writer import Journal
from control.session import journal_path
from control.watch.machine import COPIES_OF_FILES
from perf.bench import emulated
from perf.bench.control.process import controller
from perf.bench.emulated import EmulatedModel
from perf.bench.ladder.loads import BEST, CHEAP, MIB, Load
from perf.bench.ladder.run import HOUR_S, Run
from perf.inputs import make_inputs
from perf.replay import ReplayTarget, replay
from perf.replay_result import Outcome, ReplayResult
from perf.traces import Trace
from serving.repository import Repository
from serving.runtime import endpoint as endpoints
from serving.runtime.supervisor import TritonServer

PROCESS_MIB = 54
"""What the process of an instance takes by itself, once it has answered."""
DEADLINE_S = 10.0
LONGER_S = 300.0
"""A controller that nobody ended ends so long after the load: clients take their time to start."""


def play(load: Load) -> Run:
    """One run, from an empty repository to the last answer; all begin at their cheapest.

    Raises:
        ConchError: when the server or the controller does not start.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="conch-ladder-")))
        root = folder / "repository"
        root.mkdir()
        for name in load.names:
            emulated.publish(_emulated(load, name), root)
        server = stack.enter_context(emulated.served(root, folder))
        stack.callback(endpoints.remove, server.endpoint.name)
        endpoints.save(server.endpoint)
        policy = folder / "policy.yaml"
        policy.write_text(policy_text(load), encoding="utf-8")
        beside = controller(
            server.endpoint,
            policy,
            root,
            folder / "control.log",
            longest_s=load.duration_s + LONGER_S,
        )
        with beside, ThreadPoolExecutor(load.models) as pool:
            sent = pool.map(lambda each: _sent(load, server, *each), enumerate(load.arrivals()))
            results = list(sent)
        return _counted(load, Repository(root), results)


def policy_text(load: Load) -> str:
    """The policy file that a user would write."""
    section = {
        "slo": load.slo_s,
        "max_instances": 1,
        "max_batch_size": load.largest_batch,
        "load_time": load.load_s,
        "rebatch": False,
        "versions": [BEST, CHEAP],
    }
    data: dict[str, Any] = {
        "version": 1,
        "budget": {"memory_mib": load.memory_bytes // MIB + load.models * PROCESS_MIB},
        "models": dict.fromkeys(load.names, section),
    }
    return yaml.safe_dump(data, sort_keys=False)


def _emulated(load: Load, name: str) -> EmulatedModel:
    """The model as the simulation has it; its files are half of what it holds."""
    return EmulatedModel(
        name=name,
        alpha_s=load.cheap.alpha_s,
        beta_s=load.cheap.beta_s,
        load_s=load.load_s,
        max_batch_size=load.largest_batch,
        more_versions={BEST: (load.best.alpha_s, load.best.beta_s)},
        weights={
            CHEAP: load.cheap_bytes // COPIES_OF_FILES,
            BEST: load.best_bytes // COPIES_OF_FILES,
        },
    )


def _sent(
    load: Load, server: TritonServer, number: int, arrival_s: NDArray[np.float64]
) -> ReplayResult:
    """The load of one model."""
    name, root = load.names[number], server.endpoint.repository
    assert root is not None  # it is ours
    target = ReplayTarget(
        grpc_url=server.endpoint.grpc_url,
        model=name,
        inputs=make_inputs(Repository(root).read_config(name)),
    )
    trace = Trace(
        name=name, arrival_s=arrival_s, duration_s=load.duration_s, description="popularity moves"
    )
    return replay(trace, target, slo_s=load.slo_s, processes=1, deadline_s=DEADLINE_S)


def _counted(load: Load, repository: Repository, results: list[ReplayResult]) -> Run:
    """The figures; a request is at its best where its answer came while the best was in force."""
    now_s = time.time() - time.monotonic()
    changes, in_time, at_best = 0, [], []
    with Journal(journal_path(repository), read_only=True) as journal:
        ended = [action for action in journal.actions() if action.ended_at_s is not None]
        for result in results:
            since = [(0.0, CHEAP)]
            wanted = {
                entry.decision.tick_id: entry.decision.desired
                for entry in journal.entries(result.model)
            }
            for action in ended:
                desired = wanted.get(action.tick_id)
                if action.model == result.model and desired and action.ended_at_s:
                    begun_s = action.ended_at_s - now_s - result.epoch_monotonic_s
                    changes += desired.version != since[-1][1]
                    since.append((begun_s, desired.version or BEST))
            met = (result.outcome == Outcome.OK) & (result.latency_s <= load.slo_s)
            place = np.searchsorted([at_s for at_s, _ in since], result.intended_s, side="right")
            best = np.array([version == BEST for _, version in since])[place - 1]
            in_time.append(met)
            at_best.append(met & best)
    requests = sum(met.size for met in in_time)
    return Run(
        contender="conch, real",
        seed=load.seed,
        requests=requests,
        attainment=sum(int(met.sum()) for met in in_time) / max(1, requests),
        least_attainment=min(float(met.mean()) for met in in_time if met.size),
        at_best=sum(int(met.sum()) for met in at_best) / max(1, requests),
        changes_per_hour=changes * HOUR_S / load.duration_s,
        most_fraction=0.0,
    )
