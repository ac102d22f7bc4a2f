"""What lies in a repository's state, and beside a model: revisions, lineage, freezes, the epoch."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import random
import shutil
from collections.abc import Callable

from control import freeze
from control.lease import Fenced, sole_writer
from serving import check, model_config
from tests.fuzz_mutate import of_bytes, of_value
from tests.fuzz_scratch import is_refused, mutated_json, scratch_repository


def revisions(draw: random.Random) -> bool:
    """Their files: bytes, names, gone."""
    with scratch_repository() as repository:
        config = repository.read_config("m")
        for count in (2, 3):
            changed = model_config.with_instances(config, count)
            repository.write_config("m", changed, reason=f"r{count}")
        folder = repository.state / "revisions" / "m"
        for _ in range(draw.choice((1, 2, 4))):
            paths = sorted(folder.iterdir())
            path = draw.choice(paths)
            kind = draw.randrange(6)
            if path.is_dir():
                shutil.rmtree(path)
            elif kind <= 1:
                path.write_bytes(of_bytes(path.read_bytes(), draw))
            elif kind == 2 and path.suffix == ".json":
                with contextlib.suppress(ValueError, RecursionError):
                    path.write_text(json.dumps(of_value(json.loads(path.read_text()), draw)))
            elif kind == 3:
                path.unlink()
                if draw.random() < 0.3:
                    path.mkdir()
            else:
                name = of_bytes(os.fsencode(path.name), draw).replace(b"/", b"").replace(b"\0", b"")
                with contextlib.suppress(OSError):
                    path.rename(folder / os.fsdecode(name[:200]))
        log = repository.revisions("m")
        refused = [is_refused(functools.partial(log.text, r)) for r in range(5)]
        log.all()
        new = repository.write_config("m", model_config.with_instances(config, 5), reason="new")
        assert log.newest() == new
        assert log.all()[-1] == new
        assert log.text(new.number) == repository.config_text("m")
    return any(refused)


def lineage(draw: random.Random) -> bool:
    """Where a version comes from."""
    good = {"schema": 1, "files": {"model.py": "0" * 64}, "source": {"kind": "x"}}
    with scratch_repository() as repository:
        path = repository.root / "m" / "1" / "lineage.json"
        path.write_bytes(mutated_json(good, draw))
        repository.lineage("m", 1)
        return bool(check.check(repository))


def frozen(draw: random.Random) -> bool:
    """The freezes: any file freezes something, or says until when."""
    good = {"schema": 1, "until_s": {"*": None, "m": 2e9, "n": 1.0}}
    with scratch_repository() as repository:
        freeze.path_of(repository).write_bytes(mutated_json(good, draw))
        read = freeze.read(repository)
        until_s = read.of("m", now_s=1.0)
        assert until_s is None or until_s > 1.0
        freeze.pause(repository, "m", for_s=5.0, now_s=1.0)
        assert freeze.read(repository).of("m", now_s=2.0) is not None
        return read.until_s == {"*": math.inf}


def epoch(draw: random.Random) -> bool:
    """The fence's file: who held it before is out, the next one gets in."""
    with scratch_repository() as repository:
        with sole_writer(repository) as first:
            before = first.path.read_bytes()
            after = of_bytes(before, draw)
            first.path.write_bytes(after)
            fenced = is_refused(first.check)
            if not fenced:
                assert after.split() == before.split()
        with sole_writer(repository) as second:
            second.check()
            try:
                first.check()
            except Fenced:
                return fenced
            raise AssertionError("two may write")


TARGETS: dict[str, Callable[[random.Random], bool]] = {
    "revisions": revisions,
    "lineage": lineage,
    "frozen": frozen,
    "epoch": epoch,
}
