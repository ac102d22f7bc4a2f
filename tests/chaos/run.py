"""One run: the plan's faults in turn, what must hold after each, and what was seen."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.chaos import invariants
from tests.chaos.fault import Fault, Step
from tests.chaos.world.processes import tail, wait_until
from tests.chaos.world.world import World

TEMPORARY_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """A promise that a fault broke.

    Attributes:
        invariant: which one.
        said: what was seen.
        evidence: the ends of the logs.
    """

    invariant: str
    said: str
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one fault.

    Attributes:
        step: which; None for what was left at the end of the run.
        checked: invariants that were checked.
        lost: requests that were not answered.
        outage_s: the longest time in which a model answered nothing.
        seconds: from the injection to the last check.
        broken: the promises.
    """

    step: Step | None
    checked: int
    lost: int = 0
    outage_s: float = 0.0
    seconds: float = 0.0
    broken: tuple[Broken, ...] = ()


def run(
    steps: Sequence[Step],
    *,
    seed: int,
    seconds: float,
    fail_fast: bool,
    keep: bool,
    note: Callable[[str], None],
    told: Callable[[Outcome], None],
) -> list[Outcome]:
    """Inject the faults one after the other; ends what it started, however it ends.

    Args:
        steps: of the plan.
        seed: of the load.
        seconds: no fault begins after this.
        fail_fast: whether to end at the first broken promise.
        keep: whether the folder with the logs stays.
        note: for lines about the course.
        told: called with each outcome.
    """
    outcomes: list[Outcome] = []
    work = Path(tempfile.mkdtemp(prefix="conch-chaos-"))
    world = World(work, seed=seed, note=note)
    temporary: list[str] = []
    try:
        with world:
            note(f"up in {world.start_s:.1f} s; own disk: {'yes' if world.on_own_disk else 'no'}")
            begun_s = time.monotonic()
            for step in steps:
                if time.monotonic() - begun_s >= seconds:
                    note("the time is over")
                    break
                time.sleep(max(0.0, begun_s + step.at_s - time.monotonic()))
                outcomes.append(_one(world, step))
                told(outcomes[-1])
                if outcomes[-1].broken and fail_fast:
                    break
            temporary = _after_the_last(world)
        outcomes.append(_left(world, temporary))
        told(outcomes[-1])
    finally:
        world.stop()
        for line in world.left():
            note(f"removed at the end: {line}")
        if keep:
            note(f"logs: {work}")
        else:
            world.remove()
    return outcomes


def _one(world: World, step: Step) -> Outcome:
    """Inject, wait, repair, check."""
    world.kept.clear()
    fault = step.fault
    since_s = time.monotonic()
    _, _, between = invariants.losses(world, Fault(), world.counted_s, since_s)
    broken = [_broken(world, "requests between two faults", said) for said in between]
    survived = True
    try:
        fault.inject(world)
        time.sleep(fault.lasts_s)
        survived = world.controls()
    except Exception as error:
        broken.append(_broken(world, "the harness", f"{type(error).__name__}: {error}"))
    try:
        fault.repair(world)
    except Exception as error:
        broken.append(_broken(world, "the harness", f"{type(error).__name__}: {error}"))
    if not survived and not fault.ends_controller:
        broken.append(_broken(world, "controller survives", "the controller has ended"))
    world.ensure_controller()
    for name, invariant in invariants.INVARIANTS.items():
        broken += [_broken(world, name, said) for said in _said(invariant(world, fault))]
    broken += [_broken(world, "the fault's own", said) for said in _said(fault.verify(world))]
    lost, outage_s, lost_wrongly = invariants.losses(world, fault, since_s, time.monotonic())
    broken += [_broken(world, "requests", said) for said in lost_wrongly]
    if broken:
        world.mend()
    world.counted_s = time.monotonic()
    return Outcome(
        step=step,
        checked=len(invariants.INVARIANTS) + 4,
        lost=lost,
        outage_s=outage_s,
        seconds=time.monotonic() - since_s,
        broken=tuple(broken),
    )


def _said(words: Iterator[str]) -> Iterator[str]:
    """The words; an error of the check itself is one of them."""
    try:
        yield from words
    except Exception as error:
        yield f"{type(error).__name__}: {error}"


def _broken(world: World, invariant: str, said: str) -> Broken:
    """With the ends of the logs as they are now."""
    evidence = [f"control: {line}" for line in tail(world.log("control"), 5)]
    evidence += [f"serve: {line}" for line in tail(world.log("serve"), 4)]
    evidence += [f"triton: {line}" for line in tail(world.triton_log, 2)]
    return Broken(invariant=invariant, said=said, evidence=tuple(evidence))


def _after_the_last(world: World) -> list[str]:
    """End the controller; gives what it leaves of temporary files after a clean start and end."""
    with suppress(OSError):
        world.end_controller()
        wait_until(lambda: not world.temporary(), TEMPORARY_S)
        return world.temporary()
    return []


def _left(world: World, temporary: Sequence[str]) -> Outcome:
    """Whether everything is gone."""
    said = [*world.left(), *(f".conch/tmp/{name}" for name in temporary)]
    broken = [Broken(invariant="nothing is left", said=line) for line in said]
    return Outcome(step=None, checked=1, broken=tuple(broken))
