"""Feed the core a journal: the same decisions again, or those of another rule or policy.

Theory of operation. The core is a function of its events, and the journal has every one of them in
order. Fed to the same rule by the same policy they give the same decisions, bit by bit; where they
do not, the code has changed or the journal is damaged. Another rule sees what the system did under
the original decisions, not what it would have done under its own: its first decision that differs
is exact, and each later one is an answer to a load that it did not shape.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from conch.errors import ConfigError
from control.core.memory.state import ControlState
from control.core.policy import Policy
from control.core.rules import rule_named
from control.core.rules.rule import Rule
from control.core.step import Looked, Started, step
from control.core.types import Decision
from control.journal import codec
from control.journal.reader import Record, Run

MOST_SHOWN = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A look that was answered otherwise."""

    id: int
    original: Decision
    replayed: Decision


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What a replay of one model in one run gave.

    Attributes:
        looks: that were decided again.
        equal: of them, with the very same decision.
        same_settings: of them, that want the same settings, whatever the reason.
        forgotten: looks that no memory is known for: from before the first checkpoint, or from
            after an event that is damaged.
        differences: the first thousand.
        original_instance_s, replayed_instance_s: instances that were wanted, times how long.
    """

    looks: int
    equal: int
    same_settings: int
    forgotten: int
    differences: tuple[Difference, ...]
    original_instance_s: float
    replayed_instance_s: float


def replay(records: Iterable[Record], rule: Rule, policy: Policy, *, own: bool = True) -> Replayed:
    """Decide every look of these records again. Pure.

    Args:
        records: of one model in one run, in order.
        rule: who decides.
        policy: by what.
        own: whether it is the rule that decided then, so that its memory in a checkpoint is meant.
    """
    state: ControlState | None = None
    counts = {"looks": 0, "equal": 0, "same_settings": 0, "forgotten": 0}
    seconds = [0.0, 0.0]
    differences: list[Difference] = []
    last: tuple[Decision, Decision] | None = None
    for record in records:
        if record.event is None:
            state = _known(state, record, own=own)
            last = last if state is not None else None
            continue
        if state is None and not isinstance(record.event, Started):
            counts["forgotten"] += isinstance(record.event, Looked)
            continue
        try:
            state, decided = step(rule, state or ControlState(), record.event, policy)
        except codec.DAMAGE:  # a value that was damaged and still reads as one: nobody decided that
            counts["forgotten"] += isinstance(record.event, Looked)
            state = last = None
            continue
        if decided is None or record.decision is None:
            continue
        original = record.decision
        counts["looks"] += 1
        counts["same_settings"] += original.desired == decided.desired
        if same(original, decided):
            counts["equal"] += 1
        elif len(differences) < MOST_SHOWN:
            differences.append(Difference(id=record.id, original=original, replayed=decided))
        if last is not None:
            span_s = original.at_s - last[0].at_s
            if 0 < span_s <= policy.stale_s:  # longer, and nobody looked
                seconds = [s + _instances(d) * span_s for s, d in zip(seconds, last, strict=True)]
        last = original, decided
    return Replayed(
        **counts,
        differences=tuple(differences),
        original_instance_s=seconds[0],
        replayed_instance_s=seconds[1],
    )


def same(one: Decision, other: Decision) -> bool:
    """Whether they are equal in every field and bit; a NaN equals a NaN."""
    return _canonical(one) == _canonical(other)


def differing(one: Decision, other: Decision) -> dict[str, tuple[Any, Any]]:
    """(original, replayed) of each field and term that differs."""
    found: dict[str, tuple[Any, Any]] = {}
    first, second = codec.plain(one), codec.plain(other)
    terms = first.pop("terms"), second.pop("terms")
    for ours, theirs, prefix in ((first, second, ""), (*terms, "terms.")):
        for key in dict.fromkeys([*ours, *theirs]):
            pair = ours.get(key), theirs.get(key)
            if json.dumps(pair[0]) != json.dumps(pair[1]):
                found[prefix + key] = pair
    return found


def rule_of(run: Run, model: str) -> tuple[Rule, Policy]:
    """Who decided for the model in this run, and by what.

    Raises:
        ConfigError: when the journal does not say, or this version does not have the rule.
    """
    if model not in run.policies:
        known = ", ".join(run.policies) or "none: an earlier version wrote it"
        raise ConfigError(
            f"run {run.id}: the policy of {model} is not written down; known are: {known}.",
            hint="Such a run can be explained, and not replayed.",
        )
    name, options = run.rules[model]
    return rule_named(name, _frozen(options)), run.policies[model]


def _known(state: ControlState | None, record: Record, *, own: bool) -> ControlState | None:
    """The memory after a mark of the journal."""
    if record.begins:
        return ControlState()
    if record.state is None:  # a gap
        return None
    if state is not None:  # we know better: it is the memory of the rule that decided then
        return state
    return record.state if own else replace(record.state, memory=None)


def _canonical(decision: Decision) -> str:
    """The decision as the journal would give it back."""
    return codec.text(codec.decision(json.loads(codec.text(decision))))


def _instances(decision: Decision) -> int:
    """How many are wanted; 0 where it is not known."""
    return 0 if decision.desired is None else decision.desired.instances


def _frozen(options: Mapping[str, Any]) -> dict[str, Any]:
    """JSON's lists as the tuples they were."""
    return {
        key: tuple(tuple(v) if isinstance(v, list) else v for v in value)
        if isinstance(value, list)
        else value
        for key, value in options.items()
    }
