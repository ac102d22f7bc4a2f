"""The knobs of a model in its config: read as settings, and written back."""

from __future__ import annotations

import os

from tritonclient.grpc.model_config_pb2 import ModelInstanceGroup

from control.core.types import Settings
from serving import model_config, queue_limit
from serving.model_config import ModelConfig

THREADS = "intra_op_thread_count"
RELOADS = "conch_reloads"
"""A parameter that no backend reads: another value makes Triton load a second copy and swap."""


def settings_of(config: ModelConfig) -> Settings:
    """The knobs in a config.

    Triton does not touch a version that stays: a policy that names the version which is served
    anyway is in force, but the config that Triton shows is the one that version was loaded with.
    """
    versions = model_config.named_versions(config)
    batching = model_config.batching(config)
    refused_us = queue_limit.refused_after_us(config)
    return Settings(
        instances=model_config.instance_count(config),
        max_batch_size=batching.max_batch_size,
        dynamic_batching=batching.dynamic,
        max_queue_delay_s=batching.max_queue_delay_us * 1e-6,
        threads=_configured_threads(config),
        version=max(versions, default=None),
        standby=versions[:-1],
        response_cache=config.response_cache.enable,
        refuse_after_s=None if refused_us is None else refused_us * 1e-6,
    )


def with_settings(
    config: ModelConfig, wanted: Settings, *, meant: ModelConfig | None = None
) -> ModelConfig:
    """The config with these knobs; what they say already is left exactly as it is.

    Without a wanted version, one that was pinned makes way for Triton's default: the newest.

    Args:
        config: to change.
        wanted: the knobs.
        meant: the config with what it leaves to Triton filled in (``groups.resolved``).
    """
    current = settings_of(meant or config)
    if wanted.instances != current.instances:
        config = model_config.with_instances(config, wanted.instances, meant=meant)
    batching = model_config.Batching(
        max_batch_size=wanted.max_batch_size,
        dynamic=wanted.dynamic_batching,
        max_queue_delay_us=round(wanted.max_queue_delay_s * 1e6),
    )
    if batching != model_config.batching(meant or config):
        config = model_config.with_batching(config, batching)
    if wanted.refuse_after_s != current.refuse_after_s:
        after_s = wanted.refuse_after_s
        after_us = None if after_s is None else round(after_s * 1e6)
        config = queue_limit.with_refusal(config, after_us)
    if wanted.threads != current.threads and wanted.threads is not None:
        config = model_config.with_parameter(config, THREADS, str(wanted.threads))
    if (wanted.version, wanted.standby) != (current.version, current.standby):
        if wanted.version is None:
            config = model_config.with_newest_version(config)
        else:
            config = model_config.with_versions(config, [*wanted.standby, wanted.version])
    if wanted.response_cache != current.response_cache:
        config = model_config.with_response_cache(config, wanted.response_cache)
    return config


def loaded_anew(config: ModelConfig) -> ModelConfig:
    """The config as one that takes a full reload: a parameter of ours counts up."""
    count = model_config.parameter(config, RELOADS) or ""
    number = int(count) + 1 if count.isascii() and count.isdecimal() and len(count) < 10 else 1
    return model_config.with_parameter(config, RELOADS, str(number))


def threads_of(config: ModelConfig) -> int:
    """Threads of one instance: as configured, else the backend's default of cores ÷ instances.

    1 where threads are not ours: a GPU instance, or a backend that says nothing of them.
    """
    configured = _configured_threads(config)
    if configured:
        return configured
    if not threads_ours(config):
        return 1
    return max(1, (os.cpu_count() or 1) // model_config.instance_count(config))


def threads_ours(config: ModelConfig) -> bool:
    """Whether threads mean anything for this model and are set by its config."""
    kinds = {group.kind for group in config.instance_group}
    return config.backend == "onnxruntime" and kinds == {ModelInstanceGroup.KIND_CPU}


def _configured_threads(config: ModelConfig) -> int | None:
    """The config's own word on it, or None."""
    text = model_config.parameter(config, THREADS)
    # Not isdigit: that takes "²", and Python refuses to read 5,000 digits.
    whole = text is not None and text.isascii() and text.isdigit() and len(text) < 10
    return int(text or 0) or None if whole else None
