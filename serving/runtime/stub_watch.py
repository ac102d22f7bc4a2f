"""Finds the dead Python stubs of a local Triton while nothing else happens, and has them healed.

Theory of operation. Each look lists the children of tritonserver (``stubs``). A model with a dead
one, or with fewer than before, is examined on a thread of its own: under the model's lock, so that
no change of a controller is under way, the processes are looked at anew and counted against what
Triton's config in force says. Only a model that is served with fewer live instances than that is
healed. What was examined and found well is not examined again until its processes change.
A copy that a heal replaced can stay for ever, as Triton 2.51 never unloads one that failed a
request for a dead stub; what of it idles after a while is ended, or its memory would be lost.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil
import structlog

from conch.errors import ConchError, RepositoryError, TritonUnavailable
from serving import heal, model_config
from serving.client import TritonClient
from serving.heal import LeftUnloaded, Way
from serving.model_config import ModelConfig
from serving.repository import Repository
from serving.runtime import stubs
from serving.runtime.stubs import Stub

_log = structlog.get_logger()

GONE_S = 5.0
"""How long fewer instances than before, with none dead, may be a change that somebody makes."""
LEFT_S = 30.0
"""How long a replaced copy may still answer what it was given: three times the drain of a stop."""
_IDLE_CPU_S = 0.02
"""Of CPU time between two looks at a replaced copy; a stub that waits uses less in a minute."""
_IDLE_LOOKS_S = 5.0
_QUIET_S = 60.0
"""Heals that lie further apart than this have nothing to do with each other."""
_LONGEST_PAUSE_S = 30.0
_CALL_AGAIN_S = 1.0
_SETTLE_S = 5.0
_POLL_S = 0.1


@dataclass(slots=True, kw_only=True)
class _Past:
    """What was seen of one model.

    Attributes:
        suspected_s: since when something is missing; None while nothing is.
        well: the processes that were examined and found well.
        complete: instances that were there after a heal, by the groups of the config in force.
        left: how a heal has left it unloaded; None while none has.
        heals: how many came one upon the other.
        next_s: not to be examined before.
    """

    suspected_s: float | None = None
    well: frozenset[tuple[int, bool]] = frozenset()
    complete: tuple[ModelConfig, int] | None = None
    left: LeftUnloaded | None = None
    heals: int = 0
    healed_s: float = float("-inf")
    next_s: float = float("-inf")
    busy: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanting:
    """What a model lacks: of the instances that its groups ask for, so many are dead."""

    groups: ModelConfig
    expected: int
    dead: int


@dataclass(slots=True, kw_only=True)
class _Left:
    """A process of a replaced copy."""

    since_s: float
    looked_s: float
    cpu_s: float


class StubWatch:
    """The stubs of one Triton at a time; ``look`` is called twice a second or more."""

    def __init__(
        self,
        repository: Repository,
        backends: frozenset[str],
        connect: Callable[[], TritonClient],
        stopping: threading.Event,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing was seen yet.

        Args:
            repository: that this Triton was started on.
            backends: whose instances are stubs (``stubs.backends``).
            connect: makes a client with the admin key.
            stopping: ends a heal that waits.
            clock: monotonic, s.
        """
        self._repository = repository
        self._backends = backends
        self._connect = connect
        self._stopping = stopping
        self._clock = clock
        self._triton = 0
        self._stubs: dict[int, Stub] = {}
        self._left: dict[int, _Left] = {}
        self._models: dict[str, _Past] = {}
        self._named: set[str] = set()

    def knows(self, model: str) -> bool:
        """Whether a stub of the model was ever seen: then its processes tell when one dies."""
        return model in self._named

    def look(self, triton: int) -> None:
        """One look; a heal that it leads to goes on after it, on a thread of its own."""
        if triton != self._triton:
            self._triton, self._stubs, self._left, self._models = triton, {}, {}, {}
            self._named = set()
        before, self._stubs = self._stubs, stubs.look(triton, self._repository.root, self._stubs)
        self._named |= {stub.model for stub in self._stubs.values()}
        now_s = self._clock()
        self._end_left(now_s)
        suspects = stubs.suspects(self._current(before), self._current(self._stubs))
        for model in suspects:
            past = self._models.setdefault(model, _Past())
            if past.suspected_s is None:
                past.suspected_s = now_s
        for model, past in list(self._models.items()):
            if self._is_due(model, past, now_s):
                thread = threading.Thread(
                    target=self._examine, args=(model, triton), name="triton-heal", daemon=True
                )
                past.busy = True
                try:
                    thread.start()
                except BaseException:  # no more threads: at the next look
                    past.busy = False
                    raise

    def _is_due(self, model: str, past: _Past, now_s: float) -> bool:
        """Whether a model is to be examined now: missed in two looks, and not known to be well."""
        if past.busy or past.suspected_s is None or now_s < past.next_s:
            return False
        seen = self._current(self._stubs)
        if past.left is None and _picture(seen, model) == past.well:
            past.suspected_s = None
            return False
        dead = any(not stub.alive for stub in _of(seen, model))
        return now_s > past.suspected_s if dead else now_s - past.suspected_s >= GONE_S

    def _examine(self, model: str, triton: int) -> None:
        """Look closer, and heal; nothing that goes wrong here may end the watch."""
        past = self._models.setdefault(model, _Past())
        try:
            # What was seen before the question is what is found well: another may die meanwhile.
            unknown = _picture(self._see(triton), "")
            with self._connect() as client:
                for name in [model] if model else sorted(client.index()):
                    well = self._mend(client, name, triton)
            past.well = well if model else unknown
            past.suspected_s = None
        except RepositoryError as error:  # somebody changes it: again when they are done
            _log.warning("model.heal_waits", model=model, reason=error.message)
        except TritonUnavailable as error:
            past.next_s = self._clock() + _CALL_AGAIN_S
            _log.warning("model.heal_waits", model=model, reason=error.message)
        except Exception as error:
            past.heals += 1
            past.next_s = self._clock() + _pause_s(past.heals + 1)
            _log.error("model.heal_failed", model=model, reason=str(error))
        finally:
            past.busy = False

    def _mend(self, client: TritonClient, model: str, triton: int) -> frozenset[tuple[int, bool]]:
        """Heal the model if, with its lock held, it still has fewer instances than it should.

        Gives the processes with which it was last seen.
        """
        past = self._models.setdefault(model, _Past())
        if past.left is not None:
            heal.load_again(client, self._repository, model, past.left)
            past.left = None
            _log.warning("model.healed", model=model, way=Way.RELOADED.value)
        seen = self._see(triton)
        if not self._wanting(client, model, seen):
            return _picture(seen, model)
        start_s = self._clock()
        with heal.held(self._repository, model):
            seen = self._see(triton)
            wanting = self._wanting(client, model, seen)
            if not wanting or self._stopping.is_set() or triton != self._triton:
                return _picture(seen, model)
            _log.error("model.stub_dead", model=model, dead=wanting.dead, of=wanting.expected)
            try:
                way = heal.heal(
                    client,
                    self._repository,
                    model,
                    answering=wanting.dead < wanting.expected,
                    room=_has_room(_of(seen, model), wanting.expected),
                )
            except LeftUnloaded as error:  # nothing of it is to be seen from now on
                past.left, past.suspected_s = error, self._clock()
                raise
            self._leave([stub.pid for stub in _of(seen, model)])
            seen = self._settled(client, model, triton)
            count = model_config.instance_count(wanting.groups)
            alive = stubs.alive_count(seen, model, client.ready_versions(model), count)
            if alive and all(stub.alive for stub in _of(seen, model)):
                past.complete = (wanting.groups, alive)
        now_s = self._clock()
        past.heals = past.heals + 1 if now_s - past.healed_s < _QUIET_S else 1
        past.healed_s = now_s
        past.next_s = now_s + _pause_s(past.heals)
        _log.warning(
            "model.healed",
            model=model,
            way=way.value,
            instances=alive,
            seconds=round(now_s - start_s, 2),
        )
        return _picture(seen, model) if alive >= wanting.expected else frozenset()

    def _wanting(self, client: TritonClient, model: str, seen: list[Stub]) -> _Wanting | None:
        """What a served model lacks; None when it is well, or its instances cannot be seen."""
        versions = client.ready_versions(model)
        if not versions:
            return None
        try:
            config = client.config(model)
        except TritonUnavailable:
            raise
        except ConchError:  # unloaded between the two
            return None
        if config.backend not in self._backends:
            return None
        groups = _groups(config)
        complete = self._models.setdefault(model, _Past()).complete
        count = model_config.instance_count(config)
        expected = count * len(versions)
        if complete is not None and complete[0] == groups:
            expected = min(expected, complete[1])
        alive = stubs.alive_count(seen, model, versions, count)
        if alive >= expected:
            return None
        if not self.knows(model) and stubs.has_strangers(self._triton, self._repository.root):
            return None  # they may be its own
        return _Wanting(groups=groups, expected=expected, dead=expected - alive)

    def _settled(self, client: TritonClient, model: str, triton: int) -> list[Stub]:
        """What runs once all instances are there, or after a while."""
        until_s = self._clock() + _SETTLE_S
        while True:
            seen = self._see(triton)
            if not self._wanting(client, model, seen) or self._clock() > until_s:
                return seen
            self._stopping.wait(_POLL_S)

    def _see(self, triton: int) -> list[Stub]:
        """What runs now, without replaced copies; the watch's own looks are not disturbed."""
        return self._current(stubs.look(triton, self._repository.root, self._stubs))

    def _current(self, seen: dict[int, Stub]) -> list[Stub]:
        """Without what belongs to a copy that was replaced."""
        return [stub for pid, stub in seen.items() if pid not in self._left]

    def _leave(self, pids: list[int]) -> None:
        """These belong to a replaced copy from now on."""
        now_s = self._clock()
        for pid in pids:
            self._left[pid] = _Left(since_s=now_s, looked_s=now_s, cpu_s=_cpu_s(pid))

    def _end_left(self, now_s: float) -> None:
        """Forget what is gone of replaced copies; end what idles on and on."""
        for pid, left in list(self._left.items()):
            stub = self._stubs.get(pid)
            if stub is None:
                del self._left[pid]
            elif stub.alive and now_s - left.looked_s >= _IDLE_LOOKS_S:
                used_s, left.cpu_s = left.cpu_s, _cpu_s(pid)
                left.looked_s = now_s
                if now_s - left.since_s >= LEFT_S and left.cpu_s - used_s < _IDLE_CPU_S:
                    _log.warning("stub.left_behind_ended", model=stub.model, pid=pid)
                    try:
                        psutil.Process(pid).kill()
                    except psutil.Error:
                        continue


def _of(seen: list[Stub], model: str) -> list[Stub]:
    """The model's stubs, and those that nobody knows."""
    return [stub for stub in seen if stub.model in (model, "")]


def _picture(seen: list[Stub], model: str) -> frozenset[tuple[int, bool]]:
    """What is to be seen of the model."""
    return frozenset((stub.pid, stub.alive) for stub in _of(seen, model))


def _has_room(copy: list[Stub], instances: int) -> bool:
    """Whether a second copy of so many instances fits into what memory is left."""
    largest = max((stub.resident_bytes for stub in copy), default=0)
    return instances * largest < int(psutil.virtual_memory().available)


def _groups(config: ModelConfig) -> ModelConfig:
    """What says how many instances there are."""
    return ModelConfig(instance_group=config.instance_group, version_policy=config.version_policy)


def _cpu_s(pid: int) -> float:
    """CPU time of a process; infinite when it cannot be told."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return float("inf")
    return float(times.user + times.system)


def _pause_s(heals: int) -> float:
    """Before the next heal, after so many in a row: 0 s, 1 s, 2 s, 4 s, ... 30 s."""
    return 0.0 if heals <= 1 else min(_LONGEST_PAUSE_S, 2.0 ** (heals - 2))
