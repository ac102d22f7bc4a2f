"""A Triton model repository on disk: read, check, replace atomically, and remember revisions.

State of ours lives in ``<root>/.conch`` (same filesystem, so renames are atomic; outside every
model directory, so Triton never sees a stray file there). Models are loaded by name, in explicit
mode; Triton never looks into it.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conch.errors import ConfigError, RepositoryError
from conch.failpoint import failpoint
from conch.names import ModelName, model_name
from serving import atomic, folders, leftovers, locks, model_config
from serving.model_config import ModelConfig
from serving.revisions import Revision, RevisionLog, sha256
from serving.staging import fill, holds, kept, tells

STATE_DIR = ".conch"
CONFIG = "config.pbtxt"
LINEAGE = "lineage.json"
PLAN_FILE, PLAN_FACTS = "model.plan", "plan.json"
"""A TensorRT engine and what it was built from: added to a published version by its host."""
LOCK_WAIT_S = 10.0
_VERSION = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)
"""What Triton takes for a version: an int64, and none that begins with 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionFiles:
    """One version to publish.

    Attributes:
        files: file name in the version directory, which may lie in a subfolder → file to copy.
        lineage: where the files come from; must be JSON.
    """

    files: Mapping[str, Path]
    lineage: Mapping[str, Any]


