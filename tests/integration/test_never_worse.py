"""Control without a policy does no harm to the model that it harmed most: a short comparison."""

from __future__ import annotations

import pytest

from perf.bench.never_worse.compare import Verdict, compare
from perf.bench.never_worse.subjects import SUBJECTS

pytestmark = pytest.mark.alone

SECONDS = 20.0


@pytest.mark.timeout(400)
def test_a_model_that_waits_keeps_the_instances_that_its_owner_gave_it() -> None:
    """Six instances on fewer cores, 30 ms without CPU: `conch perf bench never-worse` has more."""
    (subject,) = [subject for subject in SUBJECTS if subject.name == "sleep6"]
    found = compare(subject, pairs=1, seconds=SECONDS)
    if found.verdict is Verdict.NOT_VALID:
        pytest.skip("the client fell behind, twice: this machine is too busy to tell")
    changes = [pair.controlled.changes for pair in found.pairs]
    assert found.verdict is Verdict.OK, f"{found.difference:+.1%}, {changes}"
