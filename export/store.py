"""Finished stages on disk, found again by their content key.

A stage's folder appears whole or not at all: it is written aside, flushed, and renamed. What a
kill leaves behind is emptied when the stage is run again.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conch.errors import RepositoryError
from conch.failpoint import failpoint
from export.hashing import file_sha256
from export.steps import Artifact, Form
from serving import locks

STAGE_FILE = "stage.json"
MODULE_FILE = "module.pt"
SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A stage's result.

    Attributes:
        key: its content key.
        artifact: the model, or facts alone.
        seconds: what making it cost.
        files: file name → sha256.
    """

    key: str
    artifact: Artifact
    seconds: float
    files: dict[str, str]


class Store:
    """The stages of one model's runs.

    Args:
        root: their folder; made when first written.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def lock_path(self) -> Path:
        """The lock's file, beside the folder, which may be removed while it is held."""
        return self.root.with_name(f"{self.root.name}.lock")

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other runs out while stages are written, read or removed. May be nested.

        Raises:
            RepositoryError: when another run is at work, or the disk refuses.
        """
        busy = RepositoryError(
            f"export: another run of this recipe is at work in {self.root.parent}.",
            hint="Wait for it to end, or run it in another folder.",
        )
        with locks.held(self.lock_path, wait_s=0, busy=busy, nested=True):
            yield

    def get(self, key: str) -> Finished | None:
        """The finished stage; None when it was never finished or its files are not whole."""
        folder = self._folder(key)
        try:
            record = json.loads((folder / STAGE_FILE).read_text(encoding="utf-8"))
            if record["schema"] != SCHEMA or record["key"] != key:
                return None
            sizes = {name: (folder / name).stat().st_size for name in record["sizes"]}
            if sizes != record["sizes"]:
                return None
            artifact = Artifact(
                form=Form(record["form"]),
                path=folder / record["path"] if record["path"] else None,
                extra=tuple(folder / name for name in record["extra"]),
                facts=dict(record["facts"]),
            )
            return Finished(
                key=key,
                artifact=artifact,
                seconds=float(record["seconds"]),
                files=dict(record["files"]),
            )
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return None

    def begin(self, key: str) -> tuple[Path, Path]:
        """An empty folder for the stage's files, and its scratch folder as a kill left it."""
        folder, scratch = self.root / f".new-{_short(key)}", self.root / f".scratch-{_short(key)}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        scratch.mkdir(exist_ok=True)
        return folder, scratch

    def finish(self, key: str, artifact: Artifact, *, folder: Path, seconds: float) -> Finished:
        """Keep what the stage wrote into ``folder``; its scratch folder is removed.

        Raises:
            OSError: when the disk refuses; the stage is not finished then.
        """
        path = _saved(artifact, folder)
        # Copied: onnx refuses to read weights from a file that has several hard links.
        extra = [_placed(one, folder, link=False) for one in artifact.extra]
        kept = [path, *extra] if path else extra
        for stray in folder.rglob("*"):
            if stray.is_file() and stray not in kept:
                stray.unlink()
        record = {
            "schema": SCHEMA,
            "key": key,
            "form": artifact.form.value,
            "path": path.name if path else "",
            "extra": [str(one.relative_to(folder)) for one in extra],
            "facts": artifact.facts,
            "seconds": seconds,
            "sizes": {str(one.relative_to(folder)): one.stat().st_size for one in kept},
            "files": {str(one.relative_to(folder)): file_sha256(one) for one in kept},
        }
        failpoint("export.stage.before_record")
        (folder / STAGE_FILE).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        for one in (*kept, folder / STAGE_FILE):
            _flush(one)
        failpoint("export.stage.before_rename")
        final = self._folder(key)
        shutil.rmtree(final, ignore_errors=True)  # files that were not whole
        folder.rename(final)
        _flush(self.root)
        shutil.rmtree(self.root / f".scratch-{_short(key)}", ignore_errors=True)
        found = self.get(key)
        if found is None:
            raise OSError(f"{final} cannot be read back")
        return found

    def remove_others(self, keys: set[str]) -> int:
        """Delete all stages but these; gives the bytes freed."""
        keep = {self._folder(key).name for key in keys}
        freed = 0
        for folder in self.root.iterdir() if self.root.is_dir() else ():
            if folder.name not in keep:
                freed += sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
                shutil.rmtree(folder, ignore_errors=True)
        return freed

    def _folder(self, key: str) -> Path:
        """Where the stage is kept."""
        return self.root / _short(key)


def facts(**values: Any) -> Artifact:
    """A result that is figures only."""
    return Artifact(form=Form.ONNX, facts=values)


def _short(key: str) -> str:
    """Enough of the key to be the only one."""
    return key[:24]


def _saved(artifact: Artifact, folder: Path) -> Path | None:
    """The artifact's file in the folder; a fresh module is written there."""
    if artifact.module is not None and artifact.path is None:
        import torch

        path = folder / MODULE_FILE
        torch.save(artifact.module, path)
        return path
    return artifact.path if artifact.path is None else _placed(artifact.path, folder)


def _placed(path: Path, folder: Path, *, link: bool = True) -> Path:
    """The file in the folder; one that a step passed on unchanged is linked or copied there."""
    if path.is_relative_to(folder):
        return path
    own = folder / path.name
    if link:
        with contextlib.suppress(OSError):  # another file system, or one without links
            own.hardlink_to(path)
            return own
    shutil.copyfile(path, own)
    return own


def _flush(path: Path) -> None:
    """Have the disk keep it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
