"""What the core deals in, as text and back: the journal's format, and ``--json``'s.

Types are pydantic's business; a field that an older journal lacks takes its default.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import math
import zlib
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from control.action import Action
from control.core.memory.changes import Applied
from control.core.policy import MOST_INSTANCES, Policy
from control.core.reasons import Clamp, Reason
from control.core.step import Begun, Ended, Event, Looked, Started
from control.core.types import Decision, Observation, Settings

_COMMON = (
    b'{"stable_rps": 0.0, "service_alpha_s": 0.0, "service_beta_s": 0.0, "needed_instances": 1.0, '
    b'"drain_s": 0.0, "need_rps": "at_once_rps": "expected_p99_s": "forecast_rps": "kappa": '
    b'"headroom": "load_s": "patience_s": "applied_instances": 1.0, "capacity_1_rps": '
    b'"capacity_2_rps": "capacity_3_rps": "capacity_4_rps": "applied": {"instances": 1, '
    b'"max_batch_size": 8, "dynamic_batching": true, "max_queue_delay_s": 0.0, "threads": null, '
    b'"version": null, "response_cache": false}, "threads": 1, "threads_ours": false, '
    b'"can_rebatch": true, "granularity": 1, "counters_at_s": 17, "least_batch_size": 1, '
    b'"versions": [1], "arrivals": null, "request_p99_s": 0.0, "cpu_fraction": 0.0, '
    b'"memory_free_bytes": 2, "memory_copy_bytes": 4, "gpu_fraction": null, "cap": null, '
    b'"frozen": false}, "decision": {"tick_id": "", "at_s": 17, "reason": "HOLD_STEADY", '
    b'"desired": {"instances": 1, "fresh": false, "terms": {"fast_rps": 0.0, "pending_count": 0.0, '
    b'"slo_s": 0.1, "clamps": [], "may_act_at_s": 0.0}}'
    b'{"seen": {"at_s": 17, "tick_id": "", "counters": {"success": 1.0, "failure": 0.0, '
    b'"rejected": 0.0, "inference_count": 1.0, "exec_count": 1.0, "request_s": 0.0, "queue_s": '
    b'0.0, "compute_input_s": 0.0, "compute_infer_s": 0.0, "compute_output_s": 0.0, "pending": '
    b'0.0, "cache_hits": 0.0, "cache_misses": 0.0}, "statistics": {"inference_count": 1, '
    b'"execution_count": 1, "success_count": 1, "fail_count": 0, "queue_s": 0.0, "batches": {"1": '
    b'{"count": 1, "busy_s": 0.0}, "2": {"count": 2, "busy_s": 0.1}, "'
)
"""What most looks have in common, so that each is stored in a fifth of its size. A part of the
file format: with another text here no journal can be read any more."""


MOST_BYTES = 2**24
"""Of one stored value, unpacked: a checkpoint with a season's history has some 0.5 MB."""
DAMAGE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
    zlib.error,
)
"""What reading a value raises that is damaged, or that another version wrote."""


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    """Made once a type: it costs milliseconds."""
    return TypeAdapter(kind)


def text(value: Any) -> str:
    """A dataclass of the core as JSON text: enums by name, and Infinity and NaN as they are."""
    kind: Any = type(value)
    return json.dumps(_adapter(kind).dump_python(value, warnings=False), default=_plainer)


def packed(content: str) -> bytes:
    """The text, small."""
    squeeze = zlib.compressobj(zdict=_COMMON)
    return squeeze.compress(content.encode()) + squeeze.flush()


def unpacked(stored: bytes | str) -> Any:
    """The JSON value in what ``packed`` gave, or in plain text.

    Raises:
        DAMAGE: when it is neither, or far larger than any value that is stored.
    """
    if isinstance(stored, str):
        return parsed(stored)
    expand = zlib.decompressobj(zdict=_COMMON)
    content = expand.decompress(stored, MOST_BYTES)
    if not expand.eof:
        raise ValueError("cut off, or larger than any value is")
    return json.loads(content)


def parsed(content: str) -> Any:
    """The JSON value in a text.

    Raises:
        DAMAGE: when there is none, or it is far larger than any value that is stored.
    """
    if len(content) > MOST_BYTES:
        raise ValueError("larger than any value is")
    return json.loads(content)


def look(seen: Observation, decided: Decision) -> str:
    """One look and what was decided on it."""
    return f'{{"seen": {text(seen)}, "decision": {text(decided)}}}'


def observation(data: Mapping[str, Any]) -> Observation:
    """The observation in its JSON value."""
    made: Observation = _adapter(Observation).validate_python(data)
    return made


def decision(data: Mapping[str, Any]) -> Decision:
    """The decision in its JSON value.

    Raises:
        KeyError: for a reason or a clamp that this version does not know.
    """
    made: Decision = _adapter(Decision).validate_python(
        {
            **data,
            "reason": Reason[data["reason"]],
            "clamps": [Clamp[name] for name in data["clamps"]],
        }
    )
    return made


def settings(data: Mapping[str, Any] | None) -> Settings | None:
    """The settings in their JSON value."""
    made: Settings | None = _adapter(Settings | None).validate_python(data)
    return made


def policy(data: Mapping[str, Any]) -> Policy:
    """The policy in its JSON value.

    Raises:
        ValueError: for counts that no policy can have: each up to the most is looked at.
    """
    made: Policy = _adapter(Policy).validate_python(data)
    counts = (made.min_instances, made.max_instances, made.cores)
    if not all(1 <= count <= MOST_INSTANCES for count in counts):
        raise ValueError(f"instances and cores {counts}: must be from 1 to {MOST_INSTANCES}")
    return made


def applied(data: Mapping[str, Any] | None) -> Applied | None:
    """A change that was tried, in its JSON value."""
    made: Applied | None = _adapter(Applied | None).validate_python(data)
    return made


def kind_of(event: Event) -> str:
    """The name of the event's type, as the journal has it."""
    return type(event).__name__.lower()


def event(kind: str, data: Any) -> Event:
    """The event of this kind in its JSON value."""
    if kind == "looked":
        return Looked(seen=observation(data["seen"]))
    made: Event = _adapter(_KINDS[kind]).validate_python(data)
    return made


_KINDS = {kind.__name__.lower(): kind for kind in (Started, Begun, Ended)}


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
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def action(value: Action) -> dict[str, Any]:
    """An action as JSON types, with the words of its enums."""
    data: dict[str, Any] = plain(value)
    return {**data, "kind": value.kind.value, "outcome": value.outcome.value}


def _plainer(value: Any) -> Any:
    """What JSON lacks: an enum's member goes by its name, as its words may change."""
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, Mapping):  # one that is no dict
        return dict(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    raise TypeError(f"{type(value).__name__} is not JSON")
