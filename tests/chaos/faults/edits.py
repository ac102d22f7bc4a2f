"""Files that people touch: configs edited by hand, stray files and folders, the freeze switch."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import ClassVar, Self

from conch.errors import ConchError
from serving import model_config
from tests.chaos.fault import Cost, Fault
from tests.chaos.faults.processes import KillTriton
from tests.chaos.world.models import DENSE, SLEEPY
from tests.chaos.world.world import World, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class EditNotLoaded(Fault):
    """A person edits a config and does not load it: it must not be overwritten."""

    name: ClassVar[str] = "edit-not-loaded"
    costs: ClassVar[Cost] = Cost.WAIT
    lasts_s: float = 8.0
    count: int = 0

    @classmethod
    def drawn(cls, random: Random) -> Self:
        """Another count, or only a comment."""
        return cls(count=random.choice((0, 2, 4)))

    def inject(self, world: World) -> None:
        """Edit, and move the load so that the controller wants a change."""
        world.calm()
        text = world.repository.config_text(SLEEPY)
        edited = f"# by hand, {time.time():.3f}\n" + text
        if self.count:
            lines = edited.splitlines()
            edited = "\n".join(
                f"  count: {self.count}" if line.strip().startswith("count:") else line
                for line in lines
            )
            edited += "\n"
        world.owner_texts[SLEEPY].add(edited)
        replace(_path(world, SLEEPY), edited.encode())
        world.kept["edited"] = edited
        world.rise()

    def repair(self, world: World) -> None:
        """The person loads it."""
        world.kept["found"] = world.repository.config_text(SLEEPY)
        world.load.free()
        with world.client(30.0) as client:
            try:
                client.load(SLEEPY)
            except ConchError as error:
                world.note(f"  load of the edit: {error.message}")

    def verify(self, world: World) -> Iterator[str]:
        """The edit was still there when the person came to load it.

        Unless all that it asks for was in force, as with a comment: then the revisions keep it.
        """
        edited, log = world.kept["edited"], world.repository.revisions(SLEEPY)
        if world.kept["found"] == edited:
            return
        every = [(revision, log.text(revision.number)) for revision in log.all()]
        if all(text != edited for _, text in every):
            yield "an edit by hand that was not loaded yet was overwritten, and no revision has it"
        asked = model_config.parse(edited)
        if all(model_config.parse(text) != asked for revision, text in every if revision.tick_id):
            yield "an edit by hand that was not in force was overwritten"


@dataclass(frozen=True, slots=True, kw_only=True)
class EditGarbage(Fault):
    """A config is no config for a while, then it is what it was."""

    name: ClassVar[str] = "edit-garbage"
    costs: ClassVar[Cost] = Cost.WAIT
    lasts_s: float = 6.0
    model: str = DENSE

    @classmethod
    def drawn(cls, random: Random) -> Self:
        """Any model."""
        return cls(model=random.choice((SLEEPY, DENSE)))

    def inject(self, world: World) -> None:
        """Write garbage."""
        world.kept["text"] = world.repository.config_text(self.model)
        replace(_path(world, self.model), b"\xff{ no config")
        world.rise()

    def repair(self, world: World) -> None:
        """Write what was there."""
        replace(_path(world, self.model), world.kept["text"].encode())
        world.load.free()


@dataclass(frozen=True, slots=True, kw_only=True)
class EditTouched(Fault):
    """A config gets a new time and nothing else."""

    name: ClassVar[str] = "edit-touched"

    def inject(self, world: World) -> None:
        """Touch it, and make the controller change it."""
        os.utime(_path(world, SLEEPY))
        world.rise()

    def repair(self, world: World) -> None:
        """Nothing is to be repaired."""
        world.load.free()


@dataclass(frozen=True, slots=True, kw_only=True)
class ForbiddenFolder(Fault):
    """A folder that nobody may enter lies beside the models, such as a volume's ``lost+found``."""

    name: ClassVar[str] = "forbidden-folder"
    lasts_s: float = 5.0

    def inject(self, world: World) -> None:
        """Make it."""
        (world.root / "lost+found").mkdir(mode=0)

    def repair(self, world: World) -> None:
        """Remove it."""
        (world.root / "lost+found").rmdir()


