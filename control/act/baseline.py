"""Whose config is on disk: what is in force, a person's unloaded edit, and the owner's own text.

Theory of operation. Triton shows its config filled in, and without what it does not know, such as
comments: so the file is compared with it as far as both can be. A file that says more than its
newest revision, or less, was edited; it is in force only where Triton shows the very same. What was
found in force is remembered, as a message, so that a touch or a comment is no edit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from conch.errors import ConchError
from control.act.knobs import settings_of
from control.action import Edited
from control.core.types import Settings
from serving import engines, groups, model_config
from serving.model_config import ModelConfig
from serving.repository import Repository
from serving.revisions import Revision, edited_hint, sha256

FILLED = frozenset(
    {
        "name",
        "platform",
        "backend",
        "runtime",
        "version_policy",  # a change in place that touches no served version is not shown
        "instance_group",  # compared as what it means
        "optimization",
        "default_model_filename",
        "input",
        "output",
    }
)
"""Fields that Triton fills in: what it shows there and the file does not say proves nothing."""
_NOT_COMPARED = ("name", "version_policy")
NOT_THE_OWNERS = ("reconciled", "rolled back:", "reverted:", "rollback refused:")
"""Beginnings of the reasons that Conch writes by itself, without a tick."""
FOUND = "found on disk"


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A model's config on disk, as far as control is concerned.

    Attributes:
        edited: it is a person's, and not in force.
        owner: the settings of the owner's own text.
    """

    edited: bool
    owner: Settings | None


@dataclass(slots=True, kw_only=True)
class _Known:
    """What is known of one model, and the state of the disk for which it holds."""

    stamp: tuple[object, ...] | None = None
    shown: ModelConfig | None = None
    file: File | None = None
    in_force: ModelConfig | None = None
    first_seen: Settings | None = None
    owner: Settings | None = None


class Baseline:
    """Compares the files of a repository with what Triton shows."""

    def __init__(self, repository: Repository) -> None:
        """Nothing is read yet."""
        self._repository = repository
        self._known: dict[str, _Known] = {}

    def of(self, model: str, shown: ModelConfig) -> File:
        """The model's file now; read again only where the disk or Triton shows something new.

        Not to be asked while a change of ours is on its way: the file is then ahead of Triton.
        """
        known = self._known.setdefault(model, _Known())
        stamp = self._stamp(model)
        if known.file is None or stamp != known.stamp or shown != known.shown:
            if known.first_seen is None:
                known.first_seen = settings_of(shown)
            known.file = self._compared(model, shown, known)
            known.stamp, known.shown = stamp, shown
        return known.file

    def require_in_force(self, config: ModelConfig, shown: ModelConfig) -> None:
        """Refuse to change a file that is not in force: its edit would be loaded along.

        Raises:
            Edited: when Triton shows another config than this one on disk.
        """
        if not self.of(config.name, shown).edited:
            return
        raise Edited(
            f"{config.name}: config.pbtxt was edited by hand and is not in force: it says "
            f"{settings_of(groups.resolved(config, shown))}, but Triton serves "
            f"{settings_of(shown)}.",
            hint=edited_hint(config.name),
        )

    def _compared(self, model: str, shown: ModelConfig, known: _Known) -> File:
        """The file against what Triton shows and the revisions."""
        try:
            text = self._repository.config_text(model)
            config = self._repository.read_config(model)
            newest = self._repository.revisions(model).newest()
        except (ConchError, OSError, ValueError):
            return File(edited=True, owner=known.owner or known.first_seen)
        recorded = known.in_force is None if newest is None else newest.sha256 == sha256(text)
        in_force = is_settled(config, shown) and (
            config == known.in_force
            or (covers(config, shown) and (recorded or agrees(config, shown)))
        )
        in_force = in_force and not self._versions_wait(config, shown, known)
        if in_force:
            known.in_force = config
        ours = newest is not None and recorded and is_ours(newest)
        if known.owner is None or (in_force and not ours):
            theirs = text if in_force and not recorded else None
            known.owner = self._owners(model, theirs, shown)
        return File(edited=not in_force, owner=known.owner or known.first_seen)

    def _versions_wait(self, config: ModelConfig, shown: ModelConfig, known: _Known) -> bool:
        """Whether an edit lets Triton serve versions that it does not serve yet.

        The config alone does not tell: one that serves all is in force whatever they are.
        """
        if known.in_force is None or config.version_policy == known.in_force.version_policy:
            return False
        if not model_config.may_serve_several(config) or model_config.named_versions(config):
            return False
        there = engines.served_versions(config, self._repository.versions(config.name))
        return tuple(there) != model_config.named_versions(shown)

    def _owners(self, model: str, text: str | None, shown: ModelConfig) -> Settings | None:
        """The settings of the owner's text, else of the newest revision that an owner wrote."""
        log = self._repository.revisions(model)
        try:
            if text is None:
                every = log.all()
                found = owners_revision(every)
                if every and found is None:
                    return None
                text = log.text(found.number) if found else self._repository.config_text(model)
            theirs = model_config.parse(text, source=f"{model}, the owner's")
        except (ConchError, OSError, ValueError):
            return None
        return settings_of(groups.resolved(theirs, shown, default=True))

    def _stamp(self, model: str) -> tuple[object, ...] | None:
        """Tells a newer file, or newer revisions, at the price of two questions to the disk."""
        stamps: list[object] = []
        state = self._repository.state / "revisions" / model
        for path in (self._repository.root / model / "config.pbtxt", state):
            try:
                found = path.stat()
                stamps += [found.st_mtime_ns, found.st_ino, found.st_size]
            except OSError as error:
                stamps.append(error.errno)
        return tuple(stamps)


