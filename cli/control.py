"""``conch control``: the loop, one tick of it, and what it did and why."""

from __future__ import annotations

import gc
import threading
import time
from pathlib import Path

import click

from cli import ending
from cli.control_freeze import pause, resume
from cli.control_replay import replay_
from cli.control_rules import rules
from cli.control_status import explain_, status
from cli.options import json_option, server_options
from cli.output import echo, to_json
from conch.units import DURATION, OBJECTIVE
from control import life, policy_file, session
from control.action import Action, Outcome
from control.core.types import Decision
from control.journal import codec, explain
from control.loop import ControlLoop
from control.policy_file import ModelPolicy, PolicyFile
from control.roster import NOT_LOADED
from control.tick import Ending, Mode, Tick
from serving.model_config import ReloadKind
from serving.runtime.endpoint import Endpoint

policy_argument = click.argument(
    "policy", type=click.Path(path_type=Path, dir_okay=False), required=False
)
repository_option = click.option(
    "--repository",
    type=click.Path(path_type=Path, file_okay=False),
    help="The model repository that the server reads. [default: the local server's]",
)
NAMED = 10
"""So many models that are not loaded are named."""
slo_option = click.option("--slo", type=OBJECTIVE, help="p99 objective, where no POLICY is given.")


@click.group()
def control() -> None:
    """Keep Triton tuned to its load: observe, decide, guard, apply, verify.

    \b
    Example:
      conch control once --dry-run
      conch control run examples/minilm/policy.yaml
      conch control explain minilm_int8
    """


control.add_command(replay_)


@control.command()
@policy_argument
@click.option("--advisory", is_flag=True, help="Decide and record, but change nothing.")
@click.option("--duration", type=DURATION, help="Stop after this long. [default: run until Ctrl-C]")
@click.option("--jsonl", is_flag=True, help="One JSON object a tick on stdout.")
@click.option("--wait", is_flag=True, help="Stand by until the controller that runs now has ended.")
@slo_option
@repository_option
@server_options
def run(
    policy: Path | None,
    advisory: bool,
    duration: float | None,
    jsonl: bool,
    wait: bool,
    slo: float | None,
    repository: Path | None,
    endpoint: Endpoint,
) -> None:
    """Run the loop until Ctrl-C, by POLICY or by the defaults.

    \b
    Example:
      conch control run examples/minilm/policy.yaml
      conch control run --slo 50ms --advisory --duration 5m
      conch control run policy.yaml --wait
    """
    typed = _policy(policy, slo)
    repo = session.repository_of(endpoint, repository)
    stop = threading.Event()
    ending.on_signal(stop)
    mode = Mode.ADVISORY if advisory else Mode.ACTIVE
    with session.session(endpoint, repo, typed, mode=mode, wait=wait, stop=stop) as loop:
        names = ", ".join(loop.policies)
        echo(f"Controlling {names} ({mode.value}), a look every {typed.tick:g} s.", err=True)
        _tell_left_out(loop)
        # What is imported and set up by now stays: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        life.run(
            loop,
            tick_s=typed.tick,
            stop=stop,
            duration_s=duration,
            on_tick=lambda tick: _tell(tick, jsonl=jsonl),
        )
    path = session.journal_path(repo)
    if loop.journal.in_memory:
        echo(f"Nothing was written: {path} cannot be used as a journal.", err=True)
        return
    echo(f"Journal: {path}", err=True)
    echo("Next: conch control status", err=True)


@control.command()
@policy_argument
@click.option("--dry-run", is_flag=True, help="Show the diff and its cost; change nothing.")
@click.option("--watch", type=DURATION, help="Look this long first. [default: 1.5 stable windows]")
@slo_option
@repository_option
@json_option
@server_options
def once(
    policy: Path | None,
    dry_run: bool,
    watch: float | None,
    slo: float | None,
    repository: Path | None,
    as_json: bool,
    endpoint: Endpoint,
) -> None:
    """Watch for a few seconds, decide once, and apply it (or, with --dry-run, only show it).

    \b
    Example:
      conch control once --dry-run
    """
    typed = _policy(policy, slo)
    repo = session.repository_of(endpoint, repository)
    with session.session(endpoint, repo, typed, mode=Mode.ADVISORY) as loop:
        _tell_left_out(loop)
        ticks = _watched(loop, typed, watch)
    with session.session(
        endpoint, repo, typed, mode=Mode.ADVISORY if dry_run else Mode.ACTIVE
    ) as loop:
        rows = [_outcome(loop, tick, dry_run=dry_run) for tick in ticks]
    if as_json:
        echo(to_json({"schema": 1, "dry_run": dry_run, "models": rows}))
        return
    for tick, row in zip(ticks, rows, strict=True):
        _print_outcome(tick, row)
    if dry_run:
        echo("Nothing was changed.")


control.add_command(pause)
control.add_command(resume)
control.add_command(rules)
control.add_command(explain_)
control.add_command(status)


def _policy(path: Path | None, slo_s: float | None) -> PolicyFile:
    """The policy of the file, or the defaults with the SLO of the flag."""
    if path is not None and slo_s is not None:
        raise click.UsageError(
            "--slo and POLICY: say the objective in the POLICY, or leave it out."
        )
    if path is not None:
        return policy_file.load(path)
    defaults = ModelPolicy() if slo_s is None else ModelPolicy(slo=slo_s)
    echo(
        f"No POLICY given: every loaded model, p99 ≤ {defaults.slo * 1e3:g} ms, "
        "bounds by each model's own config and the cores.",
        err=True,
    )
    return PolicyFile(defaults=defaults)


