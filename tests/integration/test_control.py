"""The control loop against a real Triton under real load, and the commands around it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from cli.main import root as cli
from conch.errors import ConchError, ConfigError, RepositoryError, TritonUnavailable
from control import life, session
from control.act.knobs import settings_of
from control.core.reasons import Reason
from control.journal.writer import Journal
from control.policy_file import ModelPolicy, PolicyFile
from control.tick import Mode, Tick
from control.watch.observe import Observer
from control.watch.prometheus import PrometheusCounters
from control.watch.sources import Sample, ScrapedCounters
from perf import traces
from perf.replay_result import Outcome
from serving.client import TritonClient
from serving.repository import Repository
from serving.runtime import endpoint as endpoints
from serving.runtime import prometheus
from serving.runtime.endpoint import Endpoint
from tests.integration import scripted
from tests.integration.load import replaying

X = {"x": np.ones((1, 4), np.float32)}
CONCH = Path(sys.executable).with_name("conch")
QUICK = ModelPolicy(
    slo=0.2,
    max_instances=3,
    max_batch_size=4,
    rebatch=False,
    fast_window=0.5,
    stable_window=2.0,
    idle_cost=1_000_000.0,  # the third of three is held for some 6 s
    cooldown=1.0,
)


@pytest.fixture(scope="module")
def served(tmp_path_factory, start_server, connect):
    """(repository, client, endpoint): ``sleepy`` takes 20 ms a batch of 4 at most, without CPU."""
    folder = tmp_path_factory.mktemp("control")
    root = folder / "repository"
    root.mkdir()
    scripted.publish(root, "sleepy", max_batch_size=4, batch_s=0.02)
    scripted.publish_ensemble(root, "pipeline", "sleepy", max_batch_size=3)
    server = start_server(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONCH_CACHE", str(folder / "cache"))
        endpoints.save(server.endpoint)
        yield Repository(root), connect(server), server.endpoint


def _at_rest(endpoint: Endpoint) -> Sample:
    """The counters once they stand still: a request is counted after it is answered."""
    source = ScrapedCounters(endpoint.metrics_url)
    seen = source.sample(["sleepy"])
    while True:
        time.sleep(0.5)
        before, seen = seen, source.sample(["sleepy"])
        if before.counters("sleepy") == seen.counters("sleepy"):
            return seen


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments))


def test_loop_scales_up_under_load_and_down_after_it(served) -> None:
    """4 in 20 ms is 200/s an instance: 300/s need 2; when it is over, 1. Nothing fails."""
    repository, client, endpoint = served
    policy = PolicyFile(tick=0.25, models={"sleepy": QUICK})
    counts: list[int] = []
    with session.session(endpoint, repository, policy, mode=Mode.ACTIVE) as loop:
        # What was late before the second instance came must not hold it for half a minute.
        loop.policies = {"sleepy": replace(loop.policies["sleepy"], burn_short_s=3.0)}

        def watch(until: Callable[[Tick], bool], *, at_most_s: float) -> None:
            stop = threading.Event()

            def saw(tick: Tick) -> None:
                counts.append(settings_of(client.config("sleepy")).instances)
                if until(tick):
                    stop.set()

            life.run(loop, tick_s=0.25, stop=stop, duration_s=at_most_s, on_tick=saw)

        with replaying(endpoint, "sleepy", traces.poisson(300.0, 60, seed=1)) as results:
            watch(lambda _: min(counts[-12:]) >= 2, at_most_s=15.0)  # for 3 s
        watch(lambda tick: tick.ended is not None and counts[-1] == 1, at_most_s=20.0)
    assert max(counts) >= 2
    assert counts[-1] == 1
    assert results[0].number_of(Outcome.FAILED) == 0
    with Journal(session.journal_path(repository), read_only=True) as journal:
        entries = list(journal.entries("sleepy"))
        actions = journal.actions("sleepy")
    reasons = [entry.decision.reason for entry in entries if entry.decision.changes]
    assert Reason.SCALE_DOWN in reasons
    assert {Reason.SCALE_UP_LOAD, Reason.SCALE_UP_BACKLOG} & set(reasons)
    assert [a.tick_id for a in actions] == [
        e.decision.tick_id for e in entries if e.decision.changes
    ]
    assert all(action.ended_at_s is not None for action in actions)
    revisions = {r.tick_id for r in repository.revisions("sleepy").all()}
    assert {action.tick_id for action in actions} <= revisions


def test_dry_run_shows_the_diff_and_changes_nothing(served) -> None:
    """Diff, reload kind, expected effect; the same bytes on disk and the same settings served."""
    repository, client, endpoint = served
    before, config = repository.config_text("sleepy"), client.config("sleepy")
    once = ("control", "once", "--dry-run", "--slo", "200ms", "--watch", "7s")
    with replaying(endpoint, "sleepy", traces.poisson(300.0, 60, seed=1)):
        beside = subprocess.Popen([CONCH, *once, "--json"], stdout=subprocess.PIPE)
        shown = _run(*once)
        as_json, _ = beside.communicate(timeout=60)
    assert shown.exit_code == 0, shown.output
    assert beside.returncode == 0
    assert "+  count: 2" in shown.stdout
    assert "reload kind: " in shown.stdout
    assert "expected effect: capacity" in shown.stdout
    assert "Nothing was changed." in shown.stdout
    row = json.loads(as_json)["models"][0]
    assert row["model"] == "sleepy"
    assert row["diff"]
    assert repository.config_text("sleepy") == before
    assert client.config("sleepy") == config


def test_explain_and_status_tell_the_last_decision(served) -> None:
    """Inputs, the formula with its numbers, the guard, and when it may act again."""
    explained = _run("control", "explain", "sleepy")
    assert explained.exit_code == 0, explained.output
    for part in ("offered load", "ℓ(b) =", "need = ", "guard", "may change again"):
        assert part in explained.stdout
    data = json.loads(_run("control", "explain", "sleepy", "--json").stdout)
    assert data["decision"]["terms"]["need_rps"] > 0
    status = json.loads(_run("control", "status", "--json").stdout)
    assert status["models"][0]["model"] == "sleepy"
    assert status["models"][0]["unfinished_actions"] == 0


def test_advisory_mode_decides_and_does_nothing(served) -> None:
    """The same decisions, no writer's lock, no change."""
    repository, _, endpoint = served
    before = repository.config_text("sleepy")
    policy = PolicyFile(tick=0.25, models={"sleepy": QUICK})
    ticks: list[Tick] = []
    stop = threading.Event()

    def saw(tick: Tick) -> None:
        ticks.append(tick)
        if any(tick.decision.changes for tick in ticks[:-4]):  # a second ago
            stop.set()

    with (
        session.session(endpoint, repository, policy, mode=Mode.ADVISORY) as loop,
        replaying(endpoint, "sleepy", traces.poisson(400.0, 60, seed=1)),
    ):
        life.run(loop, tick_s=0.25, stop=stop, duration_s=10.0, on_tick=saw)
    assert any(tick.decision.changes for tick in ticks)
    assert all(not tick.begun for tick in ticks)
    assert repository.config_text("sleepy") == before


