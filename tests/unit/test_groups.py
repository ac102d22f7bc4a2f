"""Instance groups as people write them: what they mean, what can be controlled, what is written."""

from __future__ import annotations

import pytest

from conch.errors import ConfigError
from serving import groups, model_config
from serving.model_config import parse

CPU = 'backend: "python" instance_group { name: "m_0" count: 1 kind: KIND_CPU }'
GPUS = 'backend: "python" instance_group { name: "m_0" count: 1 kind: KIND_GPU gpus: [0, 1] }'


SPANNING = """instance_group { count: 1 kind: KIND_GPU gpus: 0 }
instance_group { count: 2 kind: KIND_GPU gpus: [1, 2] }"""


@pytest.mark.parametrize(
    ("file", "shown", "count", "granularity"),
    [
        pytest.param("", CPU, 1, 1, id="none"),
        pytest.param("instance_group { count: 3 }", CPU, 3, 1, id="no kind"),
        pytest.param("instance_group { kind: KIND_CPU }", CPU, 1, 1, id="no count"),
        pytest.param("instance_group { count: 2 kind: KIND_GPU }", GPUS, 4, 2, id="no gpus"),
        pytest.param("instance_group { count: 2 }", GPUS, 4, 2, id="no kind, on GPUs"),
        pytest.param("", GPUS, 2, 2, id="none, on GPUs"),
        pytest.param(
            "instance_group { count: 2 kind: KIND_GPU gpus: 1 }",
            'instance_group { name: "m_0" count: 2 kind: KIND_GPU gpus: 1 }',
            2,
            1,
            id="spelled out",
        ),
    ],
)
def test_what_a_group_leaves_open_is_read_from_triton(
    file: str, shown: str, count: int, granularity: int
) -> None:
    """Kind, GPUs and count; then it can be controlled, and writing sets only the count."""
    on_disk, in_force = parse(file), parse(shown)
    meant = groups.resolved(on_disk, in_force)
    assert model_config.instance_count(meant) == count
    assert model_config.granularity(meant) == granularity
    assert groups.why_not(meant) == ""
    assert groups.least_count(meant) == granularity
    more = model_config.with_instances(on_disk, count + granularity, meant=meant)
    assert model_config.instance_count(groups.resolved(more, in_force)) == count + granularity
    for group in (*on_disk.instance_group, *more.instance_group):
        group.ClearField("count")
    if on_disk.instance_group:
        assert more == on_disk
    else:
        assert str(more) == "instance_group {\n}\n"


@pytest.mark.parametrize(
    ("said", "default"),
    [
        ('backend: "onnxruntime"', 2),
        ('platform: "onnxruntime_onnx"', 2),
        ('platform: "tensorflow_savedmodel"', 2),
        ('backend: "python"', 1),
    ],
)
def test_the_default_count_is_tritons_and_not_that_of_an_earlier_file(
    said: str, default: int
) -> None:
    """Three are in force because we wrote three; the owner wrote none."""
    shown = parse("instance_group { count: 3 kind: KIND_CPU }")
    meant = groups.resolved(parse(said), shown, default=True)
    assert model_config.instance_count(meant) == default
    assert model_config.instance_count(groups.resolved(parse(said), shown)) == 3
    on_gpu = parse("instance_group { count: 3 kind: KIND_GPU gpus: 0 }")
    assert model_config.instance_count(groups.resolved(parse(said), on_gpu, default=True)) == 1


def test_several_groups_grow_at_the_smallest_and_shrink_at_the_largest() -> None:
    """Never below one each; all else of them stays."""
    two = parse(
        "instance_group { count: 2 kind: KIND_GPU gpus: 0 rate_limiter { priority: 2 } }"
        'instance_group { name: "b" kind: KIND_GPU count: 1 gpus: 1 }'
    )
    counts = {}
    for total in (2, 3, 4, 5, 7):
        new = model_config.with_instances(two, total)
        counts[total] = [group.count for group in new.instance_group]
        assert model_config.instance_count(new) == total
        assert new.instance_group[0].rate_limiter.priority == 2
    assert counts == {2: [1, 1], 3: [2, 1], 4: [2, 2], 5: [3, 2], 7: [4, 3]}
    assert groups.least_count(two) == 2
    with pytest.raises(ConfigError, match="must be at least 2"):
        model_config.with_instances(two, 1)


@pytest.mark.parametrize(
    ("file", "says"),
    [
        (
            "instance_group { count: 1 kind: KIND_CPU } instance_group { count: 1 kind: KIND_GPU }",
            "different kinds (KIND_CPU, KIND_GPU)",
        ),
        (SPANNING, "span several GPUs"),
        (
            "instance_group { count: 1 kind: KIND_GPU passive: true gpus: 0 }",
            "passive",
        ),
        (
            'ensemble_scheduling { step { model_name: "b" } step { model_name: "a" } }',
            "control its members, a, b",
        ),
        ("instance_group { count: 1 }", "load config.pbtxt first"),
    ],
)
def test_what_cannot_be_controlled_says_why(file: str, says: str) -> None:
    """In words that fit it: nobody with GPUs is told of KIND_CPU's."""
    meant = groups.resolved(parse(file), model_config.ModelConfig())
    assert says in groups.why_not(meant)
