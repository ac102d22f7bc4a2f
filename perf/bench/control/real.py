"""One run on a real Triton: a server of its own, an open-loop replay, and the rule beside it.

The rule decides in its own process, ``conch control run``, just as a user starts it. A static
configuration has no process at all. Only what was started here is ended.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml

from conch.errors import ConfigError, LoadError
from control import session
from control.action import Outcome as ActionOutcome
from control.core.policy import Policy
from control.core.queue_model.expected import Expected, expected
from control.journal import codec
from control.journal.writer import ActionEntry, Journal
from perf.bench import emulated
from perf.bench.control.process import Controller, controller
from perf.bench.control.run import ChangeMade, ControlRun
from perf.bench.emulated import EmulatedModel
from perf.inputs import make_inputs
from perf.replay import Progress, ReplayTarget, replay
from perf.replay_result import Outcome, ReplayResult
from perf.traces import Trace
from serving import model_config
from serving.model_config import ReloadKind
from serving.repository import Repository
from serving.runtime.endpoint import Endpoint
from serving.runtime.supervisor import TritonServer

DEADLINE_S = 30.0
AFTER_S = 120.0
"""A controller that nobody ended ends so long after the last answer."""
STATIC = "static"


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What the server serves.

    Attributes:
        model: its name in the repository.
        label: for people; says so when it is an emulator.
        publish: writes the model into an empty repository with this many instances.
        shapes: of the requests, for variable dimensions.
    """

    model: str
    label: str
    publish: Callable[[Path, int], None] = field(repr=False)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Play:
    """One run to make.

    Attributes:
        trace: the arrivals, the warm-up first.
        warmup_s: of the trace that is played but not counted.
        rule: as users name it, or ``static``.
        options: of the rule.
        label: how tables call it.
        policy: what the rule is held to.
        instances: at the start.
        tick_s: time between two looks.
    """

    trace: Trace
    warmup_s: float
    rule: str
    policy: Policy
    instances: int
    label: str = ""
    options: Mapping[str, float] = field(default_factory=dict)
    tick_s: float = 1.0


def emulator(model: EmulatedModel) -> Served:
    """The emulated accelerator."""
    return Served(
        model=model.name,
        label=(
            f"emulated accelerator (an emulator, no model): {model.alpha_s * 1e3:g} ms an item + "
            f"{model.beta_s * 1e3:g} ms a batch, jitter {model.jitter_fraction * 100:g} %, "
            f"batch {model.max_batch_size}, an instance loads in {model.load_s:g} s"
        ),
        publish=lambda root, count: emulated.publish(replace(model, instances=count), root),
    )


def from_repository(source: Repository, name: str, shapes: Mapping[str, tuple[int, ...]]) -> Served:
    """A model of a repository, copied so that the original stays as it is.

    Raises:
        ConfigError: when it is not there, or has no explicit instance count.
    """
    config = source.read_config(name)
    model_config.require_explicit_instances(config)

    def publish(root: Path, count: int) -> None:
        """A copy with this many instances."""
        shutil.copytree(source.root / name, root / name)
        mine = Repository(root)
        mine.write_config(name, model_config.with_instances(config, count), reason="bench")

    return Served(model=name, label=f"{name} ({config.backend})", publish=publish, shapes=shapes)


