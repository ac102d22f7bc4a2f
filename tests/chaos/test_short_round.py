"""A short round of chaos on the real thing: one fault of each great kind, and nothing is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SEED = 7
FAULTS = "kill-controller-at,kill-stub,page-frozen,edit-not-loaded"
STEPS = "1-4"
"""Each of them once."""
MINUTES = 3


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_a_short_round_breaks_no_promise(tmp_path: Path) -> None:
    """`make chaos` is the long one; it prints the command that replays what failed."""
    told = tmp_path / "told.json"
    command = [sys.executable, "-m", "tests.chaos", "--seed", str(SEED), "--only", FAULTS]
    command += ["--steps", STEPS, "--minutes", str(MINUTES), "--json", str(told)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=550)
    assert told.is_file(), done.stderr[-2000:]
    outcomes = json.loads(told.read_text())["outcomes"]
    faults = {outcome["fault"] for outcome in outcomes if outcome["step"] is not None}
    assert len(faults) >= 2, done.stdout[-3000:]
    assert done.returncode == 0, done.stdout[-6000:]
