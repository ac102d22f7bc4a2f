"""What goes wrong under load on a real Triton, and what the controller then does not do."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests

from control import life, session
from control.act.knobs import settings_of
from control.core.decision.decide import decide
from control.core.memory.state import ControlState
from control.core.policy import Policy
from control.core.reasons import Clamp, Reason
from control.core.types import Decision, Observation, Settings
from control.journal.writer import Journal
from control.lease import Fenced
from control.policy_file import ModelPolicy, PolicyFile
from control.tick import Mode, Tick
from perf import traces
from perf.replay_result import Outcome
from serving.repository import Repository
from serving.runtime import endpoint as endpoints
from tests.integration import scripted
from tests.integration.conftest import wait_until
from tests.integration.load import replaying
from tests.integration.ticks import ticks_until
from tests.unit.guarded import guarded as ask_guard

pytestmark = pytest.mark.alone

X = {"x": np.ones((1, 4), np.float32)}
CONCH = Path(sys.executable).with_name("conch")
TICK_S = 0.25
LOST_S = float(os.environ.get("CONCH_TEST_LOST_S", "4"))
"""For so long metrics are lost; a minute was tried once, by hand."""
QUICK = ModelPolicy(
    slo=0.2,
    max_instances=3,
    max_batch_size=8,
    rebatch=False,
    fast_window=0.5,
    stable_window=1.5,
    idle_cost=1_000_000.0,  # the third of three is held for some 6 s
    cooldown=0.5,
)
RATE_RPS = 60.0
CALM = (Reason.HOLD_STEADY, Reason.HOLD_QUIET_TIME)


@pytest.fixture(scope="module")
def served(tmp_path_factory, start_server, connect):
    """(repository, client, endpoint): models that take 20 ms a batch of 4 at most, without CPU."""
    folder = tmp_path_factory.mktemp("safety")
    root = folder / "repository"
    root.mkdir()
    for name in ("blind", "restarted"):
        scripted.publish(root, name, max_batch_size=4, batch_s=0.02)
    scripted.publish(root, "careless", max_batch_size=4, batch_s=0.02, square_above=4)
    scripted.publish(root, "picky", max_batch_size=4, batch_s=0.02, refuse_batch=6)
    server = start_server(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONCH_CACHE", str(folder / "cache"))
        endpoints.save(server.endpoint)
        yield Repository(root), connect(server), server.endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Stubborn:
    """Conch's rule, but wherever that would hold it wants these settings, if the guard lets it."""

    wanted: Settings
    name: str = "stubborn"

    def decide(
        self, state: ControlState, seen: Observation, policy: Policy
    ) -> tuple[Decision, ControlState]:
        """See above."""
        decision, state = decide(state, seen, policy)
        if decision.applied is None or decision.reason not in CALM:
            return decision, state
        before = state.safety.recent  # a calm one, at the load that the change will meet
        if before.completed < 60 or before.rate_rps < 0.9 * RATE_RPS:
            return decision, state
        if before.missed_fraction > 0.05:
            return decision, state
        guarded = ask_guard(
            self.wanted,
            decision.applied,
            state,
            policy,
            at_s=seen.at_s,
            seen=seen,
            safety=state.safety,
        )
        decision = replace(
            decision,
            reason=Reason.SCALE_BY_RULE,
            desired=guarded.settings,
            clamps=guarded.clamps,
        )
        return decision, state


def _with(loop: session.ControlLoop, model: str, wanted: Settings) -> None:
    """The stubborn rule and short times for a model of the loop."""
    loop.rules = {model: Stubborn(wanted=wanted)}
    short = {"settle_s": 0.5, "watch_s": 20.0, "watch_requests": 100}
    loop.policies = {model: replace(loop.policies[model], **short)}


