"""Configs as the loop's settings, and back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from control.observe import settings_of, threads_of, threads_ours, with_settings
from serving import model_config

CPU = """
name: "m" backend: "onnxruntime" max_batch_size: 8
instance_group [{ kind: KIND_CPU count: 2 }]
dynamic_batching { max_queue_delay_microseconds: 1500 }
"""


def test_with_settings_and_settings_of_are_inverse() -> None:
    """Every knob goes into the config and comes out again."""
    config = model_config.parse(CPU)
    wanted = replace(
        settings_of(config), instances=3, max_batch_size=4, max_queue_delay_s=0.005, threads=2
    )
    assert settings_of(with_settings(config, wanted)) == wanted


def test_with_settings_leaves_an_equal_config_alone() -> None:
    """Nothing wanted, nothing touched: not even a preferred batch size."""
    config = model_config.parse(CPU)
    config.dynamic_batching.preferred_batch_size.append(8)
    assert with_settings(config, settings_of(config)) == config


@pytest.mark.parametrize(
    ("text", "threads", "ours"),
    [
        (CPU + 'parameters { key: "intra_op_thread_count" value { string_value: "3" } }', 3, True),
        (CPU.replace("onnxruntime", "python"), 1, False),
        (CPU.replace("KIND_CPU", "KIND_GPU"), 1, False),
    ],
)
def test_threads_are_ours_only_for_onnxruntime_on_the_cpu(
    text: str, threads: int, ours: bool
) -> None:
    """A GPU instance or another backend is left alone, and takes no core from another."""
    config = model_config.parse(text)
    assert (threads_of(config), threads_ours(config)) == (threads, ours)
