"""Put a control loop together for one server: which models, which policy, which sources."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from conch.errors import ConfigError
from control.actuator import Actuator
from control.journal import Journal
from control.loop import ControlLoop, Mode, sole_writer
from control.observe import CounterSource, Observer, PrometheusCounters, ScrapedCounters
from control.policy_file import PolicyFile
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
    endpoint: Endpoint, repository: Repository, policy: PolicyFile, *, mode: Mode
) -> Iterator[ControlLoop]:
    """A loop that is ready to tick; an active one holds the writer's lock and has reconciled.

    Raises:
        ConfigError: when the policy names a model that is not there.
        RepositoryError: when another active loop runs.
        TritonUnavailable: when the server does not answer.
    """
    with ExitStack() as stack:
        client = stack.enter_context(TritonClient(endpoint.grpc_url, admin_key=endpoint.admin_key))
        names = models(policy, repository, client)  # before anything is written
        journal = stack.enter_context(Journal(journal_path(repository)))
        for name in names:
            model_config.require_explicit_instances(repository.read_config(name))
        loop = ControlLoop(
            policies={name: policy.policy_of(name) for name in names},
            rules={name: policy.rule_of(name) for name in names},
            observer=Observer(client, _source(endpoint, policy), repository),
            actuator=Actuator(repository, client),
            journal=journal,
            mode=mode,
            keep_journal_s=policy.keep_journal,
        )
        if mode is not Mode.ACTIVE:
            yield loop
            return
        with sole_writer(repository):
            loop.start()
            yield loop


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


def _source(endpoint: Endpoint, policy: PolicyFile) -> CounterSource:
    """Prometheus where the policy names one, else a direct scrape."""
    if policy.prometheus:
        return PrometheusCounters(policy.prometheus)
    return ScrapedCounters(endpoint.metrics_url)
