"""Which models are under control, and why each of the others is left out.

Each is asked by itself: one that cannot be controlled is no reason to leave the others alone. A
model that the policy names is meant: where it is not there, not loaded, or an ensemble, the policy
is wrong, and that is said before anything starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from conch.errors import ConchError, ConfigError
from control.act.knobs import settings_of
from control.core.memory.bounds import effective
from control.core.policy import Policy
from control.core.types import Settings
from control.policy_file import PolicyFile
from serving import groups, model_config
from serving.client import TritonClient
from serving.repository import Repository

NOT_LOADED = "not loaded by the server"


@dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """The models under control.

    Attributes:
        policies: by model; each keeps one instance a group at least.
        left_out: why, in one line, by the name of each other model.
    """

    policies: Mapping[str, Policy]
    left_out: Mapping[str, str] = field(default_factory=dict)


class _LeftOut(Exception):  # an answer, not an error
    """Why a model cannot be controlled."""


def roster(policy: PolicyFile, repository: Repository, client: TritonClient) -> Roster:
    """The models under control: those of the policy, else every loaded one.

    Raises:
        ConfigError: when the policy names one that is not in the repository, not loaded, or an
            ensemble; when its bounds hold no count of one; or when no model is left, with why.
        TritonUnavailable: when the server does not answer.
    """
    states = client.index()
    ready = {name for name, state in states.items() if state == "READY"}
    _require_named(policy, repository, ready)
    policies: dict[str, Policy] = {}
    left_out: dict[str, str] = {}
    for name in list(policy.models) or repository.models():
        try:
            if name not in ready:
                raise _LeftOut(NOT_LOADED)
            policies[name] = _policy(name, policy, repository, client)
        except _LeftOut as reason:
            left_out[name] = str(reason)
    if not policies:
        why = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise ConfigError(
            f"models under control: none of {len(left_out)} models can be controlled"
            + (f" ({why})." if why else "."),
            hint="Load one first: `conch serve --model NAME`."
            if all(reason == NOT_LOADED for reason in left_out.values())
            else "`conch repo check` looks into the repository.",
        )
    return Roster(policies=policies, left_out=left_out)


def _require_named(policy: PolicyFile, repository: Repository, ready: set[str]) -> None:
    """Refuse a policy that names what can never be meant."""
    for name in policy.models:
        repository.config_path(name)  # not there: says so
        try:
            config = repository.read_config(name)
        except ConchError:
            continue  # left out, with the parser's words
        if config.HasField("ensemble_scheduling"):
            model_config.require_explicit_instances(config)  # says what to control instead
    missing = [name for name in policy.models if name not in ready]
    if missing:
        raise ConfigError(
            f"models under control: {', '.join(missing)} not loaded by the server; "
            f"loaded are: {', '.join(sorted(ready)) or 'none'}.",
            hint="Load it first: `conch serve --model NAME`.",
        )


def _policy(name: str, policy: PolicyFile, repository: Repository, client: TritonClient) -> Policy:
    """The model's policy, with the least count that its groups allow."""
    try:
        meant = groups.resolved(repository.read_config(name), client.config(name))
    except (ConchError, OSError) as error:
        raise _LeftOut(getattr(error, "message", "") or str(error)) from error
    if reason := groups.why_not(meant):
        raise _LeftOut(reason)
    found = _with_room(policy.policy_of(name), settings_of(meant))
    granularity = model_config.granularity(meant)
    try:
        require_whole(name, found, granularity)
    except ConfigError as error:
        if name in policy.models:
            raise
        raise _LeftOut(error.message.removeprefix(f"{name}: ")) from error
    if granularity > 1:
        return found
    least = groups.least_count(meant)
    if found.max_instances < least:
        raise _LeftOut(
            f"max_instances = {found.max_instances}, must be at least {least}: each of its "
            "instance groups keeps one"
        )
    return replace(found, min_instances=max(found.min_instances, least))


def _with_room(policy: Policy, applied: Settings) -> Policy:
    """The policy with the most instances that ``core.bounds`` gives it for what is in force.

    The core asks that at every look; this once is for what comes before the first: the whole
    multiples, and how the models share a budget.
    """
    known = effective(policy, owner=applied, applied=applied, refused_rows=None, waits=None)
    return replace(policy, max_instances=known.max_instances)


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
