"""A Triton model repository on disk: read, check, replace atomically, and remember revisions.

State of ours lives in ``<root>/.conch`` (same filesystem, so renames are atomic; outside every
model directory, so Triton never sees a stray file there). Models are loaded by name, in explicit
mode; Triton never looks into it.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock

from conch.errors import ConfigError, RepositoryError
from conch.failpoint import failpoint
from conch.names import ModelName, model_name
from serving import atomic, model_config
from serving.model_config import ModelConfig
from serving.revisions import Revision, RevisionLog, sha256

STATE_DIR = ".conch"
CONFIG = "config.pbtxt"
LOCK_WAIT_S = 10.0


class Repository:
    """The model repository at ``root``."""

    def __init__(self, root: Path) -> None:
        """Open it.

        Raises:
            RepositoryError: when ``root`` is no folder.
        """
        if not root.is_dir():
            raise RepositoryError(
                f"model repository: {root} is not a folder.",
                hint="Give --repository, or make one with `conch export run RECIPE`.",
            )
        self.root = root.resolve()
        self.state = self.root / STATE_DIR
        self._aside = self.state / "tmp"

    def models(self) -> list[ModelName]:
        """Names of the model directories, sorted; names that are not valid are left out."""
        names = []
        for path in sorted(self.root.iterdir()):
            if path.is_dir() and (path / CONFIG).is_file() and path.name != STATE_DIR:
                try:
                    names.append(model_name(path.name))
                except ConfigError:
                    continue
        return names

    def config_path(self, name: str) -> Path:
        """Where the model's ``config.pbtxt`` is.

        Raises:
            ConfigError: when the name is not valid or the repository does not have the model.
        """
        path = self.root / model_name(name) / CONFIG
        if not path.is_file():
            known = ", ".join(self.models()) or "none"
            raise ConfigError(
                f"model {name}: not in {self.root}; it has: {known}.",
                hint="Publish it with `conch export run RECIPE`.",
            )
        return path

    def config_text(self, name: str) -> str:
        """The bytes of ``config.pbtxt`` as text."""
        try:
            return self.config_path(name).read_bytes().decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RepositoryError(
                f"{name}: config.pbtxt cannot be read ({error}).",
                hint="Check its permissions.",
            ) from error

    def read_config(self, name: str) -> ModelConfig:
        """The parsed config, its name filled in.

        Raises:
            ConfigError: when it does not parse, or names another model.
        """
        path = self.config_path(name)
        config = model_config.parse(self.config_text(name), source=str(path))
        if config.name and config.name != name:
            raise ConfigError(
                f'{path}: name: "{config.name}", must be "{name}" as its folder is.',
                hint="Mend the name, or rename the folder.",
            )
        config.name = name
        return config

    def write_config(
        self, name: str, config: ModelConfig, *, reason: str, tick_id: str = ""
    ) -> Revision:
        """Replace ``config.pbtxt`` atomically, after the old and the new text became revisions.

        Writing what is there already changes nothing and gives the newest revision.

        Raises:
            RepositoryError: when the disk refuses; the old file is still whole then.
        """
        return self.write_text(name, model_config.to_text(config), reason=reason, tick_id=tick_id)

    def write_text(self, name: str, text: str, *, reason: str, tick_id: str = "") -> Revision:
        """The same for text as it is: a rollback brings back the very bytes."""
        path = self.config_path(name)
        with self.lock(name):
            current = self.config_text(name)
            log = self.revisions(name)
            newest = log.newest()
            if newest is None or newest.sha256 != sha256(current):
                newest = log.add(current, reason="found on disk", tick_id="")
            if current == text:
                return newest
            failpoint("repository.before_revision")
            revision = log.add(text, reason=reason, tick_id=tick_id)
            atomic.write(path, text.encode(), aside=self._aside, point="repository.config")
            return revision

    def restore(self, name: str, text: str, *, reason: str, tick_id: str) -> None:
        """Bring an earlier text back, even when the disk has no room for its revision.

        Raises:
            RepositoryError: when not even the file itself can be replaced.
        """
        try:
            self.write_text(name, text, reason=reason, tick_id=tick_id)
        except RepositoryError:
            path = self.config_path(name)
            atomic.write(path, text.encode(), aside=self._aside, point="repository.restore")

    def revisions(self, name: str) -> RevisionLog:
        """The model's revisions, oldest first."""
        return RevisionLog(self.state / "revisions" / model_name(name), aside=self._aside)

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold one model while its files change; waits 10 s at most. May be nested.

        Raises:
            RepositoryError: when another process keeps it.
        """
        folder = self.state / "locks"
        # One lock object a path: publish holds it while write_config takes it again.
        lock = filelock.FileLock(
            folder / f"{model_name(name)}.lock", timeout=LOCK_WAIT_S, is_singleton=True
        )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except filelock.Timeout:
            raise RepositoryError(
                f"{name}: another process has been changing it for {LOCK_WAIT_S:g} s.",
                hint="Wait for it to end, then run it again.",
            ) from None
        except OSError as error:
            raise RepositoryError(
                f"lock of {name} in {folder}: {error.strerror or error}.",
                hint="Free some space or mend the permissions, then run it again.",
            ) from error
        try:
            yield
        finally:
            lock.release()

    def versions(self, name: str) -> list[int]:
        """Version directories that hold something, ascending."""
        folder = self.root / model_name(name)
        return sorted(
            int(path.name)
            for path in (folder.iterdir() if folder.is_dir() else ())
            if path.is_dir() and path.name.isdigit() and any(path.iterdir())
        )

    def publish(
        self,
        name: str,
        config: ModelConfig,
        files: Mapping[str, Path],
        lineage: Mapping[str, Any],
    ) -> int:
        """Add a version with these files, then its config; gives the version number.

        The version directory appears whole or not at all, and holds ``lineage.json``. When the
        newest version already has the same files, only the config is replaced.

        Args:
            name: the model.
            config: the complete config to publish.
            files: file name in the version directory → file to copy.
            lineage: where the files come from; must be JSON.

        Raises:
            RepositoryError: when the disk refuses; nothing half-written is left.
            ConfigError: when the name is not valid.
        """
        folder = self.root / model_name(name)
        with self.lock(name):
            old = self.versions(name)
            if old and self._holds(folder / str(old[-1]), files):
                self.write_config(name, config, reason="published again")
                return old[-1]
            version = old[-1] + 1 if old else 1
            staged = self._aside / f"{name}.{uuid.uuid4().hex}"
            text = model_config.to_text(config)
            self._stage(staged, str(version), text, files, lineage)
            if (folder / CONFIG).is_file():
                atomic.move_folder(staged / str(version), folder / str(version))
                shutil.rmtree(staged, ignore_errors=True)
                try:
                    self.write_config(name, config, reason=f"published version {version}")
                except RepositoryError:
                    # The version must not be served with the config of another one.
                    shutil.rmtree(folder / str(version), ignore_errors=True)
                    raise
            else:
                if folder.exists() and any(folder.iterdir()):
                    shutil.rmtree(staged, ignore_errors=True)
                    raise RepositoryError(
                        f"publish of {name}: {folder} exists and has no {CONFIG}.",
                        hint="Move the folder away, then publish again.",
                    )
                atomic.move_folder(staged, folder)
                self.revisions(name).add(text, reason=f"published version {version}", tick_id="")
            return version

    def _stage(
        self,
        staged: Path,
        version: str,
        config_text: str,
        files: Mapping[str, Path],
        lineage: Mapping[str, Any],
    ) -> None:
        """Write a model folder with one version aside."""
        folder = staged / version
        try:
            folder.mkdir(parents=True)
            for file_name, source in files.items():
                failpoint("repository.publish.copy")
                shutil.copyfile(source, folder / file_name)
            (folder / "lineage.json").write_text(
                json.dumps(lineage, indent=2, sort_keys=True) + "\n", encoding="utf-8"
            )
            (staged / CONFIG).write_text(config_text, encoding="utf-8")
        except OSError as error:
            shutil.rmtree(staged, ignore_errors=True)
            raise RepositoryError(
                f"publish into {self.root}: {error.strerror or error}. Nothing was published.",
                hint="Free some space or mend the permissions, then run it again.",
            ) from error

    @staticmethod
    def _holds(folder: Path, files: Mapping[str, Path]) -> bool:
        """Whether the version directory has exactly these files, byte for byte."""
        there = {path.name for path in folder.iterdir()} - {"lineage.json"}
        return there == set(files) and all(
            sha256((folder / file_name).read_bytes()) == sha256(source.read_bytes())
            for file_name, source in files.items()
        )
