"""Apply one change and prove it, or bring the previous bytes back.

Theory of operation. Revision → atomic write of ``config.pbtxt`` → gRPC load → read back → probe,
and a look at the ensembles around the model: a load may take them out of service and be "ok".
Until the load, Triton serves the old config whatever happens; a load that fails leaves it serving.
Any failure after the write brings the previous bytes back, loads them and probes again. A process
that dies between write and load leaves a whole file on disk and the old model serving; the next
start finds the two different and loads (``reconcile``).
"""

from __future__ import annotations

import contextlib
import enum
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from conch.errors import ApplyRejected, ConchError, ConfigError, TritonUnavailable
from conch.failpoint import failpoint
from control.core.types import Settings
from control.observe import settings_of, with_settings
from serving import ensembles, model_config, probe
from serving.client import InferenceFailed, TritonClient
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
        unavailable: whether it was rolled back because Triton did not answer for a while.
    """

    model: str
    kind: ReloadKind
    outcome: Outcome
    seconds: float
    revision: int
    diff: str
    error: str = ""
    unavailable: bool = False


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
        fence: Callable[[], None] = lambda: None,
    ) -> None:
        """Write this repository by this client; ``fence`` raises where another may write now."""
        self._fence = fence
        self._repository = repository
        self._client = client
        self._clock = clock
        self._answered: dict[str, bool] = {}

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
            count = model_config.parameter(old, RELOADS) or ""
            number = int(count) + 1 if count.isdecimal() else 1
            new = model_config.with_parameter(new, RELOADS, str(number))
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
            ApplyRejected: when what is on disk is not in force, so that the change would bring a
                person's unloaded edit with it; or when not even the previous config could be
                brought back into force.
        """
        with self._repository.lock(model):
            return self._apply(model, wanted, reason=reason, tick_id=tick_id, fresh=fresh)

    def reconcile(self, model: str) -> bool:
        """Load what is on disk where Triton serves something else; gives whether it did.

        A controller that died between write and load leaves this behind. Where Triton refuses what
        is on disk, the newest revision that says what Triton serves comes back.

        Raises:
            ConfigError: when the config on disk is broken; the old model goes on serving.
            ApplyRejected: when Triton refuses it and no revision says what is in force.
        """
        with self._repository.lock(model):
            desired = self._repository.read_config(model)
            if self._in_force(desired):
                self._answers(desired)
                return False
            log.warning("config.drift_found", model=model)
            self._fence()
            around = self._ensembles_served(model)
            try:
                self._load_and_verify(desired, answers=self._answers(desired), around=around)
            except ApplyRejected as error:
                self._undo_drift(model, error)
                self._bring_back(model, around)
            return True

    def _apply(
        self, model: str, wanted: Settings, *, reason: str, tick_id: str, fresh: bool
    ) -> Action:
        """``apply`` with the model's lock held."""
        change = self.plan(model, wanted, fresh=fresh)
        if not self._in_force(change.old):
            raise ApplyRejected(
                f"{model}: config.pbtxt says {settings_of(change.old)}, but Triton serves "
                f"{settings_of(self._client.config(model))}.",
                hint="Somebody edited it: load it, or bring a revision back with `conch repo`.",
            )
        if change.kind is ReloadKind.NONE:
            return self._action(change, Outcome.UNCHANGED, 0.0, revision=0)
        answers, around = self._answers(change.old), self._ensembles_served(model)
        previous = self._repository.config_text(model)
        start_s = self._clock()
        failpoint("actuator.before_write")
        self._fence()
        revision = self._repository.write_config(
            model, change.new, reason=reason, tick_id=tick_id
        ).number
        failpoint("actuator.before_load")
        try:
            self._load_and_verify(change.new, answers=answers, around=around)
        except ConchError as error:
            log.error("config.rejected", model=model, tick_id=tick_id, error=error.message)
            self._roll_back(model, previous, answers=answers, tick_id=tick_id, cause=error)
            self._bring_back(model, around)
            seconds, revision = self._clock() - start_s, self._newest(model)
            return self._action(
                change, Outcome.ROLLED_BACK, seconds, revision=revision, cause=error
            )
        seconds = self._clock() - start_s
        log.info("config.applied", model=model, kind=change.kind.value, seconds=round(seconds, 3))
        return self._action(change, Outcome.APPLIED, seconds, revision=revision)

    def _answers(self, config: ModelConfig) -> bool:
        """Whether the model answers the synthetic inference: only then can it be a proof.

        A sequence or decoupled model, or one that wants real content, refuses it in good health.
        Asked once a model: the question waits in the queue that a scale up is to shorten.
        """
        if config.name not in self._answered:
            self._answered[config.name] = self._ask(config)
        return self._answered[config.name]

    def _ask(self, config: ModelConfig) -> bool:
        """Try the synthetic inference."""
        try:
            probe.probe(self._client, config)
        except InferenceFailed as error:
            log.warning("probe.no_baseline", model=config.name, error=error.message)
            return False
        except TritonUnavailable:  # it is slow, not wrong
            return True
        return True

    def _ensembles_served(self, model: str) -> list[str]:
        """The ensembles that need the model and that Triton serves now."""
        names = ensembles.around(model, ensembles.of(self._repository))
        return [] if not names else sorted(set(names) - set(self._lost(names)))

    def _lost(self, names: Sequence[str]) -> list[str]:
        """Which of these models Triton does not serve."""
        if not names:
            return []
        states = self._client.index()
        return [name for name in names if states.get(name) != "READY"]

    def _bring_back(self, model: str, around: Sequence[str]) -> None:
        """Have Triton serve again the ensembles that a refused change of the model took down."""
        for name in self._lost(around):
            log.warning("ensemble.loaded_again", model=model, ensemble=name)
            self._client.load(name)
        self._require_served(model, around)

    def _require_served(self, model: str, around: Sequence[str]) -> None:
        """Refuse a change that an ensemble around the model did not survive."""
        if lost := self._lost(around):
            raise ApplyRejected(
                f"{model}: loaded, but Triton no longer serves {', '.join(lost)}, which it is in.",
                hint="A member's max_batch_size must not be below its ensemble's; the server's log "
                "says what does not fit.",
            )

    def _load_and_verify(
        self, desired: ModelConfig, *, answers: bool, around: Sequence[str] = ()
    ) -> None:
        """Load, read back, look at the ensembles around it; probe where the model answered."""
        self._client.load(desired.name)
        failpoint("actuator.after_load")
        if not self._in_force(desired):
            raise ApplyRejected(
                f"{desired.name}: Triton took the load but serves "
                f"{settings_of(self._client.config(desired.name))}, "
                f"must be {settings_of(desired)}.",
                hint="Another writer may be loading this model; there must be only one.",
            )
        self._require_served(desired.name, around)
        if answers:
            try:
                probe.probe(self._client, desired)
            except TritonUnavailable as error:
                if not self._client.live():
                    raise
                # It waits behind a queue: that is no fault of the change.
                log.warning("probe.timed_out", model=desired.name, error=error.message)
        failpoint("actuator.after_probe")

    def _in_force(self, desired: ModelConfig) -> bool:
        """Whether Triton serves these settings."""
        return settings_of(self._client.config(desired.name)) == settings_of(desired)

    def _roll_back(
        self, model: str, previous: str, *, answers: bool, tick_id: str, cause: ConchError
    ) -> None:
        """The previous bytes back on disk and in force."""
        self._fence()
        self._repository.restore(
            model, previous, reason=f"rolled back: {cause.message}", tick_id=tick_id
        )
        failpoint("actuator.rolled_back")
        config = self._repository.read_config(model)
        try:
            self._load_and_verify(config, answers=answers)
        except InferenceFailed as error:
            # It is loaded and does not answer, as it did before: a dead stub. Load alone does not
            # heal that; unload + load does. A model that still serves is never unloaded.
            log.error("rollback.not_answering", model=model, error=error.message)
            with contextlib.suppress(ConchError):  # it stays UNLOADING for ever, and yet it heals
                self._client.unload(model, deadline_s=HEAL_S)
            self._load_and_verify(config, answers=answers)

    def _undo_drift(self, model: str, refused: ApplyRejected) -> None:
        """The newest revision that says what Triton serves, back on disk."""
        log_of = self._repository.revisions(model)
        in_force = settings_of(self._client.config(model))
        for revision in reversed(log_of.all()):
            text = log_of.text(revision.number)
            with contextlib.suppress(ConfigError):
                if settings_of(model_config.parse(text)) == in_force:
                    reason = f"reconciled: {refused.message}"
                    self._repository.restore(model, text, reason=reason, tick_id="")
                    self._client.load(model)
                    log.warning("config.drift_undone", model=model, revision=revision.number)
                    return
        raise refused

    def _newest(self, model: str) -> int:
        """The number of the newest revision."""
        newest = self._repository.revisions(model).newest()
        return newest.number if newest else 0

    @staticmethod
    def _action(
        change: Change,
        outcome: Outcome,
        seconds: float,
        *,
        revision: int,
        cause: ConchError | None = None,
    ) -> Action:
        """The record of a change."""
        return Action(
            model=change.model,
            kind=change.kind,
            outcome=outcome,
            seconds=seconds,
            revision=revision,
            diff=change.diff,
            error=cause.message if cause else "",
            unavailable=isinstance(cause, TritonUnavailable),
        )
