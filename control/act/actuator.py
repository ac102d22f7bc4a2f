"""Apply one change and prove it, or bring the previous bytes back.

Theory of operation. Revision → pending record → atomic write of ``config.pbtxt`` → gRPC load → read
back → probes, and a look at the ensembles around the model: a load may take them out of service
and be "ok". Until the load, Triton serves the old config whatever happens; a load that fails leaves
it serving. Any failure after the write brings the previous bytes back, loads them and probes again.
A process that dies between write and load leaves a whole file on disk and the old model serving;
the next start finds the two different and loads (``reconcile``). What a person wrote and did not
load is never loaded along with a change, nor overwritten.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import structlog

from conch.errors import ApplyRejected, ConchError, ConfigError, TritonUnavailable
from conch.failpoint import failpoint
from control.act.baseline import Baseline, is_settled
from control.act.knobs import settings_of, with_settings
from control.act.proof import Answers, Prober, RowsRefused
from control.action import Action, Change, Edited, Outcome, ServerGone
from control.core.types import Settings
from serving import ensembles, groups, heal, model_config, pending
from serving.client import InferenceFailed, TritonClient
from serving.model_config import ModelConfig, ReloadKind
from serving.pending import Pending
from serving.repository import Repository
from serving.revisions import Revision, edited_hint, sha256

__all__ = ["Action", "Actuator", "Change", "Edited", "Outcome", "ServerGone"]

log = structlog.get_logger()

RELOADS = "conch_reloads"
"""A parameter that no backend reads: another value makes Triton load a second copy and swap."""


class Actuator:
    """The only writer of a repository's configs while the loop runs."""

    def __init__(
        self,
        repository: Repository,
        client: TritonClient,
        *,
        clock: Callable[[], float] = time.monotonic,
        fence: Callable[[], None] = lambda: None,
        baseline: Baseline | None = None,
        prober: Prober | None = None,
        watched: bool = False,
    ) -> None:
        """Write this repository by this client.

        Args:
            repository: to write.
            client: of the server that reads it.
            clock: seconds, for how long a change takes.
            fence: raises where another may write now.
            baseline: tells a person's edits; None for one of its own.
            prober: asks the models; None for one of its own.
            watched: whether somebody watches the changes after they ended and settles their pending
                records (``control.act.probation``); else an applied change is settled at once.
        """
        self._fence = fence
        self._repository = repository
        self._client = client
        self._clock = clock
        self._baseline = baseline or Baseline(repository)
        self._prober = prober or Prober(client)
        self._watched = watched

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
        new = with_settings(old, wanted, meant=groups.resolved(old, self._client.config(model)))
        if fresh and model_config.reload_kind(old, new) is ReloadKind.IN_PLACE:
            count = model_config.parameter(old, RELOADS) or ""
            number = (
                int(count) + 1 if count.isascii() and count.isdecimal() and len(count) < 10 else 1
            )
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
            Edited: when what is on disk is not in force, so that the change would bring a person's
                unloaded edit with it; nothing has changed then.
            ServerGone: when the server died; the previous config is back on disk.
            ApplyRejected: when not even the previous config could be brought back into force.
        """
        with self._repository.lock(model):
            return self._apply(model, wanted, reason=reason, tick_id=tick_id, fresh=fresh)

    def reconcile(self, model: str) -> bool:
        """Load what we wrote where Triton serves something else; gives whether it did.

        A controller that died between write and load leaves this behind. Where Triton refuses what
        is on disk, the newest revision that says what Triton serves comes back. A text that is no
        revision is a person's: it is left for them to load.

        Raises:
            ConfigError: when the config on disk is broken; the old model goes on serving.
            ApplyRejected: when Triton refuses it and no revision says what is in force.
        """
        with self._repository.lock(model):
            desired = self._repository.read_config(model)
            shown = self._client.config(model)
            newest = self._repository.revisions(model).newest()
            text = self._repository.config_text(model)
            ours = newest is not None and newest.sha256 == sha256(text)
            if is_settled(desired, shown) and not (ours and _leaves_count_open(desired)):
                self._prober.single(desired)
                return False
            if not ours:
                log.warning("config.edited", model=model, hint=edited_hint(model))
                return False
            log.warning("config.drift_found", model=model)
            self._fence()
            around = self._ensembles_served(model)
            try:
                single = self._prober.single(desired)
                self._load_and_verify(desired, single=single, around=around)
            except InferenceFailed as error:
                self._heal(desired, error)
                self._bring_back(model, around)
            except ApplyRejected as error:
                self._undo_drift(model, text, error)
                self._bring_back(model, around)
            return True

    def _apply(
        self, model: str, wanted: Settings, *, reason: str, tick_id: str, fresh: bool
    ) -> Action:
        """``apply`` with the model's lock held."""
        previous = self._repository.config_text(model)
        change = self.plan(model, wanted, fresh=fresh)
        self._require_in_force(change.old)
        if change.kind is ReloadKind.NONE:
            return self._action(change, Outcome.UNCHANGED, 0.0, revision=0)
        single, full = self._before(change)
        around = self._ensembles_served(model)
        start_s = self._clock()
        failpoint("actuator.before_write")
        self._fence()
        unproven = pending.read(self._repository, model)
        revision = self._repository.write_config(
            model,
            change.new,
            reason=reason,
            tick_id=tick_id,
            before=lambda old, new: self._remember(model, unproven, previous, old, new),
        ).number
        failpoint("actuator.before_load")
        written = model_config.to_text(change.new)
        try:
            self._require_ours(model, written)  # a load would bring an edit of just now with it
            self._load_and_verify(change.new, single=single, full=full, around=around)
        except ConchError as error:
            log.error("config.rejected", model=model, tick_id=tick_id, error=error.message)
            try:
                self._roll_back(
                    model, previous, written, single=single, tick_id=tick_id, cause=error
                )
            except (Edited, ServerGone):
                self._forget(model, unproven)
                raise
            self._forget(model, unproven)
            self._bring_back(model, around)
            seconds, revision = self._clock() - start_s, self._newest(model)
            return self._action(
                change, Outcome.ROLLED_BACK, seconds, revision=revision, cause=error
            )
        remember = pending.loaded if self._watched else pending.settle
        remember(self._repository, model)
        seconds = self._clock() - start_s
        log.info("config.applied", model=model, kind=change.kind.value, seconds=round(seconds, 3))
        return self._action(change, Outcome.APPLIED, seconds, revision=revision)

    def _require_in_force(self, config: ModelConfig) -> None:
        """Refuse to change a file that is not in force: its edit would be loaded along."""
        shown = self._client.config(config.name)
        if not self._baseline.of(config.name, shown).edited:
            return
        raise Edited(
            f"{config.name}: config.pbtxt was edited by hand and is not in force: it says "
            f"{settings_of(groups.resolved(config, shown))}, but Triton serves "
            f"{settings_of(shown)}.",
            hint=edited_hint(config.name),
        )

    def _require_ours(self, model: str, *texts: str) -> None:
        """Refuse to replace a file that is none of these texts: somebody edits it just now."""
        if self._repository.config_text(model) not in texts:
            raise Edited(
                f"{model}: config.pbtxt was edited by hand while it was to be changed.",
                hint=edited_hint(model),
            )

    def _before(self, change: Change) -> tuple[Answers, bool]:
        """How the model answers now, and whether it must answer its largest batch afterwards.

        A change of nothing but the count does not ask that: a large batch waits in the queue that
        more instances are to shorten.
        """
        single = self._prober.single(change.old)
        old, new = settings_of(change.old), settings_of(change.new)
        same = replace(old, instances=new.instances) == new
        if single is Answers.NEVER or same or not model_config.can_rebatch(change.new):
            return single, False
        raised = change.new.max_batch_size > change.old.max_batch_size
        return single, self._prober.full(change.old) or raised

    def _remember(
        self, model: str, unproven: Pending | None, previous: str, old: Revision, new: Revision
    ) -> None:
        """The record of the change that is about to be written; refuses to overwrite an edit."""
        self._require_ours(model, previous)
        answered = self._prober.known(model)
        pending.begin(self._repository, model, unproven, old=old, new=new, answered=answered)

    def _forget(self, model: str, unproven: Pending | None) -> None:
        """After a rollback: the record of the change before, where that was not proven."""
        pending.again(self._repository, model, unproven if self._watched else None)

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
        self,
        desired: ModelConfig,
        *,
        single: Answers,
        full: bool = False,
        around: Sequence[str] = (),
    ) -> None:
        """Load, read back, look at the ensembles around it; probe where the model answered."""
        self._client.load(desired.name)
        failpoint("actuator.after_load")
        shown = self._client.config(desired.name)
        if not is_settled(desired, shown):
            raise ApplyRejected(
                f"{desired.name}: Triton took the load but serves {settings_of(shown)}, "
                f"must be {settings_of(groups.resolved(desired, shown))}.",
                hint="Another writer may be loading this model; there must be only one.",
            )
        self._require_served(desired.name, around)
        self._prober.prove(desired, single=single, full=full)
        failpoint("actuator.after_probe")

    def _roll_back(
        self,
        model: str,
        previous: str,
        written: str,
        *,
        single: Answers,
        tick_id: str,
        cause: ConchError,
    ) -> None:
        """The previous bytes back on disk and in force; an edit since the write stays."""
        gone = isinstance(cause, TritonUnavailable) and not self._client.live()
        self._fence()
        self._require_ours(model, previous, written)
        self._repository.restore(
            model, previous, reason=f"rolled back: {cause.message}", tick_id=tick_id
        )
        failpoint("actuator.rolled_back")
        if gone:
            raise ServerGone(
                f"{model}: the server stopped answering during the change; the config before it "
                f"is back on disk. {cause.message}",
                hint="The change is not tried again for a while; the server's log says more.",
            ) from cause
        config = self._repository.read_config(model)
        try:
            self._load_and_verify(config, single=single)
        except InferenceFailed as error:
            self._heal(config, error)

    def _heal(self, config: ModelConfig, error: ConchError) -> None:
        """Unload and load a model that answers none of several probes: a dead stub.

        A plain load does not heal that. A model that answers some is never unloaded.
        """
        log.error("model.not_answering", model=config.name, error=error.message)
        if not self._prober.answers_none(config):
            return
        heal.unload(self._client, config.name)
        self._load_and_verify(config, single=Answers.SOMETIMES)

    def _undo_drift(self, model: str, written: str, refused: ApplyRejected) -> None:
        """The newest revision that says what Triton serves, back on disk; an edit stays."""
        log_of = self._repository.revisions(model)
        shown = self._client.config(model)
        self._require_ours(model, written)
        for revision in reversed(log_of.all()):
            text = log_of.text(revision.number)
            with contextlib.suppress(ConfigError):
                if is_settled(model_config.parse(text), shown):
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
            refused_rows=cause.rows if isinstance(cause, RowsRefused) else None,
        )


def _leaves_count_open(config: ModelConfig) -> bool:
    """Whether the file alone does not say how many instances there are."""
    counts = [group.count for group in config.instance_group]
    return not counts or min(counts) < 1