def test_only_one_loop_may_write(served) -> None:
    """The second one is told, and advisory ones are let in."""
    repository, _, endpoint = served
    policy = PolicyFile(models={"sleepy": QUICK})
    with session.session(endpoint, repository, policy, mode=Mode.ACTIVE):
        with (
            pytest.raises(RepositoryError, match="another control loop"),
            session.session(endpoint, repository, policy, mode=Mode.ACTIVE),
        ):
            pass
        with session.session(endpoint, repository, policy, mode=Mode.ADVISORY):
            pass


def test_start_brings_into_force_what_an_earlier_loop_left_on_disk(served) -> None:
    """Written and not loaded: the next loop loads it."""
    repository, client, endpoint = served
    config = repository.read_config("sleepy")
    now = settings_of(client.config("sleepy"))
    from control.act.knobs import with_settings

    wanted = replace(now, instances=now.instances + 1)
    repository.write_config("sleepy", with_settings(config, wanted), reason="then it died")
    policy = PolicyFile(models={"sleepy": QUICK})
    with session.session(endpoint, repository, policy, mode=Mode.ACTIVE):
        assert settings_of(client.config("sleepy")) == wanted
    repository.write_config("sleepy", config, reason="back")
    client.load("sleepy")


def test_loop_holds_while_the_metrics_are_gone(served) -> None:
    """A dead metrics port is missing data: no change, no crash."""
    repository, client, endpoint = served
    blind = replace(endpoint, explicit_metrics_url="http://127.0.0.1:9/metrics")
    policy = PolicyFile(tick=0.25, models={"sleepy": QUICK})
    ticks: list[Tick] = []
    with (
        session.session(blind, repository, policy, mode=Mode.ACTIVE) as loop,
        replaying(endpoint, "sleepy", traces.poisson(400.0, 60, seed=1)),
    ):
        life.run(loop, tick_s=0.25, stop=threading.Event(), duration_s=3.0, on_tick=ticks.append)
    assert {tick.decision.reason for tick in ticks} == {Reason.HOLD_NO_DATA}
    assert settings_of(client.config("sleepy")).instances == 1


