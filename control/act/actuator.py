"""Apply one change and prove it, or bring the previous bytes back.

Theory of operation. Revision → pending record → atomic write of ``config.pbtxt`` → gRPC load → read
back → probes, and a look at the ensembles around the model. Until the load, Triton serves the old
config whatever happens; a load that fails leaves it serving. After any failure ``repair`` brings
the previous bytes back. What a person wrote and did not load is never loaded along with a change,
nor overwritten.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import structlog

from conch.errors import ApplyRejected, ConchError
from conch.failpoint import failpoint
from control.act import outcome
from control.act.around import Around
from control.act.baseline import Baseline, is_settled, require_ours
from control.act.knobs import loaded_anew, settings_of, with_settings
from control.act.proof import Answers, Prober
from control.act.repair import Repair
from control.action import Action, Change, Edited, Outcome, ServerGone
from control.core.types import Settings
from serving import groups, model_config, pending
from serving.client import TritonClient
from serving.model_config import ModelConfig, ReloadKind
from serving.pending import Pending
from serving.repository import Repository
from serving.revisions import Revision

log = structlog.get_logger()


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
        self._around = Around(repository, client)
        self._repair = Repair(
            repository,
            client,
            prober=self._prober,
            around=self._around,
            load=self._load_and_verify,
            fence=fence,
        )

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
            new = loaded_anew(new)
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
        """Load what we wrote where Triton serves something else; see ``Repair.reconcile``."""
        with self._repository.lock(model):
            return self._repair.reconcile(model)

    def _apply(
        self, model: str, wanted: Settings, *, reason: str, tick_id: str, fresh: bool
    ) -> Action:
        """``apply`` with the model's lock held."""
        previous = self._repository.config_text(model)
        change = self.plan(model, wanted, fresh=fresh)
        self._baseline.require_in_force(change.old, self._client.config(model))
        if change.kind is ReloadKind.NONE:
            return outcome.action(change, Outcome.UNCHANGED, 0.0, revision=0)
        single, full = self._prober.before(change)
        around = self._around.served(model)
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
            # A load would bring an edit of just now with it.
            require_ours(self._repository, model, written)
            self._load_and_verify(change.new, single=single, full=full, around=around)
        except ConchError as error:
            log.error("config.rejected", model=model, tick_id=tick_id, error=error.message)
            try:
                self._repair.roll_back(
                    model, previous, written, single=single, tick_id=tick_id, cause=error
                )
            except (Edited, ServerGone):
                self._forget(model, unproven)
                raise
            self._forget(model, unproven)
            self._around.bring_back(model, around)
            seconds = self._clock() - start_s
            newest = self._repository.revisions(model).newest()
            revision = newest.number if newest else 0
            return outcome.action(
                change, Outcome.ROLLED_BACK, seconds, revision=revision, cause=error
            )
        remember = pending.loaded if self._watched else pending.settle
        remember(self._repository, model)
        seconds = self._clock() - start_s
        log.info("config.applied", model=model, kind=change.kind.value, seconds=round(seconds, 3))
        return outcome.action(change, Outcome.APPLIED, seconds, revision=revision)

    def _remember(
        self, model: str, unproven: Pending | None, previous: str, old: Revision, new: Revision
    ) -> None:
        """The record of the change that is about to be written; refuses to overwrite an edit."""
        require_ours(self._repository, model, previous)
        answered = self._prober.known(model)
        pending.begin(self._repository, model, unproven, old=old, new=new, answered=answered)

    def _forget(self, model: str, unproven: Pending | None) -> None:
        """After a rollback: the record of the change before, where that was not proven."""
        pending.again(self._repository, model, unproven if self._watched else None)

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
        self._around.require(desired.name, around)
        self._prober.prove(desired, single=single, full=full)
        failpoint("actuator.after_probe")
