"""Synthetic inferences before and after a change: what the model answered before, it must after.

One answer proves little, and one error too: so each question is asked several times, and a model
that fails now and then in good health is held against what it did before the change.
"""

from __future__ import annotations

import contextlib
import enum
from dataclasses import replace

import structlog

from conch.errors import TritonUnavailable
from control.act.knobs import settings_of
from control.action import Change
from serving import model_config, probe
from serving.client import InferenceFailed, TritonClient
from serving.model_config import ModelConfig

log = structlog.get_logger()

PROBES = 3
MOST_BYTES = 256 * 2**20
"""A largest batch of more input than this is not asked: it would cost more than it tells."""


class Answers(enum.Enum):
    """How a model answers its probes."""

    ALWAYS = "always"
    SOMETIMES = "sometimes"
    NEVER = "never"


class RowsRefused(InferenceFailed):
    """The model answers one row, and refuses a batch of so many."""

    def __init__(self, message: str, *, rows: int) -> None:
        super().__init__(
            message, hint="The model itself takes no batch of this size; it is not asked again."
        )
        self.rows = rows


class Prober:
    """Asks the models of one server, and remembers what they answered before the first change."""

    def __init__(self, client: TritonClient) -> None:
        """Nothing is asked yet."""
        self._client = client
        self._single: dict[str, Answers] = {}
        self._full: dict[tuple[str, int], bool] = {}

    def single(self, config: ModelConfig) -> Answers:
        """How the model answers one row, asked once a model: only then can it be a proof.

        A sequence or decoupled model, or one that wants real content, refuses it in good health.
        Asked once, as the question waits in the queue that a scale up is to shorten.
        """
        if config.name not in self._single:
            self._single[config.name] = self._ask(config)
        return self._single[config.name]

    def known(self, model: str) -> str:
        """How it answered, as a word for ``remembered``; empty where it was not asked."""
        return self._single[model].value if model in self._single else ""

    def remembered(self, model: str, word: str) -> None:
        """What an earlier one knew: a change that is not proven may have broken the model since."""
        with contextlib.suppress(ValueError):  # nobody knows
            self._single.setdefault(model, Answers(word))

    def full(self, config: ModelConfig) -> bool:
        """Whether the model answers its largest batch; asked once for each size."""
        key = (config.name, int(config.max_batch_size))
        if key not in self._full:
            try:
                self._full[key] = self._rows(config)
            except InferenceFailed as error:
                log.warning("probe.no_full_batch", model=config.name, error=error.message)
                self._full[key] = False
        return self._full[key]

    def before(self, change: Change) -> tuple[Answers, bool]:
        """How the model answers now, and whether it must answer its largest batch afterwards.

        A change of nothing but the count does not ask that: a large batch waits in the queue that
        more instances are to shorten.
        """
        single = self.single(change.old)
        old, new = settings_of(change.old), settings_of(change.new)
        same = replace(old, instances=new.instances) == new
        if single is Answers.NEVER or same or not model_config.can_rebatch(change.new):
            return single, False
        raised = change.new.max_batch_size > change.old.max_batch_size
        return single, self.full(change.old) or raised

    def prove(self, config: ModelConfig, *, single: Answers, full: bool) -> None:
        """Ask the model after a change.

        Args:
            config: in force.
            single: how it answered one row before.
            full: whether it must answer its largest batch.

        Raises:
            RowsRefused: when it refuses only the largest batch.
            InferenceFailed: when it answers one row worse than before.
            TritonUnavailable: when the server is gone; one that is only slow waits behind a queue,
                which is no fault of the change.
        """
        if single is Answers.NEVER:
            return
        answered, asked, failed = self._several(config, PROBES)
        if failed and single is Answers.SOMETIMES and answered == 0:
            answered, asked, failed = self._several(config, PROBES)
        if failed and (single is Answers.ALWAYS or answered == 0):
            raise InferenceFailed(
                f"{config.name}: {asked - answered} of {asked} probes after the change were not "
                f"answered, as all were before: {failed.message}",
                hint="The server's log says more.",
            )
        if not full or asked < PROBES:  # it waits behind a queue already
            return
        tries = 1 if single is Answers.ALWAYS else PROBES
        for last in range(tries - 1, -1, -1):
            try:
                self._rows(config)
                break
            except InferenceFailed as error:
                if last:
                    continue
                rows = int(config.max_batch_size)
                raise RowsRefused(
                    f"{config.name}: a batch of {rows} rows, its max_batch_size, is refused: "
                    f"{error.message}",
                    rows=rows,
                ) from error
        self._full[(config.name, int(config.max_batch_size))] = True

    def answers(self, config: ModelConfig) -> bool | None:
        """Whether any of several probes is answered; None where they wait.

        Raises:
            TritonUnavailable: when the server is gone.
        """
        answered, asked, _ = self._several(config, PROBES)
        return True if answered else (None if asked < PROBES else False)

    def answers_none(self, config: ModelConfig) -> bool:
        """Whether not one of several probes is answered, with errors: a dead model."""
        return self.answers(config) is False

    def _ask(self, config: ModelConfig) -> Answers:
        """Several questions of one row; a slow model is not a wrong one."""
        try:
            answered, asked, failed = self._several(config, PROBES)
        except TritonUnavailable:
            return Answers.ALWAYS
        if failed is None:
            return Answers.ALWAYS
        log.warning(
            "probe.no_baseline",
            model=config.name,
            answered=answered,
            asked=asked,
            error=failed.message,
        )
        return Answers.SOMETIMES if answered else Answers.NEVER

    def _several(self, config: ModelConfig, count: int) -> tuple[int, int, InferenceFailed | None]:
        """(answered, asked, the last error) of so many single rows; fewer where they wait."""
        answered, failed = 0, None
        for asked in range(count):
            try:
                probe.probe(self._client, config)
                answered += 1
            except InferenceFailed as error:
                failed = error
            except TritonUnavailable as error:
                self._only_slow(config, error)
                return answered, asked, failed
        return answered, count, failed

    def _rows(self, config: ModelConfig) -> bool:
        """Whether the largest batch is answered; False where it is not asked, or not in time."""
        rows = int(config.max_batch_size)
        if rows < 2 or rows * probe.row_bytes(config) > MOST_BYTES:
            return False
        try:
            probe.probe(self._client, config, rows=rows)
        except TritonUnavailable as error:
            self._only_slow(config, error)
            return False
        return True

    def _only_slow(self, config: ModelConfig, error: TritonUnavailable) -> None:
        """A log line for one that waits behind a queue; the error for a server that is gone."""
        if not self._client.live():
            raise error
        log.warning("probe.timed_out", model=config.name, error=error.message)
