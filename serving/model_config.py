"""``config.pbtxt`` as typed values: parse, print, change, compare, and what a change will cost.

Pure: no files, no network. The schema is Triton's own (``model_config.proto``); values are never
changed in place, each ``with_...`` returns a new message.
"""

from __future__ import annotations

import difflib
import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig, ModelInstanceGroup

from conch.errors import ConfigError

__all__ = ["Batching", "ModelConfig", "ReloadKind", "parse", "reload_kind", "to_text"]


class ReloadKind(enum.Enum):
    """What Triton does on a plain load after the change (pinned by tests on the real server)."""

    NONE = "none"
    """Nothing: the configs are equal."""
    IN_PLACE = "in-place"
    """Adds or drops instances (or versions) of the running model; nothing is reset."""
    RELOAD = "reload"
    """Loads a second copy beside the first, then swaps; ``/stats`` starts from zero."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batching:
    """The batching settings of a model.

    Attributes:
        max_batch_size: largest batch; 0 means that the model has no batch axis.
        dynamic: whether Triton joins requests into batches.
        max_queue_delay_us: how long the batcher may wait for more requests, µs.
    """

    max_batch_size: int
    dynamic: bool
    max_queue_delay_us: int

    @property
    def largest_batch(self) -> int:
        """The largest batch that an instance can be given from single requests."""
        return max(1, self.max_batch_size) if self.dynamic else 1


MOST_CHARACTERS = 2**23
"""Of a config's text: some 7 s of parsing, and many times its memory. Real ones have a few
thousand."""
ITEM_BYTES = {
    number: size
    for size, names in {
        1: "BOOL UINT8 INT8",
        2: "UINT16 INT16 FP16 BF16",
        4: "UINT32 INT32 FP32",
        8: "UINT64 INT64 FP64",
    }.items()
    for number in (DataType.Value(f"TYPE_{name}") for name in names.split())
}
"""Bytes of one element, by data type; a string is as long as it is."""

_RUN = 256 * "\\"
"""The parser's time grows with the square of such a run."""


def tensor_bytes(data_type: int, dims: Iterable[int]) -> int:
    """Bytes of a tensor; a dimension that is open counts as 1, and a string as 8.

    Example:
        >>> tensor_bytes(DataType.TYPE_FP32, (-1, 3))
        12
    """
    return ITEM_BYTES.get(data_type, 8) * prod(max(1, int(dim)) for dim in dims)


def parse(text: str, *, source: str = "config.pbtxt", lenient: bool = False) -> ModelConfig:
    """The config in protobuf text format as a message.

    Args:
        text: the config.
        source: what it is called in an error.
        lenient: pass over fields that are not known, such as those of a newer Triton.

    Raises:
        ConfigError: when the text does not parse; it says where.
    """
    try:
        if len(text) > MOST_CHARACTERS:
            raise ValueError(f"{len(text)} characters, at most {MOST_CHARACTERS} are read")
        if _RUN in text:
            raise ValueError(f"{len(_RUN)} backslashes in a row")
        return text_format.Parse(text, ModelConfig(), allow_unknown_field=lenient)
    # Not only ParseError leaves it: ValueError for a number out of range, RecursionError for deep
    # nesting, UnicodeError, MemoryError, or what the C++ side thinks of; none is worth a process.
    except Exception as error:
        raise ConfigError(
            f"{source}: not a model config: {str(error)[:500] or type(error).__name__}.",
            hint="Mend the file, or bring a revision back with `conch repo rollback`.",
        ) from None


def to_text(config: ModelConfig) -> str:
    """The canonical text: equal configs print equal bytes.

    Example:
        >>> to_text(ModelConfig(name="m", max_batch_size=8))
        'name: "m"\\nmax_batch_size: 8\\n'
    """
    return str(text_format.MessageToString(config))


def diff(old: ModelConfig, new: ModelConfig, *, name: str = "config.pbtxt") -> str:
    """The unified diff of the canonical texts; empty when they are equal."""
    return "".join(
        difflib.unified_diff(
            to_text(old).splitlines(keepends=True),
            to_text(new).splitlines(keepends=True),
            fromfile=f"{name} (applied)",
            tofile=f"{name} (desired)",
        )
    )