class Repository:
    """The model repository at ``root``."""

    def __init__(self, root: Path) -> None:
        """Open it.

        Raises:
            RepositoryError: when ``root`` is no folder.
        """
        if not folders.is_folder(root):
            raise RepositoryError(
                f"model repository: {root} is not a folder, or not one that we may enter.",
                hint="Give --repository, or make one with `conch export run RECIPE`.",
            )
        self.root = root.resolve()
        self.state = self.root / STATE_DIR
        self._aside = self.state / "tmp"

    def models(self) -> list[ModelName]:
        """Names of the model directories, sorted; names that are not valid are left out.

        So are folders that we may not enter, such as a volume's ``lost+found``, and what goes away
        meanwhile: another model's folder is no reason not to look after this one.

        Raises:
            RepositoryError: when the repository itself cannot be listed.
        """
        try:
            there = sorted(path.name for path in self.root.iterdir())
        except OSError as error:
            raise RepositoryError(
                f"model repository {self.root}: cannot be listed ({error.strerror or error}).",
                hint="Check that it is there, and its permissions.",
            ) from error
        names = []
        for folder in there:
            try:
                name = model_name(folder)
            except ConfigError:
                continue
            if folder != STATE_DIR and folders.is_file(self.root / folder / CONFIG):
                names.append(name)
        return names

    def config_path(self, name: str) -> Path:
        """Where the model's ``config.pbtxt`` is.

        Raises:
            ConfigError: when the name is not valid or the repository does not have the model, or
                not where we may read it.
        """
        path = self.root / model_name(name) / CONFIG
        if not folders.is_file(path):
            known = ", ".join(self.models()) or "none"
            raise ConfigError(
                f"model {name}: not in {self.root}, or not readable; it has: {known}.",
                hint="Publish it with `conch export run RECIPE`, or check its permissions.",
            )
        return path

    def config_text(self, name: str) -> str:
        """The bytes of ``config.pbtxt`` as text."""
        try:
            return atomic.read(self.config_path(name)).decode("utf-8")
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
        self,
        name: str,
        config: ModelConfig,
        *,
        reason: str,
        tick_id: str = "",
        before: Callable[[Revision, Revision], None] | None = None,
    ) -> Revision:
        """Replace ``config.pbtxt`` atomically, after the old and the new text became revisions.

        Writing what is there already changes nothing and gives the newest revision.

        Args:
            before: called with the old and the new revision, just before the file is replaced.

        Raises:
            RepositoryError: when the disk refuses; the old file is still whole then.
        """
        text = model_config.to_text(config)
        return self.write_text(name, text, reason=reason, tick_id=tick_id, before=before)

    def write_text(
        self,
        name: str,
        text: str,
        *,
        reason: str,
        tick_id: str = "",
        before: Callable[[Revision, Revision], None] | None = None,
    ) -> Revision:
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
            if before is not None:
                before(newest, revision)
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
    def lock(self, name: str, *, wait_s: float = LOCK_WAIT_S) -> Iterator[None]:
        """Hold one model while its files change; waits 10 s at most. May be nested.

        Raises:
            RepositoryError: when another process keeps it.
        """
        busy = RepositoryError(
            f"{name}: another process has been changing it for {wait_s:g} s.",
            hint="Wait for it to end, then run it again.",
        )
        path = self.state / "locks" / f"{model_name(name)}.lock"
        with locks.held(path, wait_s=wait_s, busy=busy, nested=True):
            yield

    def versions(self, name: str) -> list[int]:
        """Version directories that hold something, ascending; none of a folder that is closed."""
        return sorted(
            int(path.name)
            for path in folders.inside(self.root / model_name(name))
            if _VERSION.fullmatch(path.name) and folders.inside(path)
        )

    def publish(
        self,
        name: str,
        config: ModelConfig,
        files: Mapping[str, Path],
        lineage: Mapping[str, Any],
        *,
        model_files: Mapping[str, Path] | None = None,
    ) -> int:
        """Add a version with these files, then its config; gives the version number.

        The version directory appears whole or not at all, and holds ``lineage.json``. When the
        newest version already has the same files, only the config is replaced.

        Args:
            name: the model.
            config: the complete config to publish.
            files: file name in the version directory → file to copy.
            lineage: where the files come from; must be JSON.
            model_files: files beside ``config.pbtxt``, e.g. labels.

        Raises as ``publish_versions`` does; nothing half-written is left.
        """
        with self.lock(name):
            versions = [VersionFiles(files=files, lineage=lineage)]
            known = self._find(name, versions, self.versions(name)[-1:], told=False)
            return self._publish(name, config, versions, known, model_files or {})[0]

    def publish_versions(
        self,
        name: str,
        config: ModelConfig,
        versions: Sequence[VersionFiles],
        *,
        served: Sequence[int] = (),
        model_files: Mapping[str, Path] | None = None,
    ) -> list[int]:
        """Add several versions of one model at once; gives their numbers, which ascend.

        A version that is there already keeps its number where all then ascend and the last is the
        highest of all; else it is added again: no version directory changes. Nothing changes for
        who asks until the config is replaced, last: its ``version_policy`` names what is served.

        Args:
            name: the model.
            config: the complete config; with ``served``, its ``version_policy`` is filled in here.
            versions: the versions, all for the same config; that of the highest number last.
            served: indices into ``versions``: those that Triton is to serve; none for what
                ``config`` says already.
            model_files: files beside ``config.pbtxt``, e.g. labels.

        Raises:
            RepositoryError: when the disk refuses; what was served before still is.
            ConfigError: when the name is not valid.
        """
        with self.lock(name):
            there = self.versions(name)
            known = kept(self._find(name, versions, there, told=True), max(there, default=0))
            return self._publish(name, config, versions, known, model_files or {}, served=served)

    def _publish(
        self,
        name: str,
        config: ModelConfig,
        versions: Sequence[VersionFiles],
        known: Sequence[int | None],
        model_files: Mapping[str, Path],
        served: Sequence[int] = (),
    ) -> list[int]:
        """Stage what is new, move it in, replace the config; the lock is held."""
        folder = self.root / model_name(name)
        leftovers.remove_of(self._aside, name)
        fresh = itertools.count(max(self.versions(name), default=0) + 1)
        numbers = [next(fresh) if number is None else number for number in known]
        if served:
            config = model_config.with_versions(config, [numbers[index] for index in served])
        new = {n: v for n, v, old in zip(numbers, versions, known, strict=True) if old is None}
        text = model_config.to_text(config)
        reason = (
            f"published version {', '.join(map(str, sorted(new)))}" if new else "published again"
        )
        staged = self._aside / f"{name}.{uuid.uuid4().hex}"
        self._stage(staged, text, new, model_files)
        if not (folder / CONFIG).is_file():
            if folder.exists() and any(folder.iterdir()):
                shutil.rmtree(staged, ignore_errors=True)
                raise RepositoryError(
                    f"publish of {name}: {folder} exists and has no {CONFIG}.",
                    hint="Move the folder away, then publish again.",
                )
            atomic.move_folder(staged, folder)
            self.revisions(name).add(text, reason=reason, tick_id="")
            return numbers
        moved: list[Path] = []
        try:
            for number in sorted(new):
                atomic.move_folder(staged / str(number), folder / str(number))
                moved.append(folder / str(number))
            self._replace_model_files(staged, folder, model_files)
            self.write_config(name, config, reason=reason)
        except RepositoryError:
            # No version may stay that would be served with the config of another one.
            for path in moved:
                shutil.rmtree(path, ignore_errors=True)
            raise
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        return numbers

    def _replace_model_files(
        self, staged: Path, folder: Path, model_files: Mapping[str, Path]
    ) -> None:
        """Bring changed files beside the config; an equal one stays untouched.

        A newer file there makes Triton reload the model instead of changing it in place.
        """
        for file_name in model_files:
            data = (staged / file_name).read_bytes()
            target = folder / file_name
            if not target.is_file() or target.read_bytes() != data:
                atomic.write(target, data, aside=self._aside, point="repository.model_file")

    def newest_with(self, name: str, files: Mapping[str, Path]) -> int | None:
        """The newest version, when it has exactly these files; else publishing adds one."""
        newest = self.versions(name)[-1:]
        return self._find(name, [VersionFiles(files=files, lineage={})], newest, told=False)[0]

    def lineage(self, name: str, version: int) -> dict[str, Any]:
        """What is known of where the version comes from; empty when it cannot be read."""
        path = self.root / model_name(name) / str(version) / LINEAGE
        try:
            found = json.loads(atomic.read(path))
        except (OSError, RecursionError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _find(
        self, name: str, versions: Sequence[VersionFiles], numbers: Sequence[int], *, told: bool
    ) -> list[int | None]:
        """For each of the versions the newest number that holds its files, or None.

        With ``told``, the lineage there must tell as much, of the same variant.
        """
        folder, ours = self.root / model_name(name), (LINEAGE, PLAN_FILE, PLAN_FACTS)

        def same(n: int, one: VersionFiles) -> bool:
            known = not told or tells(self.lineage(name, n), one.lineage)
            return known and holds(folder / str(n), one.files, ours)

        return [next((n for n in reversed(numbers) if same(n, one)), None) for one in versions]

    def remove_left(self) -> None:
        """Remove what killed writers left aside; nothing of a live one."""
        leftovers.remove(self._aside, lambda name: self.lock(name, wait_s=0.0))

    def _stage(
        self,
        staged: Path,
        config_text: str,
        versions: Mapping[int, VersionFiles],
        model_files: Mapping[str, Path],
    ) -> None:
        """Write a model folder with these versions aside."""
        copies, texts = dict(model_files), {CONFIG: config_text}
        for number, version in versions.items():
            copies |= {f"{number}/{name}": source for name, source in version.files.items()}
            lineage = json.dumps(version.lineage, indent=2, sort_keys=True)
            texts[f"{number}/{LINEAGE}"] = f"{lineage}\n"
        try:
            fill(staged, copies, texts)
        except OSError as error:
            shutil.rmtree(staged, ignore_errors=True)
            raise RepositoryError(
                f"publish into {self.root}: {error.strerror or error}. Nothing was published.",
                hint="Free some space or mend the permissions, then run it again.",
            ) from error
