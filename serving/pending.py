"""Changes that are not proven yet: one record a model, which outlives whoever made the change.

Theory of operation. A new config can kill the server, and at its next start again. Who wrote it
may be gone by then, so the writer leaves a record before it writes, and removes it once the change
has proved itself for a while. Whoever starts the server again while the record is there (the
controller, or ``conch serve`` alone) brings the revision before it back. It does so under the
model's lock, only while the writer's epoch is the newest, and only while the file on disk still is
the very text of the record: what a person or another controller wrote since is never touched.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path

import structlog

from conch.errors import ConchError, ConfigError, RepositoryError
from conch.names import model_name
from serving import atomic
from serving.repository import Repository
from serving.revisions import Revision, sha256

_log = structlog.get_logger()

FOLDER = "pending"
EPOCH = "control.epoch"
MOST_AGE_S = 600.0
"""An older record of what was loaded proves nothing against it: nobody was left to settle it."""
_MOST_BYTES = 65536
"""A record has some 400 bytes; a larger file is none of ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A change that was written and is not proven.

    Attributes:
        model: whose.
        epoch: the text of ``control.epoch`` when it was written: who was the sole writer then.
        at: UTC time, ISO 8601.
        previous: revision that was in force before.
        revision: that was written.
        reason, tick_id: as in the revision log.
        reverted: why ``previous`` was brought back; empty while that was not needed.
        loaded: whether the change is known to have been in force.
        answered: how the model answered its probes before; empty where nobody knows.
    """

    model: str
    epoch: str
    at: str
    previous: int
    revision: int
    reason: str
    tick_id: str
    reverted: str = ""
    loaded: bool = False
    answered: str = ""


def now() -> str:
    """``Pending.at`` of a record that is made now."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def epoch_of(repository: Repository) -> str:
    """Who is the sole writer now, as text; empty where nobody ever was, or it cannot be read."""
    try:
        text = atomic.read(repository.state / EPOCH, most_bytes=_MOST_BYTES).decode("utf-8")
        return text.strip()
    except (OSError, UnicodeDecodeError):
        return ""


def write(repository: Repository, pending: Pending) -> None:
    """Make the record durable, in place of an earlier one of the model.

    Raises:
        RepositoryError: when the disk refuses.
    """
    data = json.dumps(asdict(pending), indent=2) + "\n"
    path = _path(repository, pending.model)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _refused(path, error) from error
    atomic.write(path, data.encode(), aside=repository.state / "tmp", point="pending.record")


def read(repository: Repository, model: str) -> Pending | None:
    """The model's record; None without one, or where it is damaged."""
    try:
        found = json.loads(atomic.read(_path(repository, model), most_bytes=_MOST_BYTES))
        record = Pending(**{"loaded": True, **found})  # an earlier version did not say
    except (OSError, ValueError, TypeError, RecursionError, ConfigError):
        return None
    types = {"int": int, "str": str, "bool": bool}
    whole = all(type(getattr(record, f.name)) is types[str(f.type)] for f in fields(Pending))
    return record if whole and record.model == model else None


def names(repository: Repository) -> list[str]:
    """The models that have a record, damaged or not."""
    try:
        return sorted(path.stem for path in (repository.state / FOLDER).glob("*.json"))
    except OSError:
        return []


def every(repository: Repository) -> list[Pending]:
    """All records, by model."""
    found = (read(repository, name) for name in names(repository))
    return [record for record in found if record is not None]


def begin(
    repository: Repository,
    model: str,
    unproven: Pending | None,
    *,
    old: Revision,
    new: Revision,
    answered: str = "",
) -> None:
    """Record a change that is about to be written; ``answered`` as in the record.

    After another one that is not proven either, what comes back is what was before both.
    """
    epoch, previous = epoch_of(repository), old.number
    if (
        unproven
        and not unproven.reverted
        and unproven.epoch == epoch
        and is_on_disk(repository, unproven)
    ):
        previous = unproven.previous
    record = Pending(
        model=model,
        epoch=epoch,
        at=now(),
        previous=previous,
        revision=new.number,
        reason=new.reason,
        tick_id=new.tick_id,
        answered=answered,
    )
    write(repository, record)


