"""config.pbtxt as values: parsing, printing, changing, and what a change costs."""

from __future__ import annotations

import pytest

from conch.errors import ConfigError
from serving import model_config
from serving.model_config import Batching, ReloadKind

TEXT = """
name: "m"
backend: "onnxruntime"
max_batch_size: 8
input [{ name: "x" data_type: TYPE_FP32 dims: [4] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [4] }]
instance_group [{ kind: KIND_CPU count: 1 }]
dynamic_batching { max_queue_delay_microseconds: 1000 preferred_batch_size: [8] }
model_warmup [{ name: "w" batch_size: 8 }]
"""


def test_to_text_is_canonical() -> None:
    """Printing, parsing and printing again gives the same bytes."""
    text = model_config.to_text(model_config.parse(TEXT))
    assert model_config.to_text(model_config.parse(text)) == text


@pytest.mark.parametrize("text", ["name: ", "nonsense { }", "max_batch_size: -", "}", "\x00"])
def test_parse_refuses_a_broken_text(text: str) -> None:
    """A broken file is a config error that names the place."""
    with pytest.raises(ConfigError, match="m/config"):
        model_config.parse(text, source="m/config.pbtxt")


def test_with_instances_changes_only_the_count() -> None:
    """Nothing else moves, and the original stays as it was."""
    old = model_config.parse(TEXT)
    new = model_config.with_instances(old, 3)
    assert model_config.instance_count(new) == 3
    assert model_config.instance_count(old) == 1
    assert "-    count: 1" in model_config.diff(old, new).replace("  count", "    count")
    assert model_config.reload_kind(old, new) is ReloadKind.IN_PLACE


def test_with_instances_counts_per_gpu() -> None:
    """Two GPUs with a count of 2 are 4 instances; 5 round up to 6."""
    config = model_config.parse('name: "m" instance_group [{ count: 2 gpus: [0, 1] }]')
    assert model_config.instance_count(config) == 4
    assert model_config.instance_count(model_config.with_instances(config, 5)) == 6


def test_with_instances_refuses_zero_and_groups_that_span_gpus() -> None:
    """Zero is an unload; two groups over several GPUs are not ours to balance."""
    with pytest.raises(ConfigError, match="at least 1"):
        model_config.with_instances(model_config.parse(TEXT), 0)
    two = model_config.parse('name: "m" instance_group [{ gpus: [0, 1] }, { gpus: [2, 3] }]')
    with pytest.raises(ConfigError, match="2 instance groups"):
        model_config.with_instances(two, 4)


def test_with_batching_drops_preferred_sizes_and_clips_the_warmup() -> None:
    """What is left over from a larger batch would make the load fail."""
    old = model_config.parse(TEXT)
    wanted = Batching(max_batch_size=4, dynamic=True, max_queue_delay_us=500)
    new = model_config.with_batching(old, wanted)
    assert model_config.batching(new) == wanted
    assert list(new.dynamic_batching.preferred_batch_size) == []
    assert new.model_warmup[0].batch_size == 4
    assert model_config.reload_kind(old, new) is ReloadKind.RELOAD


def test_with_batching_keeps_dynamic_batching_with_no_delay() -> None:
    """An empty dynamic_batching section is a setting, not nothing."""
    wanted = Batching(max_batch_size=8, dynamic=True, max_queue_delay_us=0)
    new = model_config.with_batching(model_config.parse(TEXT), wanted)
    assert "dynamic_batching" in model_config.to_text(new)


def test_with_batching_refuses_a_model_without_a_batch_axis() -> None:
    """max_batch_size 0 says that there is nothing to batch over."""
    wanted = Batching(max_batch_size=4, dynamic=True, max_queue_delay_us=0)
    with pytest.raises(ConfigError, match="max_batch_size = 0"):
        model_config.with_batching(model_config.parse('name: "m"'), wanted)


@pytest.mark.parametrize("scheduler", ["sequence_batching { }", "ensemble_scheduling { }"])
def test_with_batching_never_replaces_another_scheduler(scheduler: str) -> None:
    """A stateful model would silently become stateless."""
    config = model_config.parse(f'name: "m" max_batch_size: 8 {scheduler}')
    assert not model_config.can_rebatch(config)
    wanted = Batching(max_batch_size=4, dynamic=True, max_queue_delay_us=0)
    with pytest.raises(ConfigError, match="not ours"):
        model_config.with_batching(config, wanted)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ("", "0 instance groups"),
        ("instance_group [{ kind: KIND_CPU }]", "leaves the count"),
        ("instance_group [{ kind: KIND_GPU count: 1 }]", "does not list the gpus"),
        ("ensemble_scheduling { }", "is an ensemble, which has no instances"),
    ],
)
def test_require_explicit_instances_refuses_what_triton_fills_in(groups: str, message: str) -> None:
    """The same file would mean other counts on another host."""
    with pytest.raises(ConfigError, match=message):
        model_config.require_explicit_instances(model_config.parse(f'name: "m" {groups}'))


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ("", ReloadKind.NONE),
        ("version_policy { latest { num_versions: 2 } }", ReloadKind.IN_PLACE),
        ('parameters { key: "a" value { string_value: "1" } }', ReloadKind.RELOAD),
        ("response_cache { enable: true }", ReloadKind.RELOAD),
    ],
)
def test_reload_kind_of_a_change(change: str, kind: ReloadKind) -> None:
    """Only instance groups and the version policy are applied in place."""
    old, new = model_config.parse(TEXT), model_config.parse(TEXT + change)
    assert model_config.reload_kind(old, new) is kind


def test_reload_kind_of_an_ensemble_is_always_a_reload() -> None:
    """An ensemble has no instances of its own."""
    old = model_config.parse('name: "e" ensemble_scheduling { }')
    new = model_config.parse('name: "e" ensemble_scheduling { } version_policy { all { } }')
    assert model_config.reload_kind(old, new) is ReloadKind.RELOAD


def test_serving_another_version_is_an_in_place_change() -> None:
    """Each version once, ascending; the rest of the config stays."""
    old = model_config.parse('name: "m" version_policy { latest { num_versions: 1 } }')
    new = model_config.with_versions(old, [3, 1, 3])
    assert list(new.version_policy.specific.versions) == [1, 3]
    assert model_config.reload_kind(old, new) is ReloadKind.IN_PLACE


@pytest.mark.parametrize("versions", [[], [0]])
def test_serving_no_version_is_refused(versions: list[int]) -> None:
    """An empty list would be Triton's default: all that it likes."""
    with pytest.raises(ConfigError, match="must be at least one, from 1 on"):
        model_config.with_versions(model_config.parse('name: "m"'), versions)


def test_a_trial_on_the_cpu_keeps_the_counts() -> None:
    """Groups on GPUs lose the GPUs."""
    gpu = "instance_group { count: 2 kind: KIND_GPU gpus: 0 gpus: 1 }"
    found = model_config.on_cpu(model_config.parse(f'name: "m" {gpu}'))
    assert model_config.to_text(found) == model_config.to_text(
        model_config.parse('name: "m" instance_group { count: 2 kind: KIND_CPU }')
    )
