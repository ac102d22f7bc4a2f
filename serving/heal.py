"""Brings a model back whose Python stubs died: Triton 2.51 does not, and says ready all the while.

Theory of operation. A newer modification time of a version's folder makes the next plain load bring
up a second full copy beside the first and swap, although no byte has changed: instances that live
go on answering until then, and no request is lost but to the dead ones. Where there is no room for
a second copy, or the folder cannot be touched, the model is unloaded and loaded once, and that is
said. A model that still answers is never unloaded for any other reason, nor while the file on disk
is not what is served: if Triton refused to load it, the unload would have ended what was left.
"""

from __future__ import annotations

import contextlib
import enum
import os
import re
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import structlog
from google.protobuf.message import Message

from conch.errors import ApplyRejected, ConchError, TritonUnavailable
from serving import ensembles, hazards, model_config, probe
from serving.client import InferenceFailed, TritonClient
from serving.model_config import ModelConfig
from serving.repository import Repository
from serving.revisions import edited_hint

_log = structlog.get_logger()

UNLOAD_S = 2.0
"""A model with a dead stub stays UNLOADING for ever, and can be loaded anew all the same."""
LOAD_S = 300.0
"""For the load: a slow model with several instances takes minutes."""
ASK_S = 3.0
"""So long a model is probed for a dead stub: it is free for another request once a second."""
ONLY_DEAD_S = 1.2
"""Nobody lives where all that is answered in this time is that a stub is dead."""
PROBE_S = 60.0
"""For the answer to a probe: it waits behind what others sent, of which dead stubs refuse a batch a
second, so that the queue of a busy model grows."""
PAUSE_S = 0.2
"""Between two probes of a model that gets hardly any other requests."""

_A_SECOND_NS = 1_000_000_000

_DEAD_STUB = re.compile(r"stub process\b.*\b(not healthy|unhealthy)", re.IGNORECASE | re.DOTALL)
_NO_ROOM = re.compile(r"memory|alloc|no space left|stub process .*(killed|timeout)", re.IGNORECASE)


class Way(enum.Enum):
    """How a model was brought back."""

    SECOND_COPY = "a second copy was loaded and took over"
    RELOADED = "unloaded and loaded"


class LeftUnloaded(ApplyRejected):
    """It was unloaded to be healed and does not load: whoever looks after it has to try again.

    Attributes:
        around: the ensembles that were served before.
    """

    around: tuple[str, ...] = ()


def is_dead_stub(message: str) -> bool:
    """Whether Triton's message says that the stub which got the request is dead.

    Example:
        >>> is_dead_stub("infer at h:1: Stub process 'm_0_1' is not healthy.")
        True
        >>> is_dead_stub("m: broken on purpose")
        False
    """
    return bool(_DEAD_STUB.search(message))


def heal(
    client: TritonClient,
    repository: Repository,
    model: str,
    *,
    answering: bool = True,
    room: bool = True,
    load_s: float = LOAD_S,
) -> Way:
    """Bring a model with dead stubs back, under its lock, and the ensembles around it.

    Args:
        client: of the server, with the admin key.
        repository: that the server loads from.
        model: whose stubs are dead; that they are is the caller's to know.
        answering: whether some of its instances still answer; then it is unloaded only where a
            second copy cannot be loaded for want of room.
        room: whether there is memory for a second copy.
        load_s: the longest that a load may take.

    Raises:
        RepositoryError: when another process keeps the model's lock.
        ConfigError: when it holds a name that must not reach Triton (``hazards``).
        ApplyRejected: when Triton refuses to load it, or it would have to be unloaded while the
            file on disk is another than is served; what lived before still does, if anything.
        LeftUnloaded: when it had to be unloaded, and does not load.
        TritonUnavailable: when the server does not answer.
    """
    with held(repository, model):
        hazards.require(repository, model)  # it may have been edited since it was loaded
        around = _served(client, ensembles.around(model, ensembles.of(repository)))
        try:
            way = _bring_back(client, repository, model, answering, room, load_s)
        except LeftUnloaded as error:
            error.around = tuple(around)
            raise
        _load_around(client, model, around, load_s)
        return way