def reload_kind(old: ModelConfig, new: ModelConfig) -> ReloadKind:
    """What a plain load costs after ``old`` on disk became ``new``.

    Triton's core compares the two without ``instance_group`` and ``version_policy``; an ensemble
    has no instances of its own and is always reloaded.
    Source: ``ConfigChangeRequiresReload`` in triton-inference-server/core.
    """
    if old == new:
        return ReloadKind.NONE
    if new.HasField("ensemble_scheduling") or old.HasField("ensemble_scheduling"):
        return ReloadKind.RELOAD
    stripped = []
    for config in (old, new):
        copy = ModelConfig()
        copy.CopyFrom(config)
        copy.ClearField("instance_group")
        copy.ClearField("version_policy")
        stripped.append(copy)
    return ReloadKind.IN_PLACE if stripped[0] == stripped[1] else ReloadKind.RELOAD


def instance_count(config: ModelConfig) -> int:
    """Instances in total: per group, count times listed GPUs; a config without groups has one."""
    if not config.instance_group:
        return 1
    return sum(max(1, group.count) * max(1, len(group.gpus)) for group in config.instance_group)


def with_instances(
    config: ModelConfig, count: int, *, meant: ModelConfig | None = None
) -> ModelConfig:
    """The config with ``count`` instances in total (rounded up to a multiple of its GPUs).

    Several groups: instances are added to the smallest and taken from the largest, one a group
    stays. All but the counts stays as it is written.

    Args:
        config: to change.
        count: of all groups together.
        meant: the config with what its groups leave to Triton filled in (``groups.resolved``);
            None where they leave nothing open.

    Raises:
        ConfigError: for a count below 1, or below the number of groups, or several groups that
            span several GPUs.
    """
    groups = (meant or config).instance_group
    least = max(1, len(groups))
    if count < least:
        raise ConfigError(
            f"{config.name}: {count} instances, must be at least {least}.",
            hint="To serve nothing, unload the model."
            if least == 1
            else "Each instance group keeps one; merge the groups in config.pbtxt to go below.",
        )
    if len(groups) > 1 and any(len(group.gpus) > 1 for group in groups):
        raise ConfigError(
            f"{config.name}: {len(groups)} instance groups that span several GPUs, at most 1 such "
            "group is allowed under control.",
            hint="Merge the groups in config.pbtxt.",
        )
    new = _copy(config)
    if len(groups) > 1:
        counts = _spread([max(1, group.count) for group in groups], count)
        for group, wanted in zip(new.instance_group, counts, strict=True):
            group.count = wanted
        return new
    group = new.instance_group[0] if new.instance_group else new.instance_group.add()
    gpus = groups[0].gpus if groups else ()
    group.count = -(-count // max(1, len(gpus)))
    return new


def _spread(counts: list[int], total: int) -> list[int]:
    """The counts with this total, by the smallest and the largest of them."""
    counts = list(counts)
    while sum(counts) < total:
        counts[counts.index(min(counts))] += 1
    while sum(counts) > total:
        counts[len(counts) - 1 - counts[::-1].index(max(counts))] -= 1
    return counts


def batching(config: ModelConfig) -> Batching:
    """The batching settings in force."""
    dynamic = config.HasField("dynamic_batching")
    return Batching(
        max_batch_size=config.max_batch_size,
        dynamic=dynamic,
        max_queue_delay_us=(config.dynamic_batching.max_queue_delay_microseconds if dynamic else 0),
    )


def with_batching(config: ModelConfig, wanted: Batching) -> ModelConfig:
    """The config with these batching settings; preferred sizes go, warm-up batches are clipped.

    ``preferred_batch_size`` is dropped because Triton advises against it except for TensorRT
    profiles, and a stale one above ``max_batch_size`` makes the load fail.

    Raises:
        ConfigError: when the model has no batch axis (``max_batch_size: 0``), or a scheduler that
            dynamic batching would replace: a stateful model would silently lose its state.
    """
    if not can_rebatch(config) and config.max_batch_size > 0:
        raise ConfigError(
            f"{config.name}: {config.WhichOneof('scheduling_choice')}, its batching is not ours "
            "to change.",
            hint="Set `rebatch: false` for it in the policy.",
        )
    if config.max_batch_size == 0:
        raise ConfigError(
            f"{config.name}: max_batch_size = 0, batching needs at least 1.",
            hint="Export the model with a dynamic batch axis.",
        )
    new = _copy(config)
    new.max_batch_size = wanted.max_batch_size
    if wanted.dynamic:
        new.dynamic_batching.max_queue_delay_microseconds = wanted.max_queue_delay_us
        del new.dynamic_batching.preferred_batch_size[:]
        new.dynamic_batching.SetInParent()
    else:
        new.ClearField("dynamic_batching")
    for sample in new.model_warmup:
        sample.batch_size = min(sample.batch_size, wanted.max_batch_size)
    return new


def can_rebatch(config: ModelConfig) -> bool:
    """Whether batch size and delay may change without changing what the model means."""
    return (
        config.max_batch_size > 0
        and config.WhichOneof("scheduling_choice") in (None, "dynamic_batching")
        and not config.model_transaction_policy.decoupled
    )


def granularity(config: ModelConfig) -> int:
    """Instances come in multiples of this: the GPUs that the group lists, or 1."""
    return max([1, *(len(group.gpus) for group in config.instance_group)])


def require_explicit_instances(config: ModelConfig) -> None:
    """Refuse what Triton would fill in differently from one backend and host to the next.

    Raises:
        ConfigError: without exactly one instance group, with a count, and GPUs where it is on GPUs;
            or for an ensemble, which has no instances of its own.
    """
    groups = config.instance_group
    wrong = ""
    if config.HasField("ensemble_scheduling"):
        steps = sorted({step.model_name for step in config.ensemble_scheduling.step})
        raise ConfigError(
            f"{config.name}: is an ensemble, which has no instances of its own to control.",
            hint=f"Name its members in the policy instead: {', '.join(steps)}.",
        )
    if len(groups) != 1:
        wrong = f"has {len(groups)} instance groups, must have exactly 1"
    elif groups[0].count < 1:
        wrong = "leaves the count of its instance group to Triton, must say it"
    elif groups[0].kind == ModelInstanceGroup.KIND_GPU and not groups[0].gpus:
        wrong = "does not list the gpus of its instance group, must list them"
    if wrong:
        raise ConfigError(
            f"{config.name}: {wrong}.",
            hint="Write `instance_group { count: 1 kind: KIND_CPU }` or the like into it.",
        )


def with_versions(config: ModelConfig, versions: Sequence[int]) -> ModelConfig:
    """The config with exactly these versions served: Triton changes them in place.

    Raises:
        ConfigError: without versions, or for a number below 1.
    """
    if not versions or min(versions) < 1:
        raise ConfigError(
            f"{config.name}: served versions {list(versions)}, must be at least one, from 1 on.",
            hint="To serve nothing, unload the model.",
        )
    new = _copy(config)
    new.version_policy.Clear()
    new.version_policy.specific.versions.extend(sorted(set(versions)))
    return new


def named_versions(config: ModelConfig) -> tuple[int, ...]:
    """The versions that the version policy names, ascending; none where it names none."""
    return tuple(sorted({int(v) for v in config.version_policy.specific.versions}))


def may_serve_several(config: ModelConfig) -> bool:
    """Whether the version policy lets Triton serve more than one version."""
    policy = config.version_policy
    several = policy.latest.num_versions > 1 or len(named_versions(config)) > 1
    return several or policy.HasField("all")


def with_newest_version(config: ModelConfig) -> ModelConfig:
    """The config without a version policy: Triton serves the highest version."""
    new = _copy(config)
    new.ClearField("version_policy")
    return new


def with_response_cache(config: ModelConfig, enable: bool) -> ModelConfig:
    """The config with Triton's response cache on or off: a reload."""
    new = _copy(config)
    new.ClearField("response_cache")
    if enable:
        new.response_cache.enable = True
    return new


def on_cpu(config: ModelConfig) -> ModelConfig:
    """The config with every instance group on the CPU: for a trial on a host without GPUs."""
    new = _copy(config)
    for group in new.instance_group:
        group.kind = ModelInstanceGroup.KIND_CPU
        del group.gpus[:]
    return new


def parameter(config: ModelConfig, key: str) -> str | None:
    """The value of one entry of ``parameters``, or None."""
    return config.parameters[key].string_value if key in config.parameters else None


def with_parameter(config: ModelConfig, key: str, value: str) -> ModelConfig:
    """The config with one entry of ``parameters`` set."""
    new = _copy(config)
    new.parameters[key].string_value = value
    return new


def static_default(published: ModelConfig) -> ModelConfig:
    """The config as Triton's defaults would have it: 1 instance, no batching, default threads."""
    config = with_batching(
        with_instances(published, 1),
        Batching(max_batch_size=published.max_batch_size, dynamic=False, max_queue_delay_us=0),
    )
    for key in ("intra_op_thread_count", "inter_op_thread_count"):
        config.parameters.pop(key, None)
    return config


def _copy(config: ModelConfig) -> ModelConfig:
    """A message of its own with the same content."""
    new = ModelConfig()
    new.CopyFrom(config)
    return new