def is_ours(revision: Revision) -> bool:
    """Whether Conch wrote it by itself."""
    return bool(revision.tick_id) or revision.reason.startswith(NOT_THE_OWNERS)


def owners_revision(revisions: Iterable[Revision]) -> Revision | None:
    """The newest revision that an owner wrote; None where there is none.

    One that was found on disk is the owner's, too, unless Conch had written the very same before:
    a full disk has no room for the revision of a rollback.
    """
    ours: set[str] = set()
    owners = None
    for revision in revisions:
        if is_ours(revision):
            ours.add(revision.sha256)
        elif revision.reason != FOUND or revision.sha256 not in ours:
            owners = revision
    return owners


def is_settled(config: ModelConfig, shown: ModelConfig) -> bool:
    """Whether Triton serves the settings of the config."""
    return settings_of(groups.resolved(config, shown)) == settings_of(shown)


def covers(config: ModelConfig, shown: ModelConfig) -> bool:
    """Whether Triton shows all that the config says."""
    mine = groups.resolved(config, shown)
    for name in _NOT_COMPARED:
        mine.ClearField(name)
    return _says(mine, shown)


def agrees(config: ModelConfig, shown: ModelConfig) -> bool:
    """Whether Triton also shows nothing that the config does not say, but for what it fills in."""
    mine = _without_filled(groups.resolved(config, shown))
    theirs = _without_filled(shown)
    if not config.dynamic_batching.preferred_batch_size:  # it fills in the largest
        for one in (mine, theirs):
            if one.HasField("dynamic_batching"):
                del one.dynamic_batching.preferred_batch_size[:]
    return covers(config, shown) and mine == theirs


def require_ours(repository: Repository, model: str, *texts: str) -> None:
    """Refuse to replace a file that is none of these texts: somebody edits it just now.

    Raises:
        Edited: when it is another.
    """
    if repository.config_text(model) not in texts:
        raise Edited(
            f"{model}: config.pbtxt was edited by hand while it was to be changed.",
            hint=edited_hint(model),
        )


def _without_filled(config: ModelConfig) -> ModelConfig:
    """The config without the fields that Triton fills in."""
    new = ModelConfig()
    new.CopyFrom(config)
    for name in FILLED:
        new.ClearField(name)
    return new


def _says(mine: Any, theirs: Any) -> bool:
    """Whether all that is in ``mine`` is in ``theirs``, field by field."""
    if isinstance(mine, Message):
        return all(
            (not field.has_presence or theirs.HasField(field.name))
            and _says(value, getattr(theirs, field.name))
            for field, value in mine.ListFields()
        )
    if hasattr(mine, "items"):
        return all(key in theirs and _says(mine[key], theirs[key]) for key in mine)
    if isinstance(mine, str | bytes) or not hasattr(mine, "__len__"):
        return bool(mine == theirs)
    pairs = zip(mine, theirs, strict=False)
    return len(mine) == len(theirs) and all(_says(one, other) for one, other in pairs)