def load_again(
    client: TritonClient,
    repository: Repository,
    model: str,
    left: LeftUnloaded,
    *,
    load_s: float = LOAD_S,
) -> None:
    """Load a model that a heal has left unloaded, unless somebody did, and the ensembles around it.

    Raises:
        RepositoryError, ConfigError, ApplyRejected, TritonUnavailable: as ``heal``.
    """
    with held(repository, model):
        hazards.require(repository, model)
        if not _served(client, [model]):
            client.load(model, deadline_s=load_s)
        _load_around(client, model, left.around, load_s)


def _load_around(client: TritonClient, model: str, around: Collection[str], load_s: float) -> None:
    """Load those of the ensembles that went down with the model."""
    for ensemble in sorted(set(around) - set(_served(client, around))):
        _log.warning("ensemble.loaded_again", model=model, ensemble=ensemble)
        client.load(ensemble, deadline_s=load_s)


def unload(client: TritonClient, model: str) -> None:
    """Unload a model of which nothing is left to lose, so that the next load makes it anew.

    That it does not end is no error: see ``UNLOAD_S``. The ensembles around it may go down with it.
    """
    with contextlib.suppress(ConchError):
        client.unload(model, deadline_s=UNLOAD_S)


def heal_by_answers(
    client: TritonClient,
    repository: Repository,
    model: str,
    *,
    rps: float = 0.0,
    for_s: float = ASK_S,
    load_s: float = LOAD_S,
) -> Way | None:
    """Look for dead stubs by the answers alone, and heal them; None where none was met.

    For a server whose processes cannot be seen. To be called when requests of the model fail:
    nothing is done unless a failure's own text tells of a dead stub, and does so again under the
    model's lock, where anybody was answered meanwhile. A model of which any probe is answered is
    unloaded only where, besides, there is no room for a second copy.

    Args:
        client: of the server, with the admin key.
        repository: that the server loads from, as this machine sees it.
        model: the model.
        rps: requests that it gets from others, per second.
        for_s: seconds of probing at most, each of the two times.
        load_s: the longest that a load may take.

    Raises:
        RepositoryError, ApplyRejected, TritonUnavailable: as ``heal``.
    """
    answered_before = client.statistics(model).success_count
    dead, answering = _ask(client, model, rps, for_s)
    if not dead:
        return None
    with held(repository, model):
        # A second probe would wait behind a queue that has grown: not where nobody is answered.
        if answering or client.statistics(model).success_count != answered_before:
            dead, answering = _ask(client, model, rps, for_s)
        if not dead:  # healed meanwhile, or changed by somebody
            return None
        _log.error("model.stub_dead", model=model, answers=answering)
        way = heal(client, repository, model, answering=answering, load_s=load_s)
        _log.warning("model.healed", model=model, way=way.value)
        return way


@contextlib.contextmanager
def held(repository: Repository, model: str) -> Iterator[None]:
    """The model's lock; in a repository that nobody can write there is none, and no change either.

    Raises:
        RepositoryError: when another process keeps it.
    """
    state = repository.state if repository.state.is_dir() else repository.root
    if not os.access(state, os.W_OK):
        yield
        return
    with repository.lock(model):
        yield


def _ask(client: TritonClient, model: str, rps: float, for_s: float) -> tuple[bool, bool]:
    """Whether a probe met a dead stub, and whether any was answered; ends when both are known.

    One after the other: a probe cannot choose its instance, and a dead one holds each request that
    it is given for a second. Never several at a time: Triton joins them, and dies of a model that
    answers two requests with one error object.
    Idle instances take turns, so that twice their number is enough. What others send takes the turn
    of a dead one, too: then there are as many probes as of these, so that every second one is ours.
    """
    config = client.config(model)
    pause_s = min(PAUSE_S, 1.0 / rps) if rps > 0.0 else PAUSE_S
    left = 2 * model_config.instance_count(config) + 3 + int(rps * for_s)
    begun_s = time.monotonic()
    dead = answered = False
    while (asked_s := time.monotonic() - begun_s) < for_s:
        if dead and (answered or asked_s > ONLY_DEAD_S):
            break
        if _probed_dead(client, config):
            dead = True
            continue
        answered, left = True, left - 1
        if dead or left <= 0:
            break
        time.sleep(pause_s)
    return dead, answered