def play(
    served: Served,
    asked: Play,
    *,
    on_progress: Callable[[Progress], None] | None = None,
    on_up: Callable[[Endpoint], None] | None = None,
    stop: threading.Event | None = None,
) -> ControlRun:
    """One run, from an empty repository to the last answer.

    Args:
        served: the model.
        asked: trace, rule, policy.
        on_progress: called about twice a second.
        on_up: called when the server is ready, before the first request.
        stop: ends the run early when set; the run is then not valid.

    Raises:
        ConchError: when the server or the controller does not start.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="conch-bench-")))
        root = folder / "repository"
        root.mkdir()
        served.publish(root, asked.instances)
        server = stack.enter_context(
            TritonServer(
                root,
                models=[served.model],
                name=f"bench-{folder.name[-8:]}",
                log_path=folder / "triton.log",
                exit_timeout_s=2,
                restart=False,
            )
        )
        if not all(model.ready for model in server.models):
            raise LoadError(
                f"{served.model}: does not load ({server.models[0].reason}).",
                hint="Serve it once with `conch serve` and look at its log.",
            )
        if on_up:
            on_up(server.endpoint)
        beside: Controller | None = None
        with ExitStack() as rule:
            if asked.rule != STATIC:
                policy = folder / "policy.yaml"
                policy.write_text(policy_text(served.model, asked), encoding="utf-8")
                beside = rule.enter_context(
                    controller(
                        server.endpoint,
                        policy,
                        root,
                        folder / "control.log",
                        longest_s=asked.trace.duration_s + DEADLINE_S + AFTER_S,
                    )
                )
            seen = _replayed(server, served, asked, beside, on_progress, stop)
        journal = session.journal_path(Repository(root))
        actions = _actions(journal, served.model) if beside else []
        return _made(asked, seen, beside.ticks if beside else [], actions)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """The replay, and what the machine and the controller used during it."""

    replayed: ReplayResult
    busy_fraction: float
    controller_cpu_s: float
    wall_offset_s: float
    trouble: str


def _replayed(
    server: TritonServer,
    served: Served,
    asked: Play,
    beside: Controller | None,
    on_progress: Callable[[Progress], None] | None,
    stop: threading.Event | None,
) -> _Seen:
    """Send the trace."""
    config = Repository(server.endpoint.repository or Path()).read_config(served.model)
    target = ReplayTarget(
        grpc_url=server.endpoint.grpc_url,
        model=served.model,
        inputs=make_inputs(config, shapes=dict(served.shapes)),
    )
    machine, cpu_s = psutil.cpu_times(), beside.cpu_s() if beside else 0.0
    warming_up = asked.warmup_s > 0

    def follow(seen: Progress) -> None:
        nonlocal warming_up, machine, cpu_s
        if warming_up and seen.at_s >= asked.warmup_s:  # what is measured begins
            warming_up = False
            machine, cpu_s = psutil.cpu_times(), beside.cpu_s() if beside else 0.0
        if on_progress:
            on_progress(seen)

    replayed = replay(
        asked.trace,
        target,
        slo_s=asked.policy.slo_s,
        deadline_s=DEADLINE_S,
        on_progress=follow,
        stop=stop,
    )
    busy = busy_between(machine, psutil.cpu_times())
    gone = beside is not None and beside.process.poll() is not None
    return _Seen(
        replayed=replayed,
        busy_fraction=busy,
        controller_cpu_s=(beside.cpu_s() if beside else 0.0) - cpu_s,
        wall_offset_s=time.time() - time.monotonic(),
        trouble="the controller ended before the trace did" if gone else "",
    )


def busy_between(before: Any, after: Any) -> float:
    """Share of the machine's cores that worked between two ``psutil.cpu_times()``."""
    spent = np.array(after[:8]) - np.array(before[:8])  # guest times are part of the user's
    idle = (after.idle - before.idle) + (after.iowait - before.iowait)
    return float(1.0 - idle / spent.sum()) if spent.sum() > 0 else float("nan")


def policy_text(model: str, asked: Play) -> str:
    """The policy file that a user would write for this run."""
    policy = asked.policy
    section: dict[str, Any] = {
        "slo": policy.slo_s,
        "min_instances": policy.min_instances,
        "max_instances": policy.max_instances,
        "max_batch_size": policy.max_batch_size,
        "cores": policy.cores,
        "rebatch": policy.rebatch,
        "idle_cost": policy.idle_cost,
        "cooldown": policy.cooldown_s,
        "fast_window": policy.fast_window_s,
        "stable_window": policy.stable_window_s,
        "margin": policy.margin_fraction,
        "reloads_per_hour": policy.reloads_per_hour,
        "copies_per_hour": policy.copies_per_hour,
        "target": policy.slo_target_fraction,
        "load_time": policy.load_s,
        "rule": asked.rule,
        "rule_options": dict(asked.options),
    }
    data = {"version": 1, "tick": asked.tick_s, "models": {model: section}}
    return yaml.safe_dump(data, sort_keys=False)