def _watched(loop: ControlLoop, typed: PolicyFile, watch_s: float | None) -> list[Tick]:
    """The last tick of each model after watching for a while."""
    window_s = max(policy.stable_window_s for policy in loop.policies.values())
    seconds = watch_s or 1.5 * window_s
    echo(f"Watching for {seconds:.0f} s ...", err=True)
    last: dict[str, Tick] = {}
    life.run(
        loop,
        tick_s=typed.tick,
        stop=threading.Event(),
        duration_s=seconds,
        on_tick=lambda tick: last.__setitem__(tick.model, tick),
    )
    return list(last.values())


def _outcome(loop: ControlLoop, tick: Tick, *, dry_run: bool) -> dict[str, object]:
    """What the decision changes, or would change."""
    decision = tick.decision
    row: dict[str, object] = {"model": tick.model, "decision": codec.plain(decision), "diff": ""}
    if decision.desired is None or not decision.changes:
        return {**row, "reload_kind": ReloadKind.NONE.value}
    change = loop.actuator.plan(tick.model, decision.desired, fresh=decision.fresh)
    row |= {"diff": change.diff, "reload_kind": change.kind.value}
    if dry_run:
        return row
    action = life.act(loop, tick.model, decision)
    return {**row, "action": codec.action(action)}


def _print_outcome(tick: Tick, row: dict[str, object]) -> None:
    """One model's outcome for people."""
    decision = tick.decision
    echo(f"{tick.model}: {decision.reason.value}  [{decision.reason.name}]")
    for clamp in decision.clamps:
        echo(f"guard: {clamp.value}  [{clamp.name}]")
    if not row["diff"]:
        echo(f"config stays: {explain.describe(decision.applied)}\n")
        for line in explain.remarks(tick.model, decision, tick.observation):
            echo(line)
        return
    echo(str(row["diff"]).rstrip())
    echo(f"reload kind: {row['reload_kind']}")
    echo(f"expected effect: {_effect(tick)}")
    action = row.get("action")
    if isinstance(action, dict):
        echo(f"{action['outcome']} in {action['seconds']:.2f} s {action['error']}".rstrip())
    echo("")


def _effect(tick: Tick) -> str:
    """What the model of the queue expects of the change."""
    terms, desired, applied = tick.decision.terms, tick.decision.desired, tick.decision.applied
    if desired is None or applied is None:
        return "unknown"
    if {
        "plan_applied_capacity_rps",
        "plan_capacity_rps",
    } <= terms.keys() and desired.max_batch_size != applied.max_batch_size:
        return (
            f"capacity {terms['plan_applied_capacity_rps']:.0f} → "
            f"{terms['plan_capacity_rps']:.0f} req/s at most"
        )
    before = terms.get(f"capacity_{applied.instances}_rps")
    after = terms.get(f"capacity_{desired.instances}_rps")
    if before is None or after is None:
        return f"{explain.describe(applied)} → {explain.describe(desired)}"
    load = f" for a load of {terms['need_rps']:.0f} req/s" if "need_rps" in terms else ""
    return f"capacity {before:.0f} → {after:.0f} req/s{load}"


def _tell_left_out(loop: ControlLoop) -> None:
    """One line for each model that is not under control; those not loaded share one."""
    idle = [name for name, reason in loop.left_out.items() if reason == NOT_LOADED]
    for name, reason in loop.left_out.items():
        if reason != NOT_LOADED:
            echo(f"Left out: {name}: {reason}", err=True)
    if idle:
        more = f" and {len(idle) - NAMED} more" if len(idle) > NAMED else ""
        echo(f"Left out, as they are not loaded: {', '.join(idle[:NAMED])}{more}", err=True)


def _tell(tick: Tick, *, jsonl: bool) -> None:
    """One tick of the running loop: every one as JSON, or a line for each action."""
    if jsonl:
        data = {
            "model": tick.model,
            "decision": codec.plain(tick.decision),
            "ended": _ended(tick.ended) if tick.ended else None,
        }
        echo(to_json(data, indent=None))
        return
    action = tick.ended.action if tick.ended else None
    if tick.ended is None or action is None or action.outcome is Outcome.UNCHANGED:
        return
    echo(_action_line(tick.model, tick.ended.decision, action))


def _ended(ending: Ending) -> dict[str, object]:
    """A change that ended, as JSON types."""
    return {
        "decision": codec.plain(ending.decision),
        "action": codec.action(ending.action) if ending.action else None,
        "error": ending.error,
    }


def _action_line(model: str, decision: Decision, action: Action) -> str:
    """One applied or refused change for people."""
    now = time.strftime("%H:%M:%S", time.localtime(decision.at_s))
    return (
        f"{now}  {model}: {decision.reason.name}: "
        f"{explain.describe(decision.applied)} → {explain.describe(decision.desired)} "
        f"({action.kind.value}, {action.outcome.value} in {action.seconds:.2f} s) {action.error}"
    ).rstrip()