def _probed_dead(client: TritonClient, config: ModelConfig) -> bool:
    """Whether a probe met a dead stub; any other answer is one, also that it was made up."""
    try:
        probe.probe(client, config, deadline_s=PROBE_S)
    except InferenceFailed as error:
        return is_dead_stub(error.message)
    return False


def _bring_back(
    client: TritonClient,
    repository: Repository,
    model: str,
    answering: bool,
    room: bool,
    load_s: float,
) -> Way:
    """A second copy where that can be, else unload and load; the lock is held."""
    edited = _is_edited(client, repository, model)
    why = "" if room else "no memory for a second copy"
    if not why and not _touch(repository, model):
        why = "its version folders cannot be touched"
    way = Way.RELOADED
    if not why:
        try:
            client.load(model, deadline_s=load_s)
            way = Way.SECOND_COPY
        except ApplyRejected as error:
            if answering and not _NO_ROOM.search(error.message):
                raise
            why = error.message
    if way is Way.RELOADED:
        # Who edited the file may ask for more memory than there is, or for what does not load.
        if answering and _is_edited(client, repository, model):
            raise ApplyRejected(
                f"{model}: some instances still answer, so it is not unloaded to be healed: "
                f"config.pbtxt is not what is served ({why.rstrip('.')}).",
                hint=edited_hint(model),
            )
        _log.warning("model.unloaded_to_heal", model=model, reason=why)
        unload(client, model)
        try:
            client.load(model, deadline_s=load_s)
        except ConchError as error:
            raise LeftUnloaded(error.message, hint=error.hint) from error
    if edited:
        _log.warning("config.edit_loaded", model=model, reason="it was on disk when it was healed")
    return way


def _is_edited(client: TritonClient, repository: Repository, model: str) -> bool:
    """Whether the file on disk is another config than is served, as far as can be told."""
    try:
        return not _is_in_force(repository.read_config(model), client.config(model))
    except TritonUnavailable:
        raise
    except ConchError:  # it cannot be read, or nothing is served
        return True


def _is_in_force(said: Message, served: Message) -> bool:
    """Whether all that the one says is so in the other, where Triton has filled in more."""
    for field, value in said.ListFields():
        other = getattr(served, field.name)
        if isinstance(value, Message):
            same = _is_in_force(value, other)
        elif field.message_type is None or field.message_type.GetOptions().map_entry:
            same = value == other
        else:
            same = len(value) == len(other) and all(map(_is_in_force, value, other))
        if not same:
            return False
    return True


def _touch(repository: Repository, model: str) -> bool:
    """Give each version's folder a newer time than it has; whether that could be done."""
    try:
        for version in repository.versions(model):
            folder = repository.root / model / str(version)
            newer_ns, newest_ns = time.time_ns(), _newest_ns(folder)
            if newer_ns <= newest_ns:  # not otherwise: Triton would not see an edit that is older
                newer_ns = newest_ns + _A_SECOND_NS
            os.utime(folder, ns=(newer_ns, newer_ns))
    except OSError as error:
        _log.warning("model.touch_refused", model=model, reason=str(error))
        return False
    return True


def _newest_ns(folder: Path) -> int:
    """The newest time in a version's folder, as Triton looks for it: itself and all that is inside.

    It may lie in the future: a clock that was wrong, an archive from elsewhere.
    """
    return max(path.stat().st_mtime_ns for path in (folder, *folder.rglob("*")) if path.exists())


def _served(client: TritonClient, names: Collection[str]) -> list[str]:
    """Those of the models that Triton serves."""
    states = client.index() if names else {}
    return [name for name in names if states.get(name) == "READY"]
