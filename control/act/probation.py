"""What becomes of a change after it ended: watched until it is proven, or taken back.

Theory of operation. A change can kill the server seconds after it was loaded, and at each start
again. So each change leaves a pending record (``serving.pending``), and a thread of its own asks
the server a few times a second, as a tick may hang with it. A server that is gone, silent for
``SILENT_S``, or restarted while a change is not proven points at that change: the previous file
comes back on disk first, the loop loads it once the server answers, and the core blocks what was
taken back. A change is proven once the server has answered all through ``SETTLED_S`` and the model
answers its probe. ``conch serve`` takes changes back by the same records; that is noticed here.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import psutil
import structlog

from conch.errors import ConchError, RepositoryError, TritonUnavailable
from control.act.knobs import settings_of
from control.act.outcome import said
from control.act.proof import Answers, Prober
from control.core.types import Observation, Settings
from serving import groups, model_config, pending
from serving.client import TritonClient
from serving.model_config import ModelConfig
from serving.pending import Pending
from serving.repository import Repository

log = structlog.get_logger()

SETTLED_S = 15.0
"""A server that a config kills has died by then: most do in their first second under load."""
SILENT_S = 2.0
BUSY_S = 10.0
"""So long a local server may be silent whose process runs: a full machine answers late."""
POLL_S = 0.25
_LONGEST_S = 4 * SETTLED_S
"""A model that answers no probe for so long, but no error either, only waits behind its queue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenBack:
    """A change that was taken back: the previous config is on disk.

    Attributes:
        model: whose.
        settings: that are back; None where they cannot be read.
        bad: that were taken back; None where they cannot be read.
        why: in words.
    """

    model: str
    settings: Settings | None
    bad: Settings | None
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Watched:
    """A change that is not proven."""

    record: Pending
    since_s: float
    counts: tuple[float, int] | None = None


