"""Put a control loop together for one server: which models, which policy, which sources."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from conch.errors import ConfigError, TritonUnavailable
from control import freeze
from control.actuator import Actuator
from control.core import seasonal
from control.core.budget import Limit, Shares
from control.core.types import Policy
from control.history import PrometheusHistory, Rates, nothing
from control.journal import Journal, OnTrouble
from control.lease import sole_writer
from control.loop import ControlLoop, Mode
from control.machine import Machine
from control.observe import Observer
from control.policy_file import PolicyFile
from control.sources import CounterSource, PrometheusCounters, ScrapedCounters
from serving import model_config
from serving.client import TritonClient
from serving.repository import Repository
from serving.runtime.endpoint import Endpoint


def journal_path(repository: Repository) -> Path:
    """Where the journal of a repository is."""
    return repository.state / "journal.sqlite3"


def repository_of(endpoint: Endpoint, given: Path | None) -> Repository:
    """The repository that the server reads: as given, else as the local server says.

    Raises:
        ConfigError: when neither says.
    """
    root = given or endpoint.repository
    if root is None:
        raise ConfigError(
            f"repository of {endpoint.grpc_url}: not known for a server that is not ours.",
            hint="Give it: --repository DIR (the folder that the server reads).",
        )
    return Repository(root)


@contextmanager
def session(
    endpoint: Endpoint,
    repository: Repository,
    policy: PolicyFile,
    *,
    mode: Mode,
    wait: bool = False,
    stop: threading.Event | None = None,
) -> Iterator[ControlLoop]:
    """A loop that is ready to tick; an active one holds the writer's lock and has reconciled.

    ``wait`` and ``stop`` are those of ``sole_writer``.

    Raises:
        ConfigError: when the policy names a model that is not there.
        RepositoryError: when another active loop runs.
        TritonUnavailable: when the server does not answer.
    """
    with ExitStack() as stack:
        client = stack.enter_context(TritonClient(endpoint.grpc_url, admin_key=endpoint.admin_key))
        names = models(policy, repository, client)  # before anything is written
        fence = _anybody
        if mode is Mode.ACTIVE:
            fence = stack.enter_context(sole_writer(repository, wait=wait, stop=stop)).check
            names = models(policy, repository, client)  # it may have waited for long
        trouble = OnTrouble.BEGIN_ANEW if mode is Mode.ACTIVE else OnTrouble.IN_MEMORY
        journal = stack.enter_context(Journal(journal_path(repository), on_trouble=trouble))
        for name in names:
            config = repository.read_config(name)
            model_config.require_explicit_instances(config)
            require_whole(name, policy.policy_of(name), model_config.granularity(config))
        loop = ControlLoop(
            policies={name: policy.policy_of(name) for name in names},
            rules={name: policy.rule_of(name) for name in names},
            observer=Observer(
                client,
                _source(endpoint, policy, names),
                repository,
                host=Machine(pid=endpoint.pid),
            ),
            actuator=Actuator(repository, client, fence=fence),
            journal=journal,
            mode=mode,
            shares=shares_of(policy, names),
            frozen=partial(freeze.read, repository),
            fence=fence,
            history=history_of(policy),
            keep_journal_s=policy.keep_journal,
        )
        journal.start_run(
            at_s=time.time(),
            mode=mode.value,
            policies=loop.policies,
            rules=loop.rules,
            tick_s=policy.tick,
        )
        loop.start()
        yield loop


def require_whole(name: str, policy: Policy, granularity: int) -> None:
    """Refuse bounds that hold no multiple of the GPUs that a model's instances are spread over.

    Raises:
        ConfigError: where they do not: no count would ever be right.
    """
    most = policy.max_instances // granularity * granularity
    if most >= max(policy.min_instances, 1):
        return
    whole = -(-policy.min_instances // granularity) * granularity
    raise ConfigError(
        f"{name}: min_instances = {policy.min_instances} to max_instances = "
        f"{policy.max_instances}, must hold a multiple of {granularity}, the GPUs of its instance "
        "group.",
        hint=f"Set max_instances to at least {whole}, or list fewer GPUs in its config.pbtxt.",
    )


def _anybody() -> None:
    """The fence of a loop that writes nothing."""


def models(policy: PolicyFile, repository: Repository, client: TritonClient) -> list[str]:
    """The models under control: those of the policy, else every loaded one.

    Raises:
        ConfigError: when one is not in the repository, or none is loaded.
    """
    for name in policy.models:
        config = repository.read_config(name)
        if config.HasField("ensemble_scheduling"):
            model_config.require_explicit_instances(config)  # says what to control instead
    ready = {name for name, state in client.index().items() if state == "READY"}
    wanted = list(policy.models) or [
        name
        for name in repository.models()
        if name in ready and not repository.read_config(name).HasField("ensemble_scheduling")
    ]
    missing = [name for name in wanted if name not in ready]
    if missing or not wanted:
        raise ConfigError(
            f"models under control: {', '.join(missing) or 'none'} not loaded by the server; "
            f"loaded are: {', '.join(sorted(ready)) or 'none'}.",
            hint="Load it first: `conch serve --model NAME`.",
        )
    return wanted


def shares_of(policy: PolicyFile, names: list[str]) -> Shares | None:
    """How the models share the policy's budget; None where it sets none.

    Raises:
        ConfigError: when the least of all models is more than the budget's instances.
    """
    limit = policy.budget.typed()
    if limit == Limit():
        return None
    policies = {name: policy.policy_of(name) for name in names}
    least = sum(each.min_instances for each in policies.values())
    if limit.instances is not None and least > limit.instances:
        raise ConfigError(
            f"budget: instances = {limit.instances}, must be at least {least}, "
            f"the min_instances of {len(names)} models together.",
            hint="Raise it, or control fewer models.",
        )
    return Shares(limit=limit, policies=policies)


def history_of(policy: PolicyFile) -> Callable[[Collection[str]], Mapping[str, Rates]]:
    """Who tells the arrival rates from before: Prometheus where the policy names one, or nobody."""
    if not policy.prometheus:
        return nothing
    before = PrometheusHistory(policy.prometheus, instance=policy.prometheus_instance)
    return partial(before.rates, last_s=seasonal.RECALLED_S, step_s=seasonal.BIN_S)


def _source(endpoint: Endpoint, policy: PolicyFile, names: list[str]) -> CounterSource:
    """Prometheus where the policy names one, else a direct scrape.

    Raises:
        ConfigError: when that Prometheus has the models on several servers.
    """
    if not policy.prometheus:
        return ScrapedCounters(endpoint.metrics_url)
    source = PrometheusCounters(
        policy.prometheus, instance=policy.prometheus_instance, arrivals=policy.arrivals
    )
    with suppress(TritonUnavailable):  # it may come up later; until then there is no data
        source.sample(names)
    return source
