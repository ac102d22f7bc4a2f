"""What a tick without a change does for a model: dead stubs are looked for, batches measured.

Neither is done while a change is judged: what it sends would count as the load of the change, and
its failures as the change's own.
"""

from __future__ import annotations

from control.act.calibrator import Calibrator
from control.act.healer import Healer
from control.core.memory.state import ControlState
from control.core.types import Observation


def look_for_dead(healer: Healer | None, model: str, state: ControlState) -> None:
    """Have a model whose requests fail asked for dead stubs."""
    if healer and state.safety.watch is None:
        healer.looked(model, state.intervals[-1:])


def measure(
    calibrator: Calibrator | None, model: str, state: ControlState, seen: Observation
) -> None:
    """Have full batches measured, but while a person keeps the model."""
    if calibrator and not (seen.frozen or seen.edited or state.safety.watch):
        measured = state.learnt.largest_measured_with(seen.threads)
        calibrator.looked(model, seen, measured=measured)