def loaded(repository: Repository, model: str) -> None:
    """The change that was written last is in force; its writer holds the model's lock."""
    record = read(repository, model)
    if record is not None:
        with contextlib.suppress(RepositoryError):  # a full disk: it is not proven, as before
            write(repository, replace(record, loaded=True))


def again(repository: Repository, model: str, unproven: Pending | None) -> None:
    """After a rollback: the record of the change before, where that is not proven; else none."""
    if unproven and is_on_disk(repository, unproven):
        write(repository, unproven)
    else:
        settle(repository, model)


def settle(repository: Repository, model: str) -> None:
    """The change has proved itself, or is no longer there: remove the record.

    Raises:
        RepositoryError: when the disk refuses.
    """
    path = _path(repository, model)
    try:
        path.unlink(missing_ok=True)
    except NotADirectoryError:  # no folder, no record
        return
    except OSError as error:
        raise _refused(path, error) from error


def settle_this(repository: Repository, pending: Pending) -> bool:
    """``settle`` where the record still is this very one, and not of a change begun since.

    Raises:
        RepositoryError: when another process keeps the model's lock, or the disk refuses.
    """
    with repository.lock(pending.model, wait_s=0):
        if read(repository, pending.model) != pending:
            return False
        settle(repository, pending.model)
    return True


def is_old(pending: Pending) -> bool:
    """Whether it has long been served: its controller ended before it could settle it.

    What was never loaded is not proven by any time, nor by a clock that jumps.
    """
    try:
        age = datetime.now(UTC) - datetime.fromisoformat(pending.at)
    except (ValueError, TypeError):
        return False
    return pending.loaded and age.total_seconds() > MOST_AGE_S


def is_on_disk(repository: Repository, pending: Pending) -> bool:
    """Whether the model's file still is the text that the record speaks of."""
    with contextlib.suppress(ConchError, OSError, UnicodeDecodeError):
        text = repository.revisions(pending.model).text(pending.revision)
        return sha256(repository.config_text(pending.model)) == sha256(text)
    return False


def revert(repository: Repository, pending: Pending, *, why: str) -> bool:
    """Bring the revision before the change back on disk, and say so in the record.

    Nothing is done, and False given, where the record is another by now or is reverted, where
    another controller has taken over, where somebody else wrote the file since, where it is old
    (``is_old``), or where the revision before cannot be read. Loading it is the caller's business.

    Raises:
        RepositoryError: when another process keeps the model's lock, or the disk refuses.
    """
    model = pending.model
    with repository.lock(model):
        if pending.reverted or read(repository, model) != pending:
            return False
        if is_old(pending):
            settle(repository, model)
            return False
        if epoch_of(repository) != pending.epoch or not is_on_disk(repository, pending):
            return False
        try:
            text = repository.revisions(model).text(pending.previous)
        except (RepositoryError, OSError, UnicodeDecodeError) as error:
            _log.error("pending.not_reverted", model=model, error=str(error))
            return False
        repository.restore(model, text, reason=f"reverted: {why}", tick_id=pending.tick_id)
        with contextlib.suppress(RepositoryError):  # a full disk: the file itself is what counts
            write(repository, replace(pending, reverted=why or "unknown"))
    _log.error("config.reverted", model=model, revision=pending.previous, why=why)
    return True


def _path(repository: Repository, model: str) -> Path:
    """Where the model's record is."""
    return repository.state / FOLDER / f"{model_name(model)}.json"


def _refused(path: Path, error: OSError) -> RepositoryError:
    """What to tell the user when the disk says no."""
    return RepositoryError(
        f"record {path}: {error.strerror or error}.",
        hint="Free some space or mend the permissions, then run it again.",
    )
