"""The three acts. Each plays its contenders in turn and gives what they met; none judges."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from conch.errors import ConchError, TritonUnavailable
from demo.scenario import Carried, faults_trace, rush_trace, tuned_trace
from demo.stage import Played, Stage
from perf.traces import Trace
from serving.runtime import stubs


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """What an act played.

    Attributes:
        traces: of its rounds.
        rounds: the contenders of each round, in the order of the tables; the default's only once.
        faults: act 3: (seconds on the trace's clock, what was done).
    """

    traces: tuple[Trace, ...]
    rounds: tuple[tuple[Played, ...], ...]
    faults: tuple[tuple[float, str], ...] = ()

    def runs(self, name: str) -> list[Played]:
        """All runs of one contender."""
        return [one for played in self.rounds for one in played if one.name == name]


DEFAULT, BY_HAND, CONCH = "Triton's default", "by hand", "Conch"
BEST, CHEAP = "fp32 always", "INT8 always"


def tuned(stage: Stage, carried: Carried) -> Act:
    """Act 1, on INT8: the default, what an expert sets, and Conch from the default, cold.

    The last two twice, in mirrored order: whatever drifts on the machine hits both.
    """
    first, second = (
        tuned_trace(stage.scenario, carried, seed=stage.scenario.seed + n) for n in range(2)
    )
    start, best = stage.default(stage.cheap), stage.by_hand(stage.cheap)
    policy = stage.policy()
    stage.teller.note(first.description)
    default = stage.static(DEFAULT, start, first)
    rounds = []
    for number, trace in enumerate((first, second)):
        plays: dict[str, Callable[[], Played]] = {
            BY_HAND: lambda trace=trace: stage.static(BY_HAND, best, trace),  # type: ignore[misc]
            CONCH: lambda trace=trace, n=number: stage.conch(  # type: ignore[misc]
                start, trace, policy=policy, label=f"1-{n + 1}"
            ),
        }
        order = (BY_HAND, CONCH) if number == 0 else (CONCH, BY_HAND)
        played = {name: plays[name]() for name in order}
        rounds.append((played[BY_HAND], played[CONCH]))
    return Act(traces=(first, second), rounds=((default, *rounds[0]), rounds[1]))


def rush(stage: Stage, carried: Carried) -> Act:
    """Act 2: the best version always, the cheap one always, and Conch between them."""
    trace = rush_trace(stage.scenario, carried)
    stage.teller.note(trace.description)
    policy = stage.policy(f"versions: [{stage.best}, {stage.cheap}]")
    played = (
        stage.static(BEST, stage.by_hand(stage.best), trace),
        stage.conch(stage.by_hand(), trace, policy=policy, label="2"),
        stage.static(CHEAP, stage.by_hand(stage.cheap), trace),
    )
    return Act(traces=(trace,), rounds=((played[0], played[2], played[1]),))


BROKEN = "\nbackend: 12 12 {\n"


def faults(stage: Stage, carried: Carried) -> Act:
    """Act 3: an instance dies, a broken config is pushed and taken back, the server dies."""
    trace = faults_trace(stage.scenario, carried)
    name, path = stage.scenario.model, stage.repository.config_path(stage.scenario.model)
    done: list[tuple[float, str]] = []
    whole: list[str] = []

    def push() -> None:
        whole.append(path.read_text(encoding="utf-8"))
        path.write_text(whole[0] + BROKEN, encoding="utf-8")
        try:
            stage.client.load(name)
        except ConchError:
            stage.teller.note("Triton refuses the pushed config and serves on with the old one")

    def take_back() -> None:
        path.write_text(whole[0], encoding="utf-8")

    plan: tuple[tuple[float, str, Callable[[], None]], ...] = (
        (0.1, "an instance is killed", lambda: _kill_stub(stage)),
        (0.4, "a broken config is pushed", push),
        (0.55, "", take_back),
        (0.65, "the server is killed", lambda: os.kill(_triton(stage), signal.SIGKILL)),
    )
    begun = threading.Event()

    def strike() -> None:
        begun.wait()
        begun_s = time.monotonic()
        for share, what, do in plan:
            time.sleep(max(0.0, begun_s + share * trace.duration_s - time.monotonic()))
            if what:
                done.append((time.monotonic(), what))
                stage.teller.note(f"{share * trace.duration_s:5.0f} s  {what}")
            do()

    stage.reset(stage.by_hand(stage.cheap))
    striker = threading.Thread(target=strike)
    with stage.controlled(stage.policy(), label="3") as watched:
        striker.start()
        begun.set()
        result = stage.play(trace)
        striker.join()
    clock_s = result.epoch_monotonic_s
    at = tuple((at_s - clock_s, what) for at_s, what in done)
    played = Played(
        name=CONCH, replay=result, config=stage.by_hand(stage.cheap), ticks=watched.ticks
    )
    return Act(traces=(trace,), rounds=((played,),), faults=at)


def _kill_stub(stage: Stage) -> None:
    """The process of one instance of the model."""
    found = stubs.look(_triton(stage), stage.repository.root.resolve(), {})
    for pid, stub in sorted(found.items()):
        if stub.model == stage.scenario.model:
            os.kill(pid, signal.SIGKILL)
            return


def _triton(stage: Stage) -> int:
    """Its pid."""
    pid = stage.server.endpoint.pid
    if pid is None:
        raise TritonUnavailable(
            "demo: the server's process is gone, and it was not started again.",
            hint="Look into its log; run the demo once more.",
        )
    return pid
