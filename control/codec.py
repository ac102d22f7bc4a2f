"""Observations, decisions and actions as JSON and back: the journal's and ``--json``'s format."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any

from control.actuator import Action
from control.core.types import Clamp, Decision, Observation, Reason, Settings
from serving.metrics import ModelCounters
from serving.statistics import BatchStat, ModelStatistics


def plain(value: Any) -> Any:
    """The value in types that JSON has: enums by name, dataclasses as objects."""
    if isinstance(value, enum.Enum):
        return value.name
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and value in (float("inf"), float("-inf")):
        return str(value)
    return value


def observation(data: dict[str, Any]) -> Observation:
    """The inverse of ``plain`` for an observation."""
    statistics = data["statistics"]
    if statistics is not None:
        batches = {int(b): BatchStat(**stat) for b, stat in statistics["batches"].items()}
        statistics = ModelStatistics(**{**statistics, "batches": batches})
    return Observation(
        at_s=data["at_s"],
        tick_id=data["tick_id"],
        counters=ModelCounters(**data["counters"]) if data["counters"] else None,
        statistics=statistics,
        applied=settings(data["applied"]),
        threads=data["threads"],
        threads_ours=data["threads_ours"],
        can_rebatch=data["can_rebatch"],
        granularity=data["granularity"],
        counters_at_s=data["counters_at_s"],
        least_batch_size=data.get("least_batch_size", 1),  # older journals have none
    )


def decision(data: dict[str, Any]) -> Decision:
    """The inverse of ``plain`` for a decision."""
    return Decision(
        tick_id=data["tick_id"],
        at_s=data["at_s"],
        reason=Reason[data["reason"]],
        applied=settings(data["applied"]),
        desired=settings(data["desired"]),
        fresh=data["fresh"],
        terms={name: float(number) for name, number in data["terms"].items()},
        clamps=tuple(Clamp[name] for name in data["clamps"]),
        may_act_at_s=data["may_act_at_s"],
    )


def settings(data: dict[str, Any] | None) -> Settings | None:
    """The inverse of ``plain`` for settings."""
    return Settings(**data) if data else None


def action(value: Action) -> dict[str, Any]:
    """An action as JSON types, with the words of its enums."""
    data: dict[str, Any] = plain(value)
    return {**data, "kind": value.kind.value, "outcome": value.outcome.value}
