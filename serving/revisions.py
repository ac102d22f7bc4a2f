"""The history of one model's ``config.pbtxt``: every text that was ever desired, numbered."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from conch.errors import RepositoryError
from serving import atomic


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
        return [
            revision
            for path in sorted(self._folder.glob("*.json"))
            if (revision := self._read(path)) is not None
        ]

    def newest(self) -> Revision | None:
        """The latest revision, or None when there is none."""
        paths = sorted(self._folder.glob("*.json"), reverse=True)
        return next((r for path in paths if (r := self._read(path)) is not None), None)

    @staticmethod
    def _read(path: Path) -> Revision | None:
        """The record; None when it, or the text beside it, is not whole."""
        try:
            record = Revision(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        return record if path.with_suffix(".pbtxt").is_file() else None

    def text(self, number: int) -> str:
        """The config text of a revision.

        Raises:
            RepositoryError: when there is no such revision.
        """
        path = self._folder / f"{number:06d}.pbtxt"
        if not path.is_file():
            known = ", ".join(str(revision.number) for revision in self.all()) or "none"
            raise RepositoryError(
                f"revision {number}: not there; known are: {known}.",
                hint="See `conch repo history MODEL`.",
            )
        return path.read_bytes().decode("utf-8")

    def add(self, text: str, *, reason: str, tick_id: str) -> Revision:
        """Record a text as the next revision: first the text, then the record that makes it count.

        Raises:
            RepositoryError: when the disk refuses.
        """
        numbers = [int(path.stem) for path in self._folder.glob("*.pbtxt")]
        revision = Revision(
            number=max(numbers, default=0) + 1,
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
