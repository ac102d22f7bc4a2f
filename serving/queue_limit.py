"""For how long a request may wait in a model's queue before Triton refuses it."""

from __future__ import annotations

from tritonclient.grpc.model_config_pb2 import ModelQueuePolicy

from serving.model_config import ModelConfig, can_rebatch


def refused_after_us(config: ModelConfig) -> int | None:
    """For how long a request may wait before Triton refuses it, µs; None where it may for ever."""
    if not config.dynamic_batching.HasField("default_queue_policy"):
        return None
    policy = config.dynamic_batching.default_queue_policy
    if policy.timeout_action != ModelQueuePolicy.REJECT or not policy.default_timeout_microseconds:
        return None
    return int(policy.default_timeout_microseconds)


def with_refusal(config: ModelConfig, after_us: int | None) -> ModelConfig:
    """The config that refuses what has waited so long; None lets everything wait.

    Triton has queue policies under ``dynamic_batching`` only.
    """
    new = ModelConfig()
    new.CopyFrom(config)
    new.dynamic_batching.ClearField("default_queue_policy")
    if after_us is not None:
        policy = new.dynamic_batching.default_queue_policy
        policy.timeout_action = ModelQueuePolicy.REJECT
        policy.default_timeout_microseconds = after_us
    return new


def may_refuse(config: ModelConfig) -> bool:
    """Whether a limit of the waiting may be set: there is no queue policy of another kind."""
    if not can_rebatch(config) or config.dynamic_batching.priority_queue_policy:
        return False
    if not config.dynamic_batching.HasField("default_queue_policy"):
        return True
    policy = config.dynamic_batching.default_queue_policy
    return refused_after_us(config) is not None and not (
        policy.allow_timeout_override or policy.max_queue_size
    )


def loses_instances(config: ModelConfig) -> bool:
    """Whether Triton before 26.08 leaves more and more instances idle while requests wait.

    With a timeout it counts which instances are free, and batches that it joins while they wait out
    a delay are counted twice (server#8870). Only a reload sets that right.
    """
    batching = config.dynamic_batching
    policies = [batching.default_queue_policy, *batching.priority_queue_policy.values()]
    timeout = any(policy.default_timeout_microseconds for policy in policies)
    return timeout and batching.max_queue_delay_microseconds > 0
