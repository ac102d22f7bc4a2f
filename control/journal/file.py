"""The file of a journal: open it, know it again, and put one aside that is none.

Theory of operation. Four things can be wrong with it, and each has its own answer. Another process
holds it: that passes, so who writes keeps what it has in memory and tries again. The disk is full
or fails: that is said, and nothing is changed meanwhile. What lies there is no journal of this
version: it is moved aside, whole, by the one who may write, and a new one begins. And it may be
removed, replaced or cut short while it is open, where SQLite would write on into nowhere: so its
place is looked at before each write.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from control.journal import schema
from control.journal.schema import JournalError, JournalLocked, JournalUnusable
from serving import atomic

READ_WAIT_S = 5.0
_STEPS = 100_000  # of SQLite's machine between two looks at the clock: some milliseconds
_SIDES = ("-wal", "-shm")
REFUSED = (sqlite3.Error, UnicodeDecodeError)
"""What SQLite raises; the second where its message quotes a damaged name."""
_LOCKED = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_NO_JOURNAL = frozenset(
    {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_NOTADB}
)
_SHORT_READ = 522  # SQLITE_IOERR_SHORT_READ: the file ends where a page should be
_CLOSED = frozenset({sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM})


def open_to_read(path: Path) -> sqlite3.Connection:
    """A journal that is there, for reading: nothing is made, moved or brought up to date.

    Raises:
        JournalError: when it is not there, cannot be read, or is no journal of this version.
    """
    if not os.path.lexists(path):
        raise JournalError(
            f"journal: {path} is not there.",
            hint="Start the loop first: `conch control run POLICY`.",
        )
    try:
        _require_file(path)
        try:
            return _reading(path, "mode=ro")
        except sqlite3.Error as error:
            if _code(error) not in _CLOSED:
                raise
            # Where we may not write, not even the file that readers share beside it can be made.
            return _reading(path, "mode=ro&immutable=1")
    except (OSError, *REFUSED) as error:
        raise said(path, error) from error


def _reading(path: Path, how: str) -> sqlite3.Connection:
    """The file opened so; an older format as a copy in memory that is of this one."""
    db = _connected(f"{path.absolute().as_uri()}?{how}", wait_s=READ_WAIT_S, uri=True)
    try:
        if schema.version_of(db) == schema.VERSION:
            schema.require_whole(db)
            return db
        copy = in_memory(empty=True)
        db.backup(copy)
        schema.bring_up_to_date(copy)
    except BaseException:
        db.close()
        raise
    db.close()
    return copy


def open_to_write(path: Path, *, wait_s: float, check_s: float = 0.0) -> sqlite3.Connection:
    """The journal, made or brought up to date where it must be.

    Args:
        path: where.
        wait_s: how long to wait for another process that holds it.
        check_s: how long to look for damaged pages; 0 for not at all.

    Raises:
        JournalLocked: when another process goes on holding it.
        JournalUnusable: when what lies there is no journal of this version.
        JournalError: when the disk refuses.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _require_file(path)
        db = _connected(str(path.absolute()), wait_s=wait_s)
        try:
            version = schema.version_of(db)  # a newer file is left as it is
            if version < schema.VERSION or schema.is_new(db):
                db.execute("PRAGMA journal_mode=WAL")
                schema.bring_up_to_date(db)
            schema.require_whole(db)
            if db.execute("PRAGMA journal_mode").fetchone() != ("wal",):
                db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            if check_s > 0:
                _require_sound(db, path, check_s)
        except BaseException:
            db.close()
            raise
        return db
    except (OSError, *REFUSED) as error:
        raise said(path, error) from error


def in_memory(*, empty: bool = False) -> sqlite3.Connection:
    """A journal of nobody else's; with the tables, unless it is to be ``empty``."""
    db = _connected(":memory:", wait_s=0.0)
    if not empty:
        schema.bring_up_to_date(db)
    return db


def is_locked(error: Exception) -> bool:
    """Whether another process holds the file."""
    return _code(error) in _LOCKED


def said(path: Path, error: Exception) -> JournalError:
    """What to tell the user, as the kind of error that it is."""
    if isinstance(error, OSError):
        why = error.strerror or str(error)
        return JournalError(f"journal {path}: {why}.", hint="Mend its permissions, or its disk.")
    if is_locked(error):
        return JournalLocked(
            f"journal {path}: another process holds it ({error}).", hint="Wait until it has ended."
        )
    extended = int(getattr(error, "sqlite_errorcode", 0))
    closed = _code(error) in _CLOSED and _is_closed(path)
    garbled = not hasattr(error, "sqlite_errorcode")  # of a name, or of our own finding
    if not (closed or garbled or _code(error) in _NO_JOURNAL or extended == _SHORT_READ):
        return JournalError(
            f"journal {path}: {error}.",
            hint="Free some space, or mend the folder's permissions; the loop holds until it can "
            "record.",
        )
    return JournalUnusable(
        f"journal {path}: damaged, or no journal ({error}).",
        hint="`conch control run` puts it aside and begins a new one; or move it away.",
    )