@dataclass(frozen=True, slots=True, kw_only=True)
class ForbiddenFolderKill(ForbiddenFolder):
    """The same while tritonserver is killed: the restart must not stumble over it."""

    name: ClassVar[str] = "forbidden-folder-kill"
    costs: ClassVar[Cost] = Cost.SERVER
    lasts_s: float = 12.0

    def inject(self, world: World) -> None:
        """Make it, and kill."""
        ForbiddenFolder.inject(self, world)
        KillTriton().inject(world)


@dataclass(frozen=True, slots=True, kw_only=True)
class StrayRevision(Fault):
    """Somebody's notes lie among the revisions."""

    name: ClassVar[str] = "stray-revision"
    lasts_s: float = 10.0

    def inject(self, world: World) -> None:
        """Write them, and make the controller change something."""
        folder = world.root / ".conch" / "revisions" / SLEEPY
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "notes.pbtxt").write_text("do not forget the milk\n")
        world.calm()
        world.rise()

    def repair(self, world: World) -> None:
        """Remove them."""
        (world.root / ".conch" / "revisions" / SLEEPY / "notes.pbtxt").unlink(missing_ok=True)
        world.load.free()


@dataclass(frozen=True, slots=True, kw_only=True)
class OddEnum(Fault):
    """Another model's config holds a number that no type has."""

    name: ClassVar[str] = "odd-enum"
    lasts_s: float = 6.0

    def inject(self, world: World) -> None:
        """Write it, and make the controller change something of its own."""
        folder = world.root / "other"
        folder.mkdir()
        (folder / "config.pbtxt").write_text(
            "ensemble_scheduling { }\ninput { data_type: 99999999999999999999 }\n"
        )
        world.rise()

    def repair(self, world: World) -> None:
        """Remove it."""
        shutil.rmtree(world.root / "other", ignore_errors=True)
        world.load.free()


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenGarbage(Fault):
    """``frozen.json`` cannot be understood: nothing is changed until it can be."""

    name: ClassVar[str] = "frozen-garbage"
    costs: ClassVar[Cost] = Cost.WAIT
    lasts_s: float = 6.0
    text: str = "{"

    @classmethod
    def drawn(cls, random: Random) -> Self:
        """Several kinds of garbage."""
        kinds = (
            "{",
            "[]",
            '{"until_s": 3}',
            '{"until_s": {"*": "soon"}}',
            '{"until_s": {"*": NaN}}',
        )
        return cls(text=random.choice(kinds))

    def inject(self, world: World) -> None:
        """Write it; a change that is in flight may end."""
        world.calm()
        (world.root / ".conch" / "frozen.json").write_text(self.text)
        world.kept["text"] = _settled(world)
        world.rise()

    def repair(self, world: World) -> None:
        """Remove it."""
        world.kept["found"] = world.repository.config_text(SLEEPY)
        (world.root / ".conch" / "frozen.json").unlink(missing_ok=True)
        world.load.free()

    def verify(self, world: World) -> Iterator[str]:
        """Nothing was changed meanwhile."""
        if world.kept["found"] != world.kept["text"]:
            yield f"a config was changed while frozen.json was {self.text}"


def _settled(world: World) -> str:
    """The config once nobody has changed it for 4 s."""
    until_s, since_s = time.monotonic() + 40.0, time.monotonic()
    text = world.repository.config_text(SLEEPY)
    while time.monotonic() < min(until_s, since_s + 4.0):
        time.sleep(0.2)
        if (now := world.repository.config_text(SLEEPY)) != text:
            text, since_s = now, time.monotonic()
    return text


def _path(world: World, model: str) -> Path:
    return world.root / model / "config.pbtxt"


FAULTS = (
    EditNotLoaded,
    EditGarbage,
    EditTouched,
    ForbiddenFolder,
    ForbiddenFolderKill,
    StrayRevision,
    OddEnum,
    FrozenGarbage,
)
