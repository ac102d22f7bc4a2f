"""A change, before and after it was tried."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from conch.errors import ApplyRejected, TritonUnavailable
from serving.model_config import ModelConfig, ReloadKind


class Edited(ApplyRejected):
    """A person edited the config and did not load it: nothing was changed."""


class ServerGone(TritonUnavailable):
    """The server died in the middle of a change; the previous config is back on disk."""


class Outcome(enum.Enum):
    """How a change ended."""

    APPLIED = "applied"
    UNCHANGED = "unchanged"
    ROLLED_BACK = "rolled back"


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One change that was tried.

    Attributes:
        model: whose.
        kind: what it costs Triton.
        outcome: how it ended.
        seconds: from the first write to the end of the probe.
        revision: of the config now on disk; 0 when nothing was written.
        diff: unified, applied → desired.
        error: why it was rolled back, or empty.
        unavailable: whether it was rolled back because Triton did not answer for a while.
        refused_rows: the model refused a batch of so many rows, where it did.
    """

    model: str
    kind: ReloadKind
    outcome: Outcome
    seconds: float
    revision: int
    diff: str
    error: str = ""
    unavailable: bool = False
    refused_rows: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change before it is applied: what ``--dry-run`` shows."""

    model: str
    old: ModelConfig
    new: ModelConfig
    kind: ReloadKind
    diff: str
