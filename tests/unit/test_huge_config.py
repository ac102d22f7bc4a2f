"""A config with numbers that nobody means: a look takes no longer, for no rule."""

from __future__ import annotations

from dataclasses import replace

import pytest

from control.core.rules import rule_named
from control.core.types import MOST_BATCHED
from tests.unit import story
from tests.unit.life import EVERY, POLICY, Life


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", EVERY)
def test_a_batch_of_two_thousand_million_is_decided_about(name: str) -> None:
    """Triton takes any int32. One look at it had taken hours, and all other models waited."""
    applied = story.settings(1, batch=2**31 - 1)
    assert applied.largest_batch == MOST_BATCHED
    policy = replace(POLICY, max_batch_size=2**31 - 1, max_instances=2, rebatch=True)
    life = Life(rule=rule_named(name), policy=policy, applied=applied)
    for _ in range(30):
        life.serves(200.0)
        life.looks()
    assert len(life.decisions) == 30
