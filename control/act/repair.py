"""What is not as it should be is put in order: a refused change, a drift, a model that is dead.

Theory of operation. Any failure after a write brings the previous bytes back, loads them and probes
again. A controller that dies between write and load leaves a whole file on disk and the old model
serving; the next start finds the two different and loads (``reconcile``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Protocol

import structlog

from conch.errors import ApplyRejected, ConchError, ConfigError, TritonUnavailable
from conch.failpoint import failpoint
from control.act.around import Around
from control.act.baseline import is_settled, require_ours
from control.act.proof import Answers, Prober
from control.action import ServerGone
from serving import heal, model_config
from serving.client import InferenceFailed, TritonClient
from serving.model_config import ModelConfig
from serving.repository import Repository
from serving.revisions import edited_hint, sha256

log = structlog.get_logger()


class Load(Protocol):
    """Has Triton load what is on disk, and proves it; an actuator does."""

    def __call__(self, desired: ModelConfig, *, single: Answers, around: list[str] = ...) -> None:
        """Load the model of this config; see there."""


class Repair:
    """Brings the configs and the models of one server in order, each under its model's lock."""

    def __init__(
        self,
        repository: Repository,
        client: TritonClient,
        *,
        prober: Prober,
        around: Around,
        load: Load,
        fence: Callable[[], None],
    ) -> None:
        """By the hands of an actuator."""
        self._repository = repository
        self._client = client
        self._prober = prober
        self._around = around
        self._load_and_verify = load
        self._fence = fence

    def reconcile(self, model: str) -> bool:
        """Load what we wrote where Triton serves something else; gives whether it did.

        A controller that died between write and load leaves this behind. Where Triton refuses what
        is on disk, the newest revision that says what Triton serves comes back. A text that is no
        revision is a person's: it is left for them to load.

        Raises:
            ConfigError: when the config on disk is broken; the old model goes on serving.
            ApplyRejected: when Triton refuses it and no revision says what is in force.
        """
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
        around = self._around.served(model)
        try:
            single = self._prober.single(desired)
            self._load_and_verify(desired, single=single, around=around)
        except InferenceFailed as error:
            self.heal(desired, error)
            self._around.bring_back(model, around)
        except ApplyRejected as error:
            self._undo_drift(model, text, error)
            self._around.bring_back(model, around)
        return True

    def roll_back(
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
        require_ours(self._repository, model, previous, written)
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
            self.heal(config, error)

    def heal(self, config: ModelConfig, error: ConchError) -> None:
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
        require_ours(self._repository, model, written)
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


def _leaves_count_open(config: ModelConfig) -> bool:
    """Whether the file alone does not say how many instances there are."""
    counts = [group.count for group in config.instance_group]
    return not counts or min(counts) < 1
