"""What a config leaves to Triton: its instance groups above all and their count.

Owners leave much of a group to Triton: the kind, the GPUs, the count, or the whole group. What it
makes of that on its host it shows in the config in force: so the file is read in that light, and
written back as its owner wrote it, but for the count. So with the batching of a file that says
nothing of inputs and outputs, which Triton completes from the model.
"""

from __future__ import annotations

from tritonclient.grpc.model_config_pb2 import ModelInstanceGroup

from serving import model_config
from serving.model_config import ModelConfig

_TWO_ON_CPU = ("onnxruntime", "tensorflow")
"""Of these backends Triton makes two instances on the CPU where no count is written, else one."""


def resolved(on_disk: ModelConfig, in_force: ModelConfig, *, default: bool = False) -> ModelConfig:
    """The config with what it leaves open filled in from what Triton shows of the model.

    Args:
        on_disk: as its owner wrote it.
        in_force: as Triton shows it: kinds, GPUs and counts are always said there.
        default: take Triton's default for a count that is not written, and not what is in force: it
            may be the count of an earlier file.
    """
    new = ModelConfig()
    new.CopyFrom(on_disk)
    if on_disk.HasField("ensemble_scheduling"):
        return new
    if model_config.may_serve_several(on_disk) and not model_config.named_versions(on_disk):
        new.version_policy.CopyFrom(in_force.version_policy)
    if not on_disk.input and not on_disk.output:  # completed from the model, its batching, too
        new.max_batch_size = on_disk.max_batch_size or in_force.max_batch_size
        if on_disk.WhichOneof("scheduling_choice") is None and in_force.HasField(
            "dynamic_batching"
        ):
            new.dynamic_batching.CopyFrom(in_force.dynamic_batching)
    if not new.instance_group:
        new.instance_group.add()  # as Triton does
    alike = len(in_force.instance_group) == len(new.instance_group)
    for number, group in enumerate(new.instance_group):
        shown = in_force.instance_group[number] if alike else ModelInstanceGroup()
        if group.kind == ModelInstanceGroup.KIND_AUTO:
            group.kind = shown.kind
        on_gpu = group.kind == shown.kind == ModelInstanceGroup.KIND_GPU
        if on_gpu and not group.gpus:
            group.gpus.extend(shown.gpus)
        if group.count < 1:
            open_count = 0 if default else shown.count
            group.count = open_count or _default_count(group, on_disk, in_force)
    return new


def why_not(config: ModelConfig) -> str:
    """Why the instances of a resolved config cannot be controlled; empty when they can."""
    if config.HasField("ensemble_scheduling"):
        members = sorted({step.model_name for step in config.ensemble_scheduling.step})
        return f"an ensemble has no instances of its own: control its members, {', '.join(members)}"
    groups = config.instance_group
    kinds = sorted({ModelInstanceGroup.Kind.Name(group.kind) for group in groups})
    if any(group.kind == ModelInstanceGroup.KIND_AUTO for group in groups):
        return "what its instance groups mean on this server is not known: load config.pbtxt first"
    if len(kinds) > 1:
        return (
            f"its {len(groups)} instance groups are of different kinds ({', '.join(kinds)}): which "
            "of them to change is not known"
        )
    if len(groups) > 1 and any(len(group.gpus) > 1 for group in groups):
        return (
            f"it has {len(groups)} instance groups, and some of them span several GPUs: which of "
            "them to change is not known; one group, or groups of one GPU each, can be controlled"
        )
    if any(group.passive for group in groups):
        return "one of its instance groups is passive: its instances take no requests"
    return ""


def least_count(config: ModelConfig) -> int:
    """The fewest instances that a resolved config can have: one a group, on each of its GPUs."""
    return max(1, sum(max(1, len(group.gpus)) for group in config.instance_group))


def _default_count(group: ModelInstanceGroup, *configs: ModelConfig) -> int:
    """What Triton takes for a count that is not written."""
    said = " ".join(f"{config.backend} {config.platform}" for config in configs)
    on_cpu = group.kind == ModelInstanceGroup.KIND_CPU
    return 2 if on_cpu and any(name in said for name in _TWO_ON_CPU) else 1
