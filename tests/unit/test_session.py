"""What a session refuses before it begins."""

from __future__ import annotations

import pytest

from conch.errors import ConfigError
from control.roster import require_whole
from tests.unit.story import a_policy


@pytest.mark.parametrize(("least", "most"), [(1, 1), (1, 3), (5, 7)])
def test_bounds_without_a_whole_multiple_are_refused(least: int, most: int) -> None:
    """Instances on four GPUs come in fours."""
    with pytest.raises(ConfigError, match="must hold a multiple of 4") as error:
        require_whole("m", a_policy(min_instances=least, max_instances=most), 4)
    assert f"at least {4 if least < 5 else 8}," in error.value.hint


@pytest.mark.parametrize(("least", "most"), [(1, 4), (3, 9), (8, 8)])
def test_bounds_with_one_are_not(least: int, most: int) -> None:
    """The last multiple within them is enough."""
    require_whole("m", a_policy(min_instances=least, max_instances=most), 4)
