"""Several models on one real Triton: what a contender's run tells, and that nothing is left."""

from __future__ import annotations

from dataclasses import replace

import psutil
import pytest

from perf.bench.sharing import real
from perf.bench.sharing.contenders import contenders
from perf.bench.sharing.loads import moving
from serving.runtime import endpoint as endpoints

pytestmark = pytest.mark.alone

LOAD = replace(moving(models=2, budget=3, ratio=0.5, phase_s=6.0, phases=2, seed=1), warm_up_s=8.0)


@pytest.mark.parametrize("name", ["limiter-delay", "even-split-refuse", "conch-slots"])
def test_a_run_tells_what_came_of_it(name: str) -> None:
    """On a load that all of them carry."""
    [contender] = contenders(name, LOAD)
    seen = real.play(contender, LOAD)
    assert seen.valid
    assert (seen.contender, seen.simulated) == (name, False)
    assert set(seen.models) == {"a", "b"}
    assert [len(phases) for phases in seen.phases.values()] == [2, 2]
    assert seen.attainment > 0.8
    assert not seen.starved
    assert 0 < seen.busy_fraction <= 1
    assert bool(seen.changes) is contender.control
    told = {path.stem for path in endpoints.run_dir().glob("bench-*.json")}
    assert told <= {one.name for one in endpoints.running()}
    left = [" ".join(child.cmdline()) for child in psutil.Process().children(recursive=True)]
    assert not [line for line in left if "tritonserver" in line or "control run" in line]


def test_a_model_has_executed_much_before() -> None:
    """In no time, and the run goes on as without."""
    [contender] = contenders("limiter", LOAD)
    seen = real.play(contender, replace(LOAD, head_start=2000))
    assert seen.mean_batch["a"] > 2 * seen.mean_batch["b"]  # it had full batches before
    assert seen.attainment > 0.8
