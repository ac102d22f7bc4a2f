"""Put a control loop together for one server: which models, which policy, which sources."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import structlog

from conch.errors import ConfigError, TritonUnavailable
from control import freeze, life
from control.act import calibration_inputs, jobs
from control.act.actuator import Actuator
from control.act.baseline import Baseline
from control.act.calibration_inputs import GivenInputs
from control.act.calibrator import Calibrator
from control.act.healer import Healer
from control.act.probation import Probation
from control.act.proof import Prober
from control.core.budget.shares import Shares
from control.core.budget.want import Limit
from control.core.policy import Policy
from control.journal.writer import Journal, OnTrouble
from control.lease import sole_writer
from control.loop import ControlLoop
from control.policy_file import PolicyFile
from control.roster import roster
from control.tick import Mode
from control.watch.clock import OnClock, SteadyClock
from control.watch.machine import Machine
from control.watch.observe import Observer
from control.watch.prometheus import PrometheusCounters
from control.watch.sources import CounterSource, ScrapedCounters
from serving import pending
from serving.client import TritonClient
from serving.repository import Repository
from serving.runtime import endpoint as endpoints
from serving.runtime.endpoint import Endpoint

log = structlog.get_logger()

ANSWER_S = 1.0
"""A server that does not say within this time that it lives, is silent."""
UNLOADED = "unloaded"
"""Triton's reason for a model that somebody unloaded."""


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
        ConfigError: when the policy names a model that is not there, or inputs that do not fit it,
            or none can be controlled.
        RepositoryError: when another active loop runs.
        TritonUnavailable: when the server does not answer.
    """
    with ExitStack() as stack:
        client = stack.enter_context(TritonClient(endpoint.grpc_url, admin_key=endpoint.admin_key))
        try:
            found = roster(policy, repository, client)  # before anything is written
        except TritonUnavailable:
            if mode is Mode.ACTIVE:
                _take_back(repository)
            raise
        except ConfigError:
            if mode is not Mode.ACTIVE or not pending.names(repository):
                raise
            # A change that is not proven may have cost the server its model: asked again below.
        fence, probation, healer, prober = _anybody, None, None, Prober(client)
        if mode is Mode.ACTIVE:
            fence = stack.enter_context(sole_writer(repository, wait=wait, stop=stop)).check
            probation = stack.enter_context(_probation(endpoint, repository, prober))
            _adopt(repository, probation, client, stop)
            found = roster(policy, repository, client)  # it may have waited for long
        names = list(found.policies)
        given = _given_inputs(policy, names, client)
        for name, reason in found.left_out.items():
            log.info("model.left_out", model=name, reason=reason)
        trouble = OnTrouble.BEGIN_ANEW if mode is Mode.ACTIVE else OnTrouble.IN_MEMORY
        journal = stack.enter_context(Journal(journal_path(repository), on_trouble=trouble))
        clock, baseline = SteadyClock(), Baseline(repository)
        calibrator = None
        if mode is Mode.ACTIVE:
            healer = stack.enter_context(_healer(endpoint, repository))
            calibrator = Calibrator(client, repository.root, found.policies, given=given)
        loop = ControlLoop(
            policies=found.policies,
            rules={name: policy.rule_of(name) for name in names},
            observer=Observer(
                client,
                _source(endpoint, policy, names, clock),
                repository,
                host=Machine(pid=endpoint.pid),
                baseline=baseline,
                slots_of=partial(_slots_of, endpoint),
            ),
            actuator=Actuator(
                repository,
                client,
                fence=fence,
                baseline=baseline,
                prober=prober,
                watched=mode is Mode.ACTIVE,
            ),
            journal=journal,
            mode=mode,
            shares=shares_of(policy, found.policies),
            frozen=partial(freeze.read, repository),
            fence=fence,
            keep_journal_s=policy.keep_journal,
            clock=clock,
            probation=probation,
            healer=healer,
            calibrator=calibrator,
            left_out=found.left_out,
        )
        journal.start_run(
            at_s=clock(),
            mode=mode.value,
            policies=loop.policies,
            rules=loop.rules,
            tick_s=policy.tick,
        )
        life.start(loop, stop=stop)
        yield loop


def _take_back(repository: Repository) -> None:
    """A change that is not proven, and a server that does not answer: the file before comes back.

    Whoever starts the server next finds it; the next controller tells the core.
    """
    if not pending.every(repository):
        return
    with sole_writer(repository):
        for record in pending.every(repository):
            mine = replace(record, epoch=pending.epoch_of(repository))
            if not record.reverted and pending.is_on_disk(repository, record):
                pending.write(repository, mine)
                pending.revert(repository, mine, why="the server was away when control started")


def _adopt(
    repository: Repository,
    probation: Probation,
    client: TritonClient,
    stop: threading.Event | None,
) -> None:
    """Go on with every change that is not proven, of models that are not served, too.

    From now on nobody else may take them back. Where one kept its model from loading, what was
    before it is loaded; a model that somebody unloaded stays so.
    """
    back: list[str] = []

    def adopt(name: str) -> None:
        if probation.adopt(name):
            back.append(name)

    for name in pending.names(repository):
        jobs.alone(name, "change.not_adopted", partial(adopt, name))
    why = client.unavailable() if back else {}
    for name in back:
        if why.get(name, UNLOADED) != UNLOADED:
            job = jobs.begin("conch-load", client.load, name)
            jobs.alone(name, "model.not_loaded", partial(jobs.waited_for, job, stop))


@contextmanager
def _probation(endpoint: Endpoint, repository: Repository, prober: Prober) -> Iterator[Probation]:
    """The watch over changes, with a client of its own: it must know soon that nobody answers."""
    with (
        TritonClient(
            endpoint.grpc_url, admin_key=endpoint.admin_key, deadline_s=ANSWER_S
        ) as client,
        Probation(repository, client, prober, pid=partial(_pid_of, endpoint)) as probation,
    ):
        yield probation


def _healer(endpoint: Endpoint, repository: Repository) -> Healer:
    """Who has dead stubs of this server healed."""

    def connect() -> TritonClient:
        return TritonClient(endpoint.grpc_url, admin_key=endpoint.admin_key)

    return Healer(endpoint, repository, connect, pid=partial(_pid_of, endpoint))


def _pid_of(endpoint: Endpoint) -> int | None:
    """The process of a local server that answers there now."""
    return _now(endpoint).pid


def _slots_of(endpoint: Endpoint) -> int | None:
    """The slots of a server that `conch serve` runs; of another one nobody can tell."""
    return _now(endpoint).slots


def _now(endpoint: Endpoint) -> Endpoint:
    """The local server that answers there now; else the one that was meant."""
    now = (one for one in endpoints.running() if one.grpc_url == endpoint.grpc_url)
    return next(now, endpoint)


def _given_inputs(
    policy: PolicyFile, names: list[str], client: TritonClient
) -> dict[str, GivenInputs]:
    """The inputs that the policy names, of models that are measured in batches.

    Raises:
        ConfigError: for a file that cannot be read, or does not fit the model's config.
    """
    given = {}
    for name in names:
        path = policy.inputs_of(name)
        if path is not None and (config := client.config(name)).max_batch_size > 1:
            given[name] = calibration_inputs.read(path)
            given[name].fitting(config)
    return given


def _anybody() -> None:
    """The fence of a loop that writes nothing."""


def shares_of(policy: PolicyFile, policies: Mapping[str, Policy]) -> Shares | None:
    """How the models share the policy's budget; None where it sets none.

    Raises:
        ConfigError: when the least of all models is more than the budget's instances.
    """
    limit = policy.budget.typed()
    if limit == Limit():
        return None
    least = sum(each.min_instances for each in policies.values())
    if limit.instances is not None and least > limit.instances:
        raise ConfigError(
            f"budget: instances = {limit.instances}, must be at least {least}, "
            f"the min_instances of {len(policies)} models together.",
            hint="Raise it, or control fewer models.",
        )
    return Shares(limit=limit, policies=policies)


def _source(
    endpoint: Endpoint, policy: PolicyFile, names: list[str], clock: SteadyClock
) -> CounterSource:
    """Prometheus where the policy names one, else a direct scrape.

    Raises:
        ConfigError: when that Prometheus has the models on several servers.
    """
    if not policy.prometheus:
        return ScrapedCounters(endpoint.metrics_url, clock=clock)
    source = PrometheusCounters(
        policy.prometheus, instance=policy.prometheus_instance, arrivals=policy.arrivals
    )
    with suppress(TritonUnavailable):  # it may come up later; until then there is no data
        source.sample(names)
    return OnClock(source, clock)
