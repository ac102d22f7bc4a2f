"""What must hold after every fault. Each is waited for with patience; none depends on speed."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path

from conch.errors import ConchError
from control.journal.writer import Journal
from serving import model_config, probe
from tests.chaos.fault import Cost, Fault
from tests.chaos.world.load import DEADLINE_S, Answer
from tests.chaos.world.models import MODELS
from tests.chaos.world.processes import wait_until
from tests.chaos.world.world import World

PATIENCE_S = 40.0
"""For what has to come back by itself; a loading time is added."""
SERVICE_GAP_S = 3.0
"""Time without service after a death, beside the loading and the supervisor's own pause."""
_GONE = ("UNAVAILABLE", "CANCELLED", "not found", "no available versions", "not ready", "unloading")
_STUB = ("stub", "not healthy", "shared memory", "UNAVAILABLE: Request for unknown model")


def configs_whole(world: World, _: Fault) -> Iterator[str]:
    """Every config parses, and is a whole text of the revision log or of the owner."""
    for name in MODELS:
        try:
            text = world.repository.config_text(name)
            model_config.parse(text, source=name)
        except ConchError as error:
            yield f"{name}: {error.message}"
            continue
        folder = world.root / ".conch" / "revisions" / name
        known = {_text(path) for path in folder.glob("[0-9]*.pbtxt")}
        if text not in known | world.owner_texts[name]:
            yield f"{name}: config.pbtxt is a text that nobody wrote ({len(text)} characters)"


def everything_serves(world: World, _: Fault) -> Iterator[str]:
    """Triton answers a probe of every model, three times in a row."""
    limit_s = PATIENCE_S + world.start_s
    until_s = time.monotonic() + limit_s
    for name in MODELS:
        last = [""]
        left_s = max(0.0, until_s - time.monotonic())
        if not wait_until(partial(_answers, world, name, last), left_s):
            yield f"{name}: no answer within {limit_s:.0f} s ({last[0][:150]})"


def one_writer(world: World, _: Fault) -> Iterator[str]:
    """No two controllers of this repository run past the fence."""

    def alive() -> list[int]:
        return [p.pid for p in world.controllers if p.poll() is None]

    if not wait_until(lambda: len(alive()) <= 1, 10.0):
        yield f"{len(alive())} controllers run: {alive()}"


def journal_sound(world: World, _: Fault) -> Iterator[str]:
    """It opens, and ``PRAGMA quick_check`` says ok."""
    last = [""]

    def ok() -> bool:
        try:
            if not world.journal.is_file():
                last[0] = "it is not there"
                return False
            with closing(sqlite3.connect(f"file:{world.journal}?mode=ro", uri=True)) as db:
                (last[0],) = db.execute("PRAGMA quick_check").fetchone()
        except sqlite3.Error as error:
            last[0] = str(error)
        return last[0] == "ok"

    if not wait_until(ok, 15.0, step_s=0.5):
        yield f"journal: {last[0]}"


def decisions_go_on(world: World, fault: Fault) -> Iterator[str]:
    """Every model gets new decisions, and they are in the journal."""
    if not world.controls():
        said = "" if fault.ends_controller else " though nothing asked it to"
        yield f"the controller has ended{said} (exit code {_code(world)})"
        return
    since_s, missing = time.time(), list(MODELS)
    last = [""]

    def all_there() -> bool:
        missing[:] = [name for name in missing if not _decided(world, name, since_s, last)]
        return not missing

    limit_s = PATIENCE_S + world.start_s
    if not wait_until(all_there, limit_s, step_s=0.5):
        yield f"{', '.join(missing)}: no decision in the journal for {limit_s:.0f} s {last[0]}"


INVARIANTS: Mapping[str, Callable[[World, Fault], Iterator[str]]] = {
    "controller and decisions go on": decisions_go_on,
    "configs are whole": configs_whole,
    "everything serves": everything_serves,
    "one writer": one_writer,
    "journal is sound": journal_sound,
}


def losses(
    world: World, fault: Fault, since_s: float, until_s: float
) -> tuple[int, float, list[str]]:
    """Requests lost, the longest time in which a model answered nothing, and what was not allowed.

    Waits until the last request of that time has its answer or its deadline.
    """
    wait_until(lambda: world.load.answered(until_s), DEADLINE_S + 2.0)
    answers = world.load.between(since_s, until_s)
    lost = [answer for answer in answers if answer.error]
    refused = [answer for answer in lost if not _allowed(answer, fault.costs)]
    broken = []
    if refused:
        texts = sorted({f"{a.model}: {a.error[:100]}" for a in refused})
        broken.append(f"{len(refused)} requests lost that may not be: {'; '.join(texts[:3])}")
    longest_s = max((_outage_s(answers, name) for name in MODELS), default=0.0)
    limit_s = _outage_limit_s(world, fault, since_s)
    if longest_s > limit_s:
        broken.append(f"{longest_s:.1f} s without service, at most {limit_s:.1f} s are allowed")
    return len(lost), longest_s, broken


def _outage_limit_s(world: World, fault: Fault, since_s: float) -> float:
    """3 s and the loading; the supervisor's pause doubles for deaths within a minute."""
    deaths = sum(since_s - 60.0 < at_s < since_s for at_s in world.triton_deaths_s)
    pause_s = 0.5 * float(2**deaths)
    held_s: float = world.kept.get("held_s", 0.0)  # for so long the harness itself stopped it
    return SERVICE_GAP_S + fault.lasts_s + held_s + pause_s + 2 * world.start_s


def _outage_s(answers: list[Answer], model: str) -> float:
    """The longest run of requests without one good answer."""
    longest_s = 0.0
    begun_s: float | None = None
    for answer in answers:
        if answer.model != model:
            continue
        if not answer.error:
            begun_s = None
            continue
        begun_s = answer.due_s if begun_s is None else begun_s
        longest_s = max(longest_s, answer.due_s - begun_s)
    return longest_s


def _allowed(answer: Answer, costs: Cost) -> bool:
    """Whether the fault may have lost this request."""
    error = answer.error
    late = error.startswith("DEADLINE_EXCEEDED")
    gone = any(word in error for word in _GONE)
    stub = any(word in error.lower() or word in error for word in _STUB)
    return (
        (Cost.SERVER in costs and (gone or late or stub))
        or (Cost.STUB in costs and (stub or late or gone))
        or (Cost.WAIT in costs and late)
    )


def _answers(world: World, name: str, last: list[str]) -> bool:
    """Whether three probes in a row are answered."""
    try:
        with world.client() as client:
            for _ in range(3):
                probe.probe(client, client.config(name), deadline_s=5.0)
    except Exception as error:
        last[0] = str(error)
        return False
    return True


def _decided(world: World, name: str, since_s: float, last: list[str]) -> bool:
    """Whether the journal has a decision of the model since then."""
    try:
        with Journal(world.journal, read_only=True) as journal:
            newest = next(iter(journal.entries(name, last=1)), None)
    except Exception as error:
        last[0] = f"({type(error).__name__}: {error})"
        return False
    return newest is not None and newest.decision.at_s >= since_s


def _code(world: World) -> int | None:
    return None if world.controller is None else world.controller.poll()


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except (OSError, UnicodeDecodeError):
        return ""