def put_aside(path: Path, *, only_sides: bool = False) -> Path:
    """Move what lies there out of the way, whole, with what SQLite keeps beside it; gives where.

    Args:
        path: of the journal.
        only_sides: leave the file itself, and move only what is beside it.

    Raises:
        JournalError: when the disk refuses.
    """
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    names = [
        f"{path.name}.unusable-{stamp}",
        *(f"{path.name}.unusable-{stamp}-{n}" for n in range(2, 100)),
    ]
    for target in (path.with_name(name) for name in names):
        if any(os.path.lexists(f"{target}{side}") for side in ("", *_SIDES)):
            continue
        try:
            for side in _SIDES if only_sides else ("", *_SIDES):
                if os.path.lexists(f"{path}{side}"):
                    Path(f"{path}{side}").rename(f"{target}{side}")
            atomic.sync_folder(path.parent)
        except OSError as error:
            raise said(path, error) from error
        return target
    raise JournalError(
        f"journal {path}: put aside too often.", hint="Look at its disk, and remove the old ones."
    )


@dataclass(slots=True, kw_only=True)
class Place:
    """The files that were opened, to be known again by device and number."""

    path: Path
    _main: tuple[int, int] | None = field(init=False)
    _wal: tuple[int, int] | None = field(init=False, default=None)
    _size: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._main, self._size = _identity(self.path)
        self._wal, _ = _identity(Path(f"{self.path}-wal"))

    def changed(self) -> str:
        """What became of them; empty where all is as it was, as far as we can see."""
        try:
            main, size = _identity(self.path)
            wal, _ = _identity(Path(f"{self.path}-wal"))
        except OSError:
            return ""
        if main != self._main:
            return "removed" if main is None else "replaced"
        if self.is_cut():
            return "cut short"
        if self._wal is not None and wal != self._wal:
            return "separated from its -wal"
        self._wal, self._size = wal, size
        return ""

    def is_cut(self) -> bool:
        """Whether the same file is smaller than it was; it never shrinks by itself."""
        main, size = _identity(self.path)
        return main == self._main and size < self._size

    def is_mixed(self) -> bool:
        """Whether another file lies beside this one's -wal.

        SQLite cannot tell, and would write the pages of the one into the other.
        """
        main, _ = _identity(self.path)
        wal, _ = _identity(Path(f"{self.path}-wal"))
        return main not in (None, self._main) and wal is not None and wal == self._wal


def _identity(path: Path) -> tuple[tuple[int, int] | None, int]:
    """Device and number of a file, and its size; None where there is none."""
    try:
        now = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None, 0
    return (now.st_dev, now.st_ino), now.st_size


def _connected(to: str, *, wait_s: float, uri: bool = False) -> sqlite3.Connection:
    """A connection whose texts are never refused: one that is damaged costs its row."""
    db = sqlite3.connect(to, timeout=wait_s, uri=uri)
    db.text_factory = lambda data: data.decode("utf-8", "replace")
    return db


def _require_file(path: Path) -> None:
    """Refuse what SQLite would follow to elsewhere, or never return from."""
    for each in (path, *(Path(f"{path}{side}") for side in _SIDES)):
        if not os.path.lexists(each):
            continue
        if not each.exists():
            what = "a link to nothing"
        elif not stat.S_ISREG(each.stat().st_mode):
            what = "a folder" if each.is_dir() else "no regular file"
        else:
            continue
        raise JournalUnusable(
            f"journal {each}: is {what}.",
            hint="`conch control run` puts it aside and begins a new one; or move it away.",
        )


def _require_sound(db: sqlite3.Connection, path: Path, within_s: float) -> None:
    """Refuse a file with damaged pages, as far as they are found in this time."""
    until_s = time.monotonic() + within_s
    db.set_progress_handler(lambda: time.monotonic() > until_s, _STEPS)
    try:
        told = [str(row[0]) for row in db.execute("PRAGMA quick_check(20)")]
    except sqlite3.OperationalError as error:
        if _code(error) != sqlite3.SQLITE_INTERRUPT:
            raise
        return
    finally:
        db.set_progress_handler(None, 0)
    pages = [text for text in told if text != "ok" and " value in " not in text]  # that is a row's
    if pages:
        raise JournalUnusable(
            f"journal {path}: damaged ({pages[0][:200]}).",
            hint="`sqlite3 FILE .recover` saves what is in it.",
        )


def _is_closed(path: Path) -> bool:
    """Whether a file is there that we may not write; else it is its folder that refuses."""
    files = [f"{path}{side}" for side in ("", *_SIDES)]
    return any(os.path.lexists(f) and not os.access(f, os.R_OK | os.W_OK) for f in files)


def _code(error: Exception) -> int:
    """SQLite's primary code; 0 where the error is Python's own."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF
