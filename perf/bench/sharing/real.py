"""One contender on a real Triton: emulated models, one open-loop replay for each.

``conch control run`` decides in a process of its own, as a user starts it.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml

from control import session
from control.action import Outcome as ActionOutcome
from control.journal.writer import Journal
from perf.bench import emulated
from perf.bench.control.process import controller
from perf.bench.control.real import busy_between
from perf.bench.sharing.contenders import Contender
from perf.bench.sharing.loads import Load
from perf.bench.sharing.run import Met, Sharing, counted
from perf.inputs import make_inputs
from perf.replay import ReplayTarget, replay
from perf.replay_result import Outcome, ReplayResult
from serving import model_config, queue_limit, slots
from serving.client import TritonClient
from serving.model_config import ModelConfig, ReloadKind
from serving.repository import Repository
from serving.runtime import endpoint as endpoints
from serving.runtime.supervisor import TritonServer

DEADLINE_S = 30.0
LONGER_S = 120.0
"""A controller that nobody ended ends so long after the load."""
TICK_S = 0.5
_REFUSED = "timeout"  # Triton's words for a request that waited too long hold it


def play(contender: Contender, load: Load, *, stop: threading.Event | None = None) -> Sharing:
    """One run, from an empty repository to the last answer.

    Raises:
        ConchError: when the server or the controller does not start.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="conch-sharing-")))
        root = folder / "repository"
        root.mkdir()
        for number, member in enumerate(load.members):
            config = _published(contender, load, number, root)
            (root / member.model.name / "config.pbtxt").write_text(model_config.to_text(config))
        server = stack.enter_context(emulated.served(root, folder, slots=contender.slots))
        stack.callback(endpoints.remove, server.endpoint.name)
        endpoints.save(server.endpoint)  # tells the controller of the slots
        if load.head_start:
            _go_ahead(contender, load, server)
        if contender.control:
            policy = folder / "policy.yaml"
            policy.write_text(policy_text(contender, load), encoding="utf-8")
            longest_s = load.warm_up_s + load.duration_s + DEADLINE_S + LONGER_S
            beside = controller(
                server.endpoint, policy, root, folder / "control.log", longest_s=longest_s
            )
            with beside:
                return _scored(contender, load, server, stop)
        return _scored(contender, load, server, stop)


def policy_text(contender: Contender, load: Load) -> str:
    """The policy file that a user would write."""
    section = {
        member.model.name: {
            "slo": member.policy.slo_s,
            "min_instances": 1,
            "max_instances": load.budget,
            "max_batch_size": member.policy.max_batch_size,
            "cores": load.budget,
            "load_time": member.model.load_s,
            "late": "refuse" if contender.refuse else "wait",
        }
        for member in load.members
    }
    data: dict[str, Any] = {"version": 1, "tick": TICK_S, "models": section}
    if contender.slots is None:
        data["budget"] = {"instances": load.budget}
    return yaml.safe_dump(data, sort_keys=False)


def _published(contender: Contender, load: Load, number: int, root: Path) -> ModelConfig:
    """The model's files; gives its config as the contender would have it."""
    member = load.members[number]
    model = replace(
        member.model,
        instances=contender.counts[number],
        max_queue_delay_s=contender.delay_s(member),
        free_batches=load.before(number, contender.counts[number]),
    )
    emulated.publish(model, root)
    config = emulated.config_of(model)
    after_s = None if contender.control else contender.refuse_after_s(member)
    if after_s is not None:
        config = queue_limit.with_refusal(config, round(after_s * 1e6))
    return config if contender.slots is None else slots.with_slots(config)


def _go_ahead(contender: Contender, load: Load, server: TritonServer) -> None:
    """Have the first model execute what it has executed before, each request a full batch."""
    endpoint, model = server.endpoint, load.members[0].model
    instances = contender.counts[0]
    with TritonClient(endpoint.grpc_url, admin_key=endpoint.admin_key) as client:
        full = make_inputs(client.config(model.name), batch=model.max_batch_size)

        def send(_: int) -> None:
            client.infer(model.name, full)

        with ThreadPoolExecutor(2 * instances) as pool:
            for _ in pool.map(send, range(load.head_start)):
                pass


def _scored(
    contender: Contender, load: Load, server: TritonServer, stop: threading.Event | None
) -> Sharing:
    """Send all loads at once, and count."""
    root = server.endpoint.repository
    assert root is not None  # it is ours
    config = {m.model.name: Repository(root).read_config(m.model.name) for m in load.members}
    machine = psutil.cpu_times()

    def send(number: int) -> ReplayResult:
        member = load.members[number]
        target = ReplayTarget(
            grpc_url=server.endpoint.grpc_url,
            model=member.model.name,
            inputs=make_inputs(config[member.model.name]),
        )
        return replay(
            load.trace(number),
            target,
            slo_s=member.policy.slo_s,
            processes=1,
            deadline_s=DEADLINE_S,
            stop=stop,
        )

    with ThreadPoolExecutor(len(load.members)) as pool:
        results = list(pool.map(send, range(len(load.members))))
    busy = busy_between(machine, psutil.cpu_times())
    changes, reloads = _changes(Repository(root)) if contender.control else (0, 0)
    batches = _mean_batches(server, load)
    return _counted(contender, load, results, batches, changes, reloads, busy)


def _counted(
    contender: Contender,
    load: Load,
    results: list[ReplayResult],
    batches: Mapping[str, float],
    changes: int,
    reloads: int,
    busy: float,
) -> Sharing:
    """The figures of a run."""
    met = {}
    for member, result in zip(load.members, results, strict=True):
        late = [n for n, text in enumerate(result.errors) if _REFUSED in text.lower()]
        met[member.model.name] = Met(
            intended_s=result.intended_s,
            in_time=(result.outcome == Outcome.OK) & (result.latency_s <= member.policy.slo_s),
            refused=np.isin(result.error_index, late),
        )
    return replace(
        counted(contender.label, load, met, simulated=False),
        mean_batch=dict(batches),
        changes=changes,
        reloads=reloads,
        busy_fraction=busy,
        load_average=os.getloadavg()[0],
        valid=all(result.valid for result in results),
    )


def _changes(repository: Repository) -> tuple[int, int]:
    """(changes, reloads among them) by the journal."""
    with Journal(session.journal_path(repository), read_only=True) as journal:
        made = [
            action.result or {}
            for action in journal.actions()
            if (action.result or {}).get("outcome") != ActionOutcome.UNCHANGED.value
        ]
    return len(made), sum(one.get("kind") == ReloadKind.RELOAD.value for one in made)


def _mean_batches(server: TritonServer, load: Load) -> dict[str, float]:
    """Items of an execution, by model."""
    endpoint = server.endpoint
    with TritonClient(endpoint.grpc_url, admin_key=endpoint.admin_key) as client:
        seen = {m.model.name: client.statistics(m.model.name) for m in load.members}
    return {
        name: one.inference_count / one.execution_count
        for name, one in seen.items()
        if one.execution_count
    }
