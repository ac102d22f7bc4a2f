"""The history of one model's ``config.pbtxt``: every text that was ever desired, numbered."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from conch.errors import RepositoryError
from serving import atomic, folders

_LAST = 99_999_999
_FILE = re.compile(r"([0-9]{6,8})[.](?:json|pbtxt)", re.ASCII)
_MOST_BYTES = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """One text of a config.

    Attributes:
        number: from 1, ascending.
        sha256: of the text's bytes.
        at: UTC time when it was recorded, ISO 8601.
        reason: why it was written.
        tick_id: the control tick that wanted it, or empty.
    """

    number: int
    sha256: str
    at: str
    reason: str
    tick_id: str


def edited_hint(model: str) -> str:
    """The two ways out of an edit that is not in force."""
    return (
        f"Load it with `conch repo load {model}`, or bring a revision back with "
        f"`conch repo rollback {model} --to N`."
    )


def sha256(data: str | bytes) -> str:
    """The hex digest."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


class RevisionLog:
    """Revisions of one model in ``folder``: ``NNNNNN.pbtxt`` beside ``NNNNNN.json``."""

    def __init__(self, folder: Path, *, aside: Path) -> None:
        self._folder = folder
        self._aside = aside

    def all(self) -> list[Revision]:
        """Every revision, oldest first; one whose record is not whole is left out."""
        found = (self._read(number) for number in sorted(self._numbers(".json")))
        return [revision for revision in found if revision is not None]

    def newest(self) -> Revision | None:
        """The latest revision, or None when there is none."""
        numbers = sorted(self._numbers(".json"), reverse=True)
        return next((r for number in numbers if (r := self._read(number)) is not None), None)

    def _next(self) -> int:
        """The number after all that are there."""
        there = self._numbers(".pbtxt") | self._numbers(".json")
        number = max(there, default=0) + 1
        if number > _LAST:  # a stray file has the last one: count on from the newest that is whole
            newest = self.newest()
            number = newest.number + 1 if newest and newest.number < _LAST else 1
            while number in there:
                number += 1
        return number

    def _numbers(self, suffix: str) -> set[int]:
        """The numbers that have a file; whatever else lies there is not ours."""
        names = [path.name for path in folders.inside(self._folder)]
        return {
            int(found[1])
            for name in names
            if (found := _FILE.fullmatch(name)) and name.endswith(suffix)
        }

    def _read(self, number: int) -> Revision | None:
        """The record; None when it, or the text beside it, is not whole."""
        stem = self._folder / f"{number:06d}"
        try:
            data = json.loads(atomic.read(stem.with_suffix(".json"), most_bytes=_MOST_BYTES))
            record = Revision(**data)
            whole = stem.with_suffix(".pbtxt").is_file()
        except (OSError, ValueError, TypeError, RecursionError):
            return None
        texts = (record.sha256, record.at, record.reason, record.tick_id)
        typed = type(record.number) is int and all(isinstance(text, str) for text in texts)
        return record if whole and typed and record.number == number else None

    def text(self, number: int) -> str:
        """The config text of a revision.

        Raises:
            RepositoryError: when there is no such revision, or its text cannot be read.
        """
        try:
            return atomic.read(self._folder / f"{number:06d}.pbtxt").decode("utf-8")
        except FileNotFoundError:
            known = ", ".join(str(revision.number) for revision in self.all()) or "none"
            raise RepositoryError(
                f"revision {number}: not there; known are: {known}.",
                hint="See `conch repo history MODEL`.",
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise RepositoryError(
                f"revision {number} of {self._folder.name}: cannot be read ({error}).",
                hint="Take another one: see `conch repo history MODEL`.",
            ) from error

    def add(self, text: str, *, reason: str, tick_id: str) -> Revision:
        """Record a text as the next revision: first the text, then the record that makes it count.

        Raises:
            RepositoryError: when the disk refuses.
        """
        revision = Revision(
            number=self._next(),
            sha256=sha256(text),
            at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            reason=reason,
            tick_id=tick_id,
        )
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RepositoryError(
                f"revision of {self._folder.name}: {error.strerror or error}. Nothing was changed.",
                hint="Free some space or mend the permissions, then run it again.",
            ) from error
        stem = self._folder / f"{revision.number:06d}"
        atomic.write(
            stem.with_suffix(".pbtxt"),
            text.encode(),
            aside=self._aside,
            point="revision.text",
        )
        record = json.dumps(dataclasses.asdict(revision), indent=2) + "\n"
        atomic.write(
            stem.with_suffix(".json"),
            record.encode(),
            aside=self._aside,
            point="revision.record",
        )
        return revision
