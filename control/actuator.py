"""Apply one change and prove it, or bring the previous bytes back.

Theory of operation. Revision → atomic write of ``config.pbtxt`` → gRPC load → read back → probe.
Until the load, Triton serves the old config whatever happens; a load that fails leaves it serving.
Any failure after the write brings the previous bytes back, loads them and probes again. A process
that dies between write and load leaves a whole file on disk and the old model serving; the next
start finds the two different and loads (``reconcile``).
"""

from __future__ import annotations

import contextlib
import enum
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from conch.errors import ApplyRejected, ConchError
from conch.failpoint import failpoint
from control.core.types import Settings
from control.observe import settings_of, with_settings
from serving import model_config, probe
from serving.client import TritonClient
from serving.model_config import ModelConfig, ReloadKind
from serving.repository import Repository

log = structlog.get_logger()

HEAL_S = 2.0
RELOADS = "conch_reloads"
"""A parameter that no backend reads: another value makes Triton load a second copy and swap."""


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
    """

    model: str
    kind: ReloadKind
    outcome: Outcome
    seconds: float
    revision: int
    diff: str
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change before it is applied: what ``--dry-run`` shows."""

    model: str
    old: ModelConfig
    new: ModelConfig
    kind: ReloadKind
    diff: str


class Actuator:
    """The only writer of a repository's configs while the loop runs."""

    def __init__(
        self,
        repository: Repository,
        client: TritonClient,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._repository = repository
        self._client = client
        self._clock = clock

    def plan(self, model: str, wanted: Settings, *, fresh: bool = False) -> Change:
        """What would be written for these settings; writes nothing.

        Args:
            model: whose.
            wanted: the knobs; everything else stays as it is on disk.
            fresh: make it a full reload, by counting up a parameter of ours.

        Raises:
            ConfigError: when the config on disk is broken, or does not allow the settings.
        """
        old = self._repository.read_config(model)
        new = with_settings(old, wanted)
        if fresh and model_config.reload_kind(old, new) is ReloadKind.IN_PLACE:
            count = int(model_config.parameter(old, RELOADS) or 0) + 1
            new = model_config.with_parameter(new, RELOADS, str(count))
        return Change(
            model=model,
            old=old,
            new=new,
            kind=model_config.reload_kind(old, new),
            diff=model_config.diff(old, new, name=f"{model}/config.pbtxt"),
        )

    def apply(
        self,
        model: str,
        wanted: Settings,
        *,
        reason: str,
        tick_id: str = "",
        fresh: bool = False,
    ) -> Action:
        """Bring the settings into force; ``fresh`` as in ``plan``.

        Returns:
            The action: APPLIED, UNCHANGED (no call was made) or ROLLED_BACK (the previous bytes are
            back on disk and in force).

        Raises:
            RepositoryError: when the disk refuses; nothing has changed then.
            ApplyRejected: when not even the previous config could be brought back into force.
        """
        change = self.plan(model, wanted, fresh=fresh)
        if change.kind is ReloadKind.NONE and self._in_force(change.new):
            return self._action(change, Outcome.UNCHANGED, 0.0, revision=0)
        previous = self._repository.config_text(model)
        start_s = self._clock()
        failpoint("actuator.before_write")
        revision = self._repository.write_config(
            model, change.new, reason=reason, tick_id=tick_id
        ).number
        failpoint("actuator.before_load")
        try:
            self._load_and_verify(change.new)
        except ConchError as error:
            log.error("config.rejected", model=model, tick_id=tick_id, error=error.message)
            revision = self._roll_back(model, previous, tick_id=tick_id, cause=error)
            seconds = self._clock() - start_s
            return self._action(
                change, Outcome.ROLLED_BACK, seconds, revision=revision, error=error.message
            )
        seconds = self._clock() - start_s
        log.info("config.applied", model=model, kind=change.kind.value, seconds=round(seconds, 3))
        return self._action(change, Outcome.APPLIED, seconds, revision=revision)

    def reconcile(self, model: str) -> bool:
        """Load what is on disk where Triton serves something else; gives whether it did.

        A controller that died between write and load leaves this behind. A broken file on disk is
        left alone: the old model goes on serving.

        Raises:
            ConfigError: when the config on disk is broken.
            ApplyRejected: when Triton refuses it.
        """
        desired = self._repository.read_config(model)
        if self._in_force(desired):
            return False
        log.warning("config.drift_found", model=model)
        self._load_and_verify(desired)
        return True

    def _load_and_verify(self, desired: ModelConfig) -> None:
        """Load, read back, probe."""
        self._client.load(desired.name)
        failpoint("actuator.after_load")
        if not self._in_force(desired):
            raise ApplyRejected(
                f"{desired.name}: Triton took the load but serves "
                f"{settings_of(self._client.config(desired.name))}, "
                f"must be {settings_of(desired)}.",
                hint="Another writer may be loading this model; there must be only one.",
            )
        probe.probe(self._client, desired)
        failpoint("actuator.after_probe")

    def _in_force(self, desired: ModelConfig) -> bool:
        """Whether Triton serves these settings."""
        return settings_of(self._client.config(desired.name)) == settings_of(desired)

    def _roll_back(self, model: str, previous: str, *, tick_id: str, cause: ConchError) -> int:
        """The previous bytes back on disk and in force; gives their revision."""
        revision = self._repository.write_text(
            model, previous, reason=f"rolled back: {cause.message}", tick_id=tick_id
        ).number
        failpoint("actuator.rolled_back")
        try:
            self._load_and_verify(self._repository.read_config(model))
        except ConchError as error:
            # A dead stub is healed by unload + load, not by load alone.
            log.error("rollback.load_failed", model=model, error=error.message)
            with contextlib.suppress(ConchError):  # it stays UNLOADING for ever, and yet it heals
                self._client.unload(model, deadline_s=HEAL_S)
            self._load_and_verify(self._repository.read_config(model))
        return revision

    @staticmethod
    def _action(
        change: Change, outcome: Outcome, seconds: float, *, revision: int, error: str = ""
    ) -> Action:
        """The record of a change."""
        return Action(
            model=change.model,
            kind=change.kind,
            outcome=outcome,
            seconds=seconds,
            revision=revision,
            diff=change.diff,
            error=error,
        )
