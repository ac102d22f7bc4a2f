"""The whole memory of a model as JSON types and back: where a replay can begin.

A journal forgets its oldest looks, and a controller runs for months; what it remembered in between
must be written down for the looks after that to be replayed. The memory of a rule may be of any
type of its own, so each value carries the name of its type; only types of the core can be read.
"""

from __future__ import annotations

import dataclasses
import enum
import importlib
from collections.abc import Mapping
from typing import Any

from control.core.state import ControlState

_TRUSTED = ("control.core.", "serving.metrics", "serving.statistics")
_CONTAINERS: dict[type[Any], str] = {tuple: "tuple", list: "list", frozenset: "set"}


def pack(state: ControlState) -> Any:
    """The memory in types that JSON has.

    Raises:
        TypeError: for a value that is no number, text, container, named tuple or dataclass.
    """
    return _pack(state)


def unpack(data: Any) -> ControlState:
    """The inverse of ``pack``.

    Raises:
        ValueError: for a type that is not of the core, or that this version does not have.
    """
    state = _unpack(data)
    if not isinstance(state, ControlState):
        raise ValueError(f"{type(state).__name__}, must be the memory of a model")
    return state


def _pack(value: Any) -> Any:
    """Numbers and text as they are; all else as [type, content]."""
    if isinstance(value, enum.Enum):
        return ["enum", _type_name(type(value)), value.name]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [f.name for f in dataclasses.fields(value) if f.init]
        return ["of", _type_name(type(value)), {n: _pack(getattr(value, n)) for n in names}]
    if isinstance(value, Mapping):
        return ["map", [[_pack(key), _pack(item)] for key, item in value.items()]]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        names = [str(name) for name in value._fields]
        return ["of", _type_name(type(value)), {n: _pack(getattr(value, n)) for n in names}]
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
            return _type(name)[member]
        case ["of", str(name), dict(fields)]:
            kind = _type(name)
            return kind(**{n: _unpack(v) for n, v in fields.items() if n in _names(kind)})
        case ["map", list(pairs)]:
            return {_unpack(key): _unpack(item) for key, item in pairs}
        case ["tuple", list(items)]:
            return tuple(_unpack(item) for item in items)
        case ["list", list(items)]:
            return [_unpack(item) for item in items]
        case ["set", list(items)]:
            return frozenset(_unpack(item) for item in items)
    raise ValueError(f"{data!r}: not a value that was packed")


def _type_name(kind: type) -> str:
    """Module and name."""
    return f"{kind.__module__}:{kind.__qualname__}"


def _type(name: str) -> Any:
    """The dataclass or enum of the core with this name."""
    module, _, kind = name.partition(":")
    if not f"{module}.".startswith(_TRUSTED) and module not in _TRUSTED:
        raise ValueError(f"{name}: not a type of the core")
    try:
        found = getattr(importlib.import_module(module), kind)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{name}: not in this version") from error
    if not isinstance(found, type) or not (_names(found) or issubclass(found, enum.Enum)):
        raise ValueError(f"{name}: neither a record nor an enum")
    return found


def _names(kind: Any) -> frozenset[str]:
    """The fields of a dataclass or a named tuple; empty for any other type."""
    if dataclasses.is_dataclass(kind):
        return frozenset(f.name for f in dataclasses.fields(kind) if f.init)
    return frozenset(getattr(kind, "_fields", ()))
