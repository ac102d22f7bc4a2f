"""Slots: how many executions a server runs at once, shared among its models by Triton itself.

Theory of operation. ``conch serve --slots N`` starts Triton's rate limiter with N of each resource
here on every device; an instance whose group asks for one executes only while it holds it, so that
models with more instances than slots take turns. Measured on Triton 2.51: an instance that asks
for none is not held back; a resource that the server was not started with counts 0, and an
instance that asks for it does not load; one that asks for a resource of all devices together
(``global``) keeps other models from loading, too, so such a model must not reach the server. A
model that calls others holds its slot while it waits for one for them (triton core#448), and stays
without. Without the limiter Triton ignores what is written here.
"""

from __future__ import annotations

from tritonclient.grpc.model_config_pb2 import ModelInstanceGroup, ModelRateLimiter

from conch.errors import ConchError, ConfigError
from serving import ensembles, folders, hazards
from serving.model_config import ModelConfig
from serving.repository import Repository

CPU, GPU = "conch_cpu", "conch_gpu"
NAMES = (CPU, GPU)
"""Of the resources, per device; as flags are not case-sensitive, and a config is, in lower case."""
MOST = 1024
"""As many as a model may have instances; beyond, a number was mistyped."""
_NAME_OF = {ModelInstanceGroup.KIND_CPU: CPU, ModelInstanceGroup.KIND_GPU: GPU}
_CALLS = b"InferenceRequest("
"""How a Python model asks another one."""
_READ_BYTES = 2**20


def asks(config: ModelConfig) -> bool:
    """Whether every instance executes only while it holds a slot."""
    return bool(config.instance_group) and all(
        any(wanted.name in NAMES and wanted.count > 0 for wanted in _resources(group))
        for group in config.instance_group
    )


def with_slots(config: ModelConfig) -> ModelConfig:
    """The config whose instances ask for one slot each.

    Raises:
        ConfigError: for an ensemble, a group whose kind Triton or the model chooses, and one that
            asks for resources of its own.
    """
    if config.HasField("ensemble_scheduling"):
        raise ConfigError(
            f"{config.name}: is an ensemble, which has no instances of its own to take a slot.",
            hint=f"Name its members instead: {' '.join(sorted(ensembles.members(config)))}.",
        )
    kinds = {group.kind for group in config.instance_group}
    if not kinds or not kinds <= _NAME_OF.keys():
        seen = ", ".join(sorted(map(ModelInstanceGroup.Kind.Name, kinds))) or "no instance_group"
        raise ConfigError(
            f"{config.name}: {seen}, must be groups of KIND_CPU or KIND_GPU to ask for a slot.",
            hint="Write `instance_group { count: 1 kind: KIND_CPU }` or the like into its config.",
        )
    if others := sorted(_names(config) - set(NAMES)):
        raise ConfigError(
            f"{config.name}: asks for the resource {others[0]!r}, which a server with slots has "
            f"not; allowed are {CPU} and {GPU}.",
            hint="Take it out of its rate_limiter, or give it a server of its own.",
        )
    new = without_slots(config)
    for group in new.instance_group:
        group.rate_limiter.resources.add(name=_NAME_OF[group.kind], count=1)
    return new


def without_slots(config: ModelConfig) -> ModelConfig:
    """The config whose instances ask for no slot; whatever else a limiter says stays."""
    new = ModelConfig()
    new.CopyFrom(config)
    for group in new.instance_group:
        kept = [wanted for wanted in _resources(group) if wanted.name not in NAMES]
        del group.rate_limiter.resources[:]
        group.rate_limiter.resources.extend(kept)
        if group.rate_limiter == ModelRateLimiter():
            group.ClearField("rate_limiter")
    return new


def fault(config: ModelConfig, slots: int) -> str:
    """Why a server with so many slots cannot load the model; empty where it can."""
    for group in config.instance_group:
        for wanted in _resources(group):
            asked = f"its rate_limiter asks for {wanted.count} of {wanted.name!r}"
            if wanted.name not in NAMES:
                return f"{asked}; a server with slots has {CPU} and {GPU} only"
            if getattr(wanted, "global"):
                return f"{asked} for all devices together (global), must be for each"
            if wanted.count > slots:
                return f"{asked}, at most {slots} (--slots)"
    return ""


def require(config: ModelConfig, slots: int) -> None:
    """Refuse a model that a server with so many slots cannot load.

    Raises:
        ConfigError: with the fault.
    """
    if found := fault(config, slots):
        raise ConfigError(
            f"{config.name}: {found}.",
            hint=f"Take that out of its config.pbtxt; `conch repo slots {config.name}` asks for "
            "one slot.",
        )


def remark(config: ModelConfig, slots: int) -> str:
    """What of a model that loads will surprise someone; empty where nothing will."""
    if config.HasField("ensemble_scheduling"):
        return ""
    if not asks(config):
        return f"asks for no slot, so it runs beside them: conch repo slots {config.name}"
    most = max(group.count for group in config.instance_group)
    if slots > 1 and most >= slots:
        return f"has {most} instances for {slots} slots: it can keep all others waiting"
    return ""


def left_out(repository: Repository, slots: int) -> dict[str, str]:
    """Models that a server with so many slots must not try to load, each with the reason.

    Ensembles around one of them, too. A config that cannot be read is another's to report.
    """
    found: dict[str, str] = {}
    members: dict[str, set[str]] = {}
    for name in repository.models():
        try:
            config = repository.read_config(name)
        except ConchError:
            continue
        members[name] = ensembles.members(config)
        if why := fault(config, slots):
            found[name] = why
    return hazards.without(members, found) | found


def require_no_calls(repository: Repository, name: str) -> None:
    """Refuse a model whose Python code seems to ask other models.

    Raises:
        ConfigError: where it does.
    """
    for version in repository.versions(name):
        for path in folders.inside(repository.root / name / str(version)):
            if path.suffix != ".py" or not folders.is_file(path):
                continue
            with path.open("rb") as file:
                if _CALLS not in file.read(_READ_BYTES):
                    continue
            raise ConfigError(
                f"{name}: version {version} calls other models ({path.name}); it would hold its "
                "slot while it waits for theirs, for ever when all are held (triton core#448).",
                hint="Let the models that it calls ask for slots, and not this one.",
            )


def _resources(group: ModelInstanceGroup) -> list[ModelRateLimiter.Resource]:
    """What an instance of the group asks for."""
    return list(group.rate_limiter.resources)


def _names(config: ModelConfig) -> set[str]:
    """Of all that its instances ask for."""
    return {wanted.name for group in config.instance_group for wanted in _resources(group)}
