"""A limit of the waiting: read, set, and left where it is an owner's."""

from __future__ import annotations

import pytest

from serving import model_config, queue_limit
from serving.model_config import ReloadKind

QUEUE = "dynamic_batching {{ default_queue_policy {{ {} }} }}"


@pytest.mark.parametrize(
    ("policy", "after_us", "ours"),
    [
        ("", None, True),
        ("dynamic_batching { }", None, True),
        (QUEUE.format("default_timeout_microseconds: 9"), 9, True),
        (QUEUE.format("max_queue_size: 9"), None, False),
        (QUEUE.format("timeout_action: DELAY default_timeout_microseconds: 9"), None, False),
        (QUEUE.format("allow_timeout_override: true default_timeout_microseconds: 9"), 9, False),
        ("dynamic_batching { priority_levels: 2 priority_queue_policy { key: 1 } }", None, False),
        ("sequence_batching { }", None, False),
    ],
)
def test_a_limit_of_the_waiting_is_ours_where_there_is_no_other(
    policy: str, after_us: int | None, ours: bool
) -> None:
    """What an owner said of the queue in any other way is kept."""
    config = model_config.parse(f'name: "m" max_batch_size: 8 {policy}')
    assert queue_limit.refused_after_us(config) == after_us
    assert queue_limit.may_refuse(config) is ours


def test_with_refusal_sets_and_clears_the_limit() -> None:
    """And nothing else of the batching."""
    text = 'name: "m" max_batch_size: 8 dynamic_batching { preserve_ordering: true }'
    config = model_config.parse(text)
    limited = queue_limit.with_refusal(config, 250_000)
    assert queue_limit.refused_after_us(limited) == 250_000
    assert limited.dynamic_batching.preserve_ordering
    assert queue_limit.with_refusal(limited, None) == config
    assert model_config.reload_kind(config, limited) is ReloadKind.RELOAD


TIMEOUT = "default_timeout_microseconds: 9"


@pytest.mark.parametrize(
    ("delay_us", "policy", "loses"),
    [
        (5, "", False),
        (0, f"default_queue_policy {{ {TIMEOUT} }}", False),
        (5, "default_queue_policy { max_queue_size: 9 }", False),
        (5, f"default_queue_policy {{ timeout_action: DELAY {TIMEOUT} }}", True),
        (5, f"priority_queue_policy {{ key: 1 value {{ {TIMEOUT} }} }}", True),
    ],
)
def test_a_timeout_and_a_delay_together_lose_instances(
    delay_us: int, policy: str, loses: bool
) -> None:
    """Either alone is harmless."""
    batching = f"max_queue_delay_microseconds: {delay_us} {policy}"
    config = model_config.parse(f'name: "m" dynamic_batching {{ {batching} }}')
    assert queue_limit.loses_instances(config) is loses