class Probation:
    """Watches the changes of one repository on one server; use it as a context manager."""

    def __init__(
        self,
        repository: Repository,
        client: TritonClient,
        prober: Prober | None = None,
        *,
        pid: Callable[[], int | None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is watched yet.

        Args:
            repository: with the records.
            client: with a short deadline, of its own.
            prober: knows what the models answered before.
            pid: of a local server that runs now; None where there is none, or it is elsewhere.
            clock: seconds.
        """
        self._repository = repository
        self._client = client
        self._prober = prober or Prober(client)
        self._clock = clock
        self._pid = pid
        self._process: psutil.Process | None = None
        self._silent_since_s: float | None = None
        self._watched: dict[str, _Watched] = {}
        self._taken_back: list[TakenBack] = []
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Probation:
        self._thread = threading.Thread(target=self._run, name="conch-probation", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()  # not waited for: it may hang with the server

    def adopt(self, model: str) -> bool:
        """Go on with what an earlier controller left of the model; to be called before it is asked.

        A change that Triton serves is watched like our own; one that it does not serve goes back.
        Of one that is old, or whose file is no longer the record's, there is nothing to prove: only
        the record goes.

        Returns:
            Whether what was before a change is on disk again.

        Raises:
            RepositoryError: when another process keeps the model's lock, or the disk refuses.
        """
        self._meet()
        with self._repository.lock(model):
            record = pending.read(self._repository, model)
            if record is None:
                pending.settle(self._repository, model)  # a damaged one
                return False
            self._adopt(model, record)
            return pending.is_on_disk(self._repository, replace(record, revision=record.previous))

    def _adopt(self, model: str, record: Pending) -> None:
        """``adopt`` of a record with the model's lock held."""
        if record.reverted:
            self._noticed(record)
            return
        if not pending.is_on_disk(self._repository, record) or pending.is_old(record):
            pending.settle(self._repository, model)
            return
        self._prober.remembered(model, record.answered)
        served = self._serves(model)
        epoch = pending.epoch_of(self._repository)
        mine = replace(record, epoch=epoch, loaded=record.loaded or served)
        pending.write(self._repository, mine)
        self._watch(mine)
        if not served:
            self._take_back(mine, "the server did not serve it when control started")

    def begins(self, model: str) -> None:
        """A change of the model begins: the actuator looks after it until it ends."""
        with self._lock:
            self._watched.pop(model, None)
        self._recorded(model)
        self._meet()

    def ended(self, model: str) -> None:
        """A change of the model ended; what is recorded of it now is watched from here on."""
        record = self._recorded(model)
        if record is not None:
            self._watch(record)

    def looked(self, model: str, seen: Observation) -> None:
        """Take in a look: counters and statistics that both begin anew are of a new server."""
        if seen.counters is None or seen.statistics is None:
            return
        counts = (seen.counters.success, seen.statistics.success_count)
        with self._lock:
            watched = self._watched.get(model)
            if watched is None:
                return
            before = watched.counts
            self._watched[model] = replace(watched, counts=counts)
        if before is not None and counts[0] < before[0] and counts[1] < before[1]:
            self._blame("the server was restarted")

    def taken_back(self) -> list[TakenBack]:
        """What was taken back since the last call."""
        with self._lock:
            found, self._taken_back = self._taken_back, []
        return found

    def unproven(self) -> list[str]:
        """The models whose last change is not proven yet."""
        with self._lock:
            return sorted(self._watched)

    def poll(self) -> None:
        """One look at the server and the records; the thread's work."""
        with self._lock:
            watched = dict(self._watched)
        if not watched:
            self._silent_since_s = None
            return
        why = self._gone()
        if why:
            self._blame(why)
            return
        for model, one in watched.items():
            if self._recorded(model) != one.record:  # taken back, another change, or by hand
                self._drop(one.record)
            elif self._silent_since_s is None:
                self._judge(one)

    def _run(self) -> None:
        """Poll until the end; no error ends it."""
        while not self._stop.wait(POLL_S):
            try:
                self.poll()
            except Exception as error:  # a watch that ends sees nothing
                log.error("probation.failed", error=said(error))

    def _meet(self) -> None:
        """Know the server's process before a change, so that its end is seen after it."""
        if self._process is None or not _runs(self._process):
            self._process = _process(self._pid())

    def _gone(self) -> str:
        """Why the server is taken for gone; empty where it is not."""
        if self._process is not None and not _runs(self._process):
            self._process = None
            return "the server died"
        if self._client.live():
            self._silent_since_s = None
            return ""
        now_s = self._clock()
        if self._silent_since_s is None:
            self._silent_since_s = now_s
        patience_s = BUSY_S if self._works() else SILENT_S
        if now_s - self._silent_since_s <= patience_s:
            return ""
        return f"the server has not answered for {patience_s:g} s"

    def _works(self) -> bool:
        """Whether the server is a local process that runs and was not stopped."""
        try:
            status = self._process.status() if self._process is not None else None
        except psutil.Error:
            return False
        return status not in (None, psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)

    def _judge(self, one: _Watched) -> None:
        """Settle a change that has been in force for long enough, or take it back."""
        waited_s = self._clock() - one.since_s
        if waited_s < SETTLED_S:
            return
        answers = self._answers(one.record.model)
        if answers is False:
            self._take_back(one.record, "the model no longer answers")
        elif answers or waited_s >= _LONGEST_S:
            self._settle(one.record)

    def _settle(self, record: Pending) -> None:
        """The change has proved itself, unless another has begun since."""
        try:
            settled = pending.settle_this(self._repository, record)
        except RepositoryError:  # somebody is at the model's files: at the next poll
            return
        self._drop(record)
        if settled:
            log.info("change.proven", model=record.model, revision=record.revision)

    def _serves(self, model: str) -> bool:
        """Whether the server is known to serve what is on disk."""
        with contextlib.suppress(ConchError):
            shown = self._client.config(model)
            meant = groups.resolved(self._repository.read_config(model), shown)
            return settings_of(meant) == settings_of(shown)
        return False

    def _recorded(self, model: str) -> Pending | None:
        """The record of a change that is in force; of one that was taken back, the core is told."""
        record = pending.read(self._repository, model)
        if record is None or not record.reverted:
            return record
        self._noticed(record)
        return None

    def _answers(self, model: str) -> bool | None:
        """Whether the model answers as before; None where it only waits."""
        try:
            config = self._repository.read_config(model)
            if self._prober.single(config) is Answers.NEVER:
                return True
            return self._prober.answers(config)
        except TritonUnavailable:
            return None
        except ConchError:  # a file that a person broke: theirs, and not ours to take back
            return True

    def _blame(self, why: str) -> None:
        """Take back every change that is not proven."""
        with self._lock:
            watched = list(self._watched.values())
        for one in watched:
            self._take_back(one.record, why)

    def _take_back(self, record: Pending, why: str) -> None:
        """The previous file back on disk; what cannot be is left to a person."""
        try:
            done = pending.revert(self._repository, record, why=why)
        except ConchError as error:
            log.error("change.not_taken_back", model=record.model, error=error.message)
            return  # tried again at the next poll
        if done:  # a full disk may have kept that out of the record
            self._noticed(replace(record, reverted=why))
        else:
            self._recorded(record.model)
        self._drop(record)

    def _noticed(self, record: Pending) -> None:
        """A change was taken back, by us or by ``conch serve``: the core is to know it."""
        back = TakenBack(
            model=record.model,
            settings=self._settings(record.model, record.previous),
            bad=self._settings(record.model, record.revision),
            why=record.reverted,
        )
        with self._lock:
            if back not in self._taken_back:  # the thread and the loop may see it at once
                self._taken_back.append(back)
        log.error("change.taken_back", model=back.model, why=back.why)
        self._drop(replace(record, reverted=""))
        with contextlib.suppress(RepositoryError):  # then the next controller is told again
            pending.settle_this(self._repository, record)

    def _settings(self, model: str, number: int) -> Settings | None:
        """The settings of a revision; None where it cannot be read."""
        shown = ModelConfig()
        with contextlib.suppress(ConchError):
            shown = self._client.config(model)
        try:
            text = self._repository.revisions(model).text(number)
            return settings_of(groups.resolved(model_config.parse(text), shown))
        except (ConchError, OSError, ValueError):
            return None

    def _watch(self, record: Pending) -> None:
        """Watch a change from now on."""
        with self._lock:
            self._watched[record.model] = _Watched(record=record, since_s=self._clock())

    def _drop(self, record: Pending) -> None:
        """No longer watch a change; one that was begun since stays watched."""
        with self._lock:
            now = self._watched.get(record.model)
            if now is not None and now.record == record:
                del self._watched[record.model]


def _process(pid: int | None) -> psutil.Process | None:
    """The process; None where there is none."""
    try:
        found = psutil.Process(pid) if pid is not None else None
    except psutil.Error:
        return None
    return found if found is not None and _runs(found) else None


def _runs(process: psutil.Process) -> bool:
    """Whether it is there and no corpse."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
