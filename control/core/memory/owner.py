"""What the owner's own configuration says, and the bounds of the policy by it."""

from __future__ import annotations

from dataclasses import replace

from control.core.memory.bounds import effective
from control.core.memory.state import ControlState
from control.core.policy import Policy
from control.core.types import Observation


def owned(state: ControlState, seen: Observation) -> ControlState:
    """The memory with the owner's configuration as this look tells it.

    An owner who changed the batch limit knows better than what was refused before. What was
    found in force, before anybody told of the owner, was no owner's word.
    """
    owner = seen.owner or state.owner or seen.applied
    if owner == state.owner and (seen.owner is None or state.owner_told):
        return state
    safety, old = state.safety, state.owner if state.owner_told else None
    if old is not None and owner is not None and owner.max_batch_size != old.max_batch_size:
        safety = replace(safety, refused_rows=None)
    return replace(state, owner=owner, owner_told=seen.owner is not None, safety=safety)


def bounded(state: ControlState, seen: Observation, policy: Policy) -> Policy:
    """The policy with the bounds that nobody wrote, and what the model refuses."""
    grows = state.cpu.waits and policy.unwritten
    return effective(
        policy,
        owner=state.owner,
        applied=seen.applied,
        refused_rows=state.safety.refused_rows,
        waits=state.cpu.waits,
        trusted=state.learnt.trusted_up_to(seen.threads, None) if grows else 0,
        by_slots=seen.most_by_slots,
    )