def _actions(journal: Path, model: str) -> list[ActionEntry]:
    """What was changed, with its begin and its end; also what was in flight when it stopped."""
    with Journal(journal, read_only=True) as opened:
        return opened.actions(model)


def _made(
    asked: Play, seen: _Seen, ticks: Sequence[Mapping[str, Any]], actions: Sequence[ActionEntry]
) -> ControlRun:
    """The run on the time axis of what is measured."""
    replayed = seen.replayed
    shift_s = seen.wall_offset_s + replayed.epoch_monotonic_s + asked.warmup_s
    counted = replayed.intended_s >= asked.warmup_s
    changes = changes_of(ticks, actions, shift_s=shift_s)
    trouble = seen.trouble or replayed.invalid_reason
    return ControlRun(
        rule=asked.label or asked.rule,
        trace_name=replayed.trace_name,
        description=replayed.description,
        seed=replayed.seed or 0,
        simulated=False,
        slo_s=replayed.slo_s,
        duration_s=replayed.duration_s - asked.warmup_s,
        intended_s=replayed.intended_s[counted] - asked.warmup_s,
        latency_s=replayed.latency_s[counted],
        failed=int(np.count_nonzero(replayed.outcome[counted] == Outcome.FAILED)),
        paid=paid_of(asked.instances, changes, since_s=-asked.warmup_s),
        changes=changes,
        expected=tuple(
            (tick["decision"]["at_s"] - shift_s, said.p99_s)
            for tick in ticks
            if (said := _expected(tick["decision"])) is not None
        ),
        controller_cpu_s=seen.controller_cpu_s,
        busy_fraction=seen.busy_fraction,
        valid=not trouble,
        invalid_reason=trouble,
    )


def _expected(decision: Mapping[str, Any]) -> Expected | None:
    """What the rule expects of the settings in force."""
    return expected(decision["terms"], codec.settings(decision["applied"]))


def changes_of(
    ticks: Sequence[Mapping[str, Any]], actions: Sequence[ActionEntry], *, shift_s: float
) -> tuple[ChangeMade, ...]:
    """The changes by the journal's times; one that never ended lasts to the end of time.

    Args:
        ticks: of ``control run --jsonl``: what was decided.
        actions: of the journal: when it was done.
        shift_s: the wall clock at time 0.

    Raises:
        ConfigError: when an action belongs to no tick.
    """
    decided = {tick["decision"]["tick_id"]: codec.decision(tick["decision"]) for tick in ticks}
    found = []
    for action in actions:
        decision = decided.get(action.tick_id)
        if decision is None or decision.applied is None or decision.desired is None:
            raise ConfigError(
                f"journal: tick {action.tick_id} changed something and was not told.",
                hint="Run it again with --debug.",
            )
        result = action.result or {}
        if result.get("outcome") == ActionOutcome.UNCHANGED.value:
            continue
        ended_s = float("inf") if action.ended_at_s is None else action.ended_at_s - shift_s
        found.append(
            ChangeMade(
                begun_s=action.begun_at_s - shift_s,
                ended_s=ended_s,
                reason=decision.reason.name,
                before=decision.applied,
                after=decision.desired,
                reload=result.get("kind") == ReloadKind.RELOAD.value,
                ok=result.get("outcome") == ActionOutcome.APPLIED.value,
            )
        )
    return tuple(found)


def paid_of(
    start: int, changes: Sequence[ChangeMade], *, since_s: float
) -> tuple[tuple[float, int], ...]:
    """(at_s, instances): an instance counts from the start of its loading to its removal's end.

    A full reload loads a whole second set beside the first, so that both are paid for meanwhile.

    Example:
        From 1 instance, +2 in place from 10 s to 13 s: ((since, 1), (10, 3), (13, 3)).
    """
    paid = [(since_s, start)]
    for change in changes:
        before, after = change.before.instances, change.after.instances
        meanwhile = before + after if change.reload else max(before, after)
        paid.append((change.begun_s, meanwhile))
        if np.isfinite(change.ended_s):
            paid.append((change.ended_s, after if change.ok else before))
    return tuple(paid)