def test_a_change_for_the_worse_is_taken_back(served) -> None:
    """Batches of 24 take 0.72 s, 33/s of 60/s: rolled back and blocked; no request fails."""
    repository, client, endpoint = served
    good = settings_of(client.config("careless"))
    bad = replace(good, max_batch_size=24, max_queue_delay_s=0.5)
    alone = QUICK.model_copy(update={"max_instances": 1})
    policy = PolicyFile(tick=TICK_S, models={"careless": alone})
    with (
        session.session(endpoint, repository, policy, mode=Mode.ACTIVE) as loop,
        replaying(endpoint, "careless", traces.poisson(RATE_RPS, 60, seed=1)) as results,
    ):
        _with(loop, "careless", bad)
        ticks = ticks_until(
            loop, lambda ts: Clamp.BLOCKED in ts[-1].decision.clamps, tick_s=TICK_S, at_most_s=60.0
        )
    ends = [tick.ended for tick in ticks if tick.ended][:2]  # a busy machine may need an instance
    assert [end.decision.reason for end in ends] == [Reason.SCALE_BY_RULE, Reason.ROLLBACK]
    assert [end.decision.desired for end in ends] == [bad, good]
    assert ends[1].decision.at_s - ends[0].decision.at_s <= 60.0
    for config in (client.config("careless"), repository.read_config("careless")):
        assert replace(settings_of(config), instances=good.instances) == good
    assert results[0].number_of(Outcome.FAILED) == 0
    assert results[0].number_of(Outcome.OK) > 200
    with Journal(session.journal_path(repository), read_only=True) as journal:
        tried = journal.tried("careless", since_s=0.0)
    assert [(change.settings, change.undo) for change in tried[:2]] == [(bad, False), (good, True)]
    assert tried[1].before == bad


def test_a_model_that_does_not_load_is_brought_back_and_blocked(served) -> None:
    """Triton refuses the new settings; the old ones serve on, and it is not tried again."""
    repository, client, endpoint = served
    good = settings_of(client.config("picky"))
    policy = PolicyFile(tick=TICK_S, models={"picky": QUICK})
    with (
        session.session(endpoint, repository, policy, mode=Mode.ACTIVE) as loop,
        replaying(endpoint, "picky", traces.poisson(RATE_RPS, 60, seed=2)) as results,
    ):
        _with(loop, "picky", replace(good, max_batch_size=6))
        ticks = ticks_until(
            loop, lambda ts: Clamp.BLOCKED in ts[-1].decision.clamps, tick_s=TICK_S, at_most_s=40.0
        )
    (end,) = [tick.ended for tick in ticks if tick.ended]
    assert "does not fit into memory" in end.error
    assert settings_of(client.config("picky")) == good
    assert settings_of(repository.read_config("picky")) == good
    assert results[0].number_of(Outcome.FAILED) == 0


