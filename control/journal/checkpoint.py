"""The whole memory of a model as JSON types and back: where a replay can begin.

A journal forgets its oldest looks, and a controller runs for months; what it remembered in between
must be written down for the looks after that to be replayed. Each value carries the name of its
type: one of ``KINDS``, which stays when the type moves. Journals written before these names have
module and class instead. Fields that this version does not have are left out.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from control.core import own, types
from control.core.judgement import error_budget, judge, period, safety
from control.core.load import agreement, cache_use, pace, windows
from control.core.memory import bounds, changes, state
from control.core.memory.state import ControlState
from control.core.rules.baselines import (
    aimd_batching,
    clairvoyant,
    hpa,
    knative_kpa,
    ray_serve,
    static,
)
from control.core.service import curves, evidence, interference, learnt, slow_seconds, versions
from serving import metrics, statistics

_CLASSES: tuple[type[Any], ...] = (
    agreement.Agreement,
    agreement.Span,
    aimd_batching.Aimd,
    bounds.CpuUse,
    error_budget.Bin,
    error_budget.ErrorBudget,
    cache_use.CacheUse,
    cache_use.Trials,
    changes.Applied,
    changes.InFlight,
    clairvoyant.Began,
    curves.ServiceTime,
    evidence.Evidence,
    evidence.Tally,
    hpa.HpaMemory,
    interference.Interference,
    judge.Verdict,
    judge.Watch,
    knative_kpa.Kpa,
    metrics.ModelCounters,
    own.Own,
    pace.Pace,
    period.Batches,
    period.Period,
    safety.Block,
    safety.Safety,
    learnt.Learnt,
    slow_seconds.SlowSeconds,
    state.ControlState,
    static.Sample,
    statistics.BatchStat,
    statistics.ModelStatistics,
    types.Observation,
    types.Settings,
    versions.Versions,
    windows.Interval,
)
KINDS: Mapping[str, type[Any]] = MappingProxyType(
    {**{kind.__name__: kind for kind in _CLASSES}, "Ongoing": ray_serve.Agreement}
)
"""Every type that may be remembered, by the name in journals."""
_NAMES = {kind: name for name, kind in KINDS.items()}
_OTHER_NAMES = MappingProxyType({"control.core.policies.ray_serve:Agreement": "Ongoing"})
"""By an old module and class, where the name in journals is not the class's."""
_CONTAINERS: dict[type[Any], str] = {tuple: "tuple", list: "list", frozenset: "set"}


def pack(memory: ControlState) -> Any:
    """The memory in types that JSON has.

    Raises:
        TypeError: for a value that is no number, text, container, named tuple or dataclass.
    """
    return _pack(memory)


def unpack(data: Any) -> ControlState:
    """The inverse of ``pack``.

    Raises:
        ValueError: for a type that is not of the core, or that this version does not have.
    """
    memory = _unpack(data)
    if not isinstance(memory, ControlState):
        raise ValueError(f"{type(memory).__name__}, must be the memory of a model")
    return memory


def _pack(value: Any) -> Any:
    """Numbers and text as they are; all else as [type, content]."""
    if isinstance(value, enum.Enum):
        return ["enum", _name(type(value)), value.name]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if dataclasses.is_dataclass(value) or (isinstance(value, tuple) and hasattr(value, "_fields")):
        kind = type(value)
        return ["of", _name(kind), {n: _pack(getattr(value, n)) for n in _fields(kind)}]
    if isinstance(value, Mapping):
        return ["map", [[_pack(key), _pack(item)] for key, item in value.items()]]
    name = _CONTAINERS.get(type(value))
    if name is not None:
        return [name, [_pack(item) for item in value]]
    raise TypeError(f"{type(value).__name__} cannot be written down")


def _unpack(data: Any) -> Any:
    """The inverse of ``_pack``."""
    if not isinstance(data, list):
        return data
    match data:
        case ["enum", str(name), str(member)]:
            return _kind(name)[member]
        case ["of", str(name), dict(content)]:
            kind = _kind(name)
            names = _fields(kind)
            return kind(**{n: _unpack(v) for n, v in content.items() if n in names})
        case ["map", list(pairs)]:
            return {_unpack(key): _unpack(item) for key, item in pairs}
        case ["tuple", list(items)]:
            return tuple(_unpack(item) for item in items)
        case ["list", list(items)]:
            return [_unpack(item) for item in items]
        case ["set", list(items)]:
            return frozenset(_unpack(item) for item in items)
    raise ValueError(f"{data!r}: not a value that was packed")


def _name(kind: type[Any]) -> str:
    """The name of a type in journals."""
    if kind not in _NAMES:
        raise TypeError(f"{kind.__name__} cannot be written down: it has no name in KINDS")
    return _NAMES[kind]


def _kind(name: str) -> Any:
    """The type with this name, or with this module and class in a journal from before the names."""
    short = _OTHER_NAMES.get(name, name.rpartition(":")[2])
    if short not in KINDS:
        raise ValueError(f"{name}: not a type that this version remembers")
    return KINDS[short]


def _fields(kind: Any) -> tuple[str, ...]:
    """The fields of a dataclass or a named tuple that make a new one."""
    if dataclasses.is_dataclass(kind):
        return tuple(f.name for f in dataclasses.fields(kind) if f.init)
    return tuple(kind._fields)