@pytest.mark.skipif(prometheus.find() is None, reason=f"needs {prometheus.INSTALL_COMMAND}")
def test_prometheus_gives_the_same_counters_as_a_scrape(served) -> None:
    """The second source, a real Prometheus, agrees when nothing moves."""
    _, client, endpoint = served
    for _ in range(20):
        client.infer("sleepy", X)
    scraped = _at_rest(endpoint)
    scraped_s = scraped.at_s["sleepy"]
    with prometheus.running({"triton": endpoint.metrics_url}) as server:
        source = PrometheusCounters(server.url)
        until = time.monotonic() + 15
        seen = source.sample(["sleepy"])
        while seen.at_s.get("sleepy", 0.0) < scraped_s and time.monotonic() < until:
            time.sleep(0.3)
            seen = source.sample(["sleepy"])
    assert seen.counters("sleepy") == scraped.counters("sleepy") is not None
    assert 0 <= seen.at_s["sleepy"] - scraped_s < 15


def test_prometheus_that_is_not_there_is_missing_data(served) -> None:
    """It is said, and the observation has no counters."""
    _, client, _ = served
    source = PrometheusCounters("http://127.0.0.1:9")
    with pytest.raises(TritonUnavailable, match="Prometheus"):
        source.sample(["sleepy"])
    seen = Observer(client, source).look("sleepy")
    assert seen.counters is None
    assert seen.statistics is not None


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("control", "explain", "nothing"), 3),
        (("control", "explain", "../x"), 3),
        (("control", "run", "no-such-policy.yaml"), 3),
        (("control", "once", "--slo", "fast"), 2),
        (("control", "once", "--url", "127.0.0.1:9"), 4),
    ],
)
def test_bad_input_ends_with_its_exit_code(
    served, tmp_path: Path, arguments: tuple[str, ...], code: int
) -> None:
    """Config 3, usage 2, no Triton 4; and nothing is written."""
    result = _run(*arguments, *(("--repository", str(tmp_path)) if code == 4 else ()))
    assert list(tmp_path.iterdir()) == []
    error = result.exception
    seen = error.exit_code if isinstance(error, ConchError) else result.exit_code
    assert seen == code, result.output


def test_session_refuses_a_model_that_is_not_loaded(served, tmp_path: Path) -> None:
    """It names those that are."""
    repository, _, endpoint = served
    policy = PolicyFile(models={"other": QUICK})
    with (
        pytest.raises(ConfigError, match="it has: pipeline, sleepy"),
        session.session(endpoint, repository, policy, mode=Mode.ADVISORY),
    ):
        pass


def test_session_refuses_an_ensemble_and_names_its_members(served) -> None:
    """It has no instances of its own; the look at a member knows its bound."""
    repository, _, endpoint = served
    policy = PolicyFile(models={"pipeline": QUICK})
    with (
        pytest.raises(ConfigError, match="pipeline: is an ensemble") as refused,
        session.session(endpoint, repository, policy, mode=Mode.ADVISORY),
    ):
        pass
    assert "sleepy" in str(refused.value.hint)
    policy = PolicyFile(models={"sleepy": QUICK})
    with session.session(endpoint, repository, policy, mode=Mode.ADVISORY) as loop:
        (tick,) = loop.tick()
    assert tick.observation.least_batch_size == 3


def test_client_reports_a_server_that_is_gone() -> None:
    """Nothing answers there: Triton unavailable, with what to do."""
    with TritonClient("127.0.0.1:9", deadline_s=2.0) as client:
        assert not client.live()
        with pytest.raises(TritonUnavailable) as caught:
            client.load("sleepy", deadline_s=2.0)
    assert "conch serve" in caught.value.hint