class Proxy:
    """A way to the metrics that can be shut and opened again, on one port."""

    def __init__(self, target: str) -> None:
        class Forward(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = requests.get(target, timeout=2).content
                self.send_response(200)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                """Not on stderr."""

        self._handler, self._port = Forward, 0
        self._server: ThreadingHTTPServer | None = None
        self.open()

    @property
    def url(self) -> str:
        """Where the metrics are read."""
        return f"http://127.0.0.1:{self._port}/metrics"

    def open(self) -> None:
        """Let everybody through."""
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), self._handler)
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def shut(self) -> None:
        """Refuse every connection."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


def test_lost_metrics_only_hold_and_then_it_goes_on(served) -> None:
    """The load triples while nothing is seen: no change; it is met when the metrics are back."""
    repository, client, endpoint = served
    policy = PolicyFile(tick=TICK_S, models={"blind": QUICK})
    proxy = Proxy(endpoint.metrics_url)
    endpoint = replace(endpoint, explicit_metrics_url=proxy.url)
    trace = traces.steps(((100.0, 4.0), (300.0, 52.0 + LOST_S)), seed=3)
    with ExitStack() as stack:
        stack.callback(proxy.shut)
        loop = stack.enter_context(session.session(endpoint, repository, policy, mode=Mode.ACTIVE))
        results = stack.enter_context(replaying(endpoint, "blind", trace))
        ticks_until(loop, lambda ts: ts[-1].decision.reason in CALM, tick_s=TICK_S, at_most_s=10.0)
        proxy.shut()
        ticks: list[Tick] = []
        life.run(
            loop, tick_s=TICK_S, stop=threading.Event(), duration_s=LOST_S, on_tick=ticks.append
        )
        assert {tick.decision.reason for tick in ticks} == {Reason.HOLD_NO_DATA}
        assert not any(tick.begun for tick in ticks)
        assert settings_of(client.config("blind")).instances == 1
        proxy.open()
        ticks_until(loop, lambda ts: ts[-1].ended is not None, tick_s=TICK_S, at_most_s=15.0)
        assert settings_of(client.config("blind")).instances >= 2
    assert results[0].number_of(Outcome.FAILED) == 0


class Controller:
    """A ``conch control run`` of its own process; its ticks as they come."""

    def __init__(self, policy: Path, repository: Repository, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [
                str(CONCH),
                *("control", "run", str(policy), "--jsonl"),
                *("--repository", str(repository.root), *arguments),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.decisions: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.decisions.append(json.loads(line)["decision"])

    def ends(self) -> None:
        """Kill it, stopped or not."""
        self.process.kill()
        self.process.wait()
        self._reader.join()


def test_a_killed_controller_is_followed_by_the_one_that_waits(served, tmp_path: Path) -> None:
    """Not while the first is only stopped; and three instances stay for as long as they pay."""
    repository, client, endpoint = served
    config = repository.read_config("restarted")
    config.instance_group[0].count = 3
    repository.write_config("restarted", config, reason="too many for the load")
    client.load("restarted")
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        f"tick: {TICK_S}\nmodels:\n  restarted: "
        "{slo: 200ms, max_instances: 3, max_batch_size: 4, rebatch: false, fast_window: 500ms, "
        "stable_window: 1500ms, idle_cost: 100000, cooldown: 500ms, load_time: 200ms}\n"
    )
    with ExitStack() as stack:
        results = stack.enter_context(
            replaying(endpoint, "restarted", traces.poisson(40.0, 75, seed=4))
        )
        first = Controller(policy, repository)
        stack.callback(first.ends)
        assert wait_until(lambda: len(first.decisions) > 2)
        second = Controller(policy, repository, "--wait")
        stack.callback(second.ends)
        time.sleep(1.5)  # it is up, and waits
        os.kill(first.process.pid, signal.SIGSTOP)
        time.sleep(1.5)
        assert second.decisions == []
        assert second.process.poll() is None
        first.ends()
        assert wait_until(
            lambda: any(d["desired"] != d["applied"] for d in second.decisions), timeout_s=45
        )
    assert all(d["desired"] == d["applied"] for d in first.decisions)
    change = next(d for d in second.decisions if d["desired"] != d["applied"])
    assert change["reason"] == Reason.SCALE_DOWN.name
    need = change["need"]
    # 0.2 s to load, 2 s to see; the two that are idle pay together.
    held_s = 3600.0 * need["capacities"]["3"] * 2.2 / 100_000 / 2
    assert change["at_s"] - second.decisions[0]["at_s"] >= 0.8 * held_s > 5.0
    assert results[0].number_of(Outcome.FAILED) == 0


def test_one_that_slept_through_a_takeover_writes_nothing(served) -> None:
    """Its lock file is gone and another has it: neither its loop nor its actuator goes on."""
    repository, client, endpoint = served
    policy = PolicyFile(tick=TICK_S, models={"blind": QUICK})
    before = repository.config_text("blind")
    now = settings_of(client.config("blind"))
    with session.session(endpoint, repository, policy, mode=Mode.ACTIVE) as first:
        list(first.tick())
        (repository.state / "control.lock").unlink()
        with session.session(endpoint, repository, policy, mode=Mode.ACTIVE) as second:
            with pytest.raises(Fenced):
                life.run(first, tick_s=TICK_S, stop=threading.Event(), duration_s=5.0)
            wanted = replace(now, instances=now.instances + 1)
            with pytest.raises(Fenced):
                first.actuator.apply("blind", wanted, reason="late")
            assert repository.config_text("blind") == before
            assert second.actuator.apply("blind", wanted, reason="in turn").error == ""
            second.actuator.apply("blind", now, reason="back")
