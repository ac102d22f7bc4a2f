"""One ladder: which version each model holds where memory does not hold the best of all.

Theory of operation. Every model keeps its lowest rung; nobody is starved. What is left goes to
whoever makes the most of it: requests in time, weighted, times the quality of the answer. A rung
that is free is taken at once. One that another model must give is a loading for the taker, and for
the giver one more when it comes back; meanwhile both answer at the lower quality. So a taker's lead
over the cheapest givers is added up, and the swap is made when it has cost as much as the swap
would (the break-even rule of ski rental; Karlin et al., 1994; with several models and sizes it is
Young's Landlord, *On-line file caching*, 1998): an order that has lasted so long is expected to
last as long again. How long orders last is learnt from the swaps: after one that was ended before
it earned its cost, a lead must be twice as long, so that phases of a few climbs are left alone.
Giver and taker are one plan.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

HOLDER = 1.25
"""A need that is met, or a rung that is held, counts this much more than one that is not."""
MOST_PATIENCE = 16.0
"""Swaps in vain lengthen the lead that the next one takes up to so many times: orders that begin to
last are still found."""


class Place(enum.Enum):
    """Where a model answers from, the best first."""

    DEVICE = "in the memory of its device"
    CPU = "on the CPU beside the device: as good, slower, and no memory of the device"
    NOT_RESIDENT = "not loaded: a gateway holds the first request while it is"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One way in which a model may be held.

    Attributes:
        version: that answers; None where the model has no interchangeable ones.
        place: where.
        bytes_each: of the device's memory, for one instance; 0 where it is not known.
        beside_bytes: of the next cheaper version, loaded beside; None where it cannot be.
        quality: of an answer, 0 to 1.
        capacities: Λ by instance count; empty where nothing is known.
    """

    version: int | None = None
    place: Place = Place.DEVICE
    bytes_each: int = 0
    beside_bytes: int | None = None
    quality: float = 1.0
    capacities: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A rung as it would be held now.

    Attributes:
        size: bytes of all its instances.
        worth: weighted requests/s in time, times their quality.
    """

    size: int
    worth: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Climber:
    """One model on its ladder.

    Attributes:
        model: its name.
        steps: of its rungs, best first.
        at: which of them it has.
        climb_s: how long a rung takes to load.
    """

    model: str
    steps: tuple[Step, ...]
    at: int
    climb_s: float

    @property
    def now(self) -> Step:
        """What it has."""
        return self.steps[self.at]

    @property
    def lasting(self) -> Climber:
        """The same without a rung that answers fewer in time than the lowest."""
        return self if self.now.worth >= self.steps[-1].worth else self.moved(len(self.steps) - 1)

    def moved(self, at: int) -> Climber:
        """The same on another rung."""
        return replace(self, at=at)

    def ups(self) -> list[Climber]:
        """On each better rung that is worth no less."""
        return [self.moved(n) for n in range(self.at) if self.steps[n].worth >= self.now.worth]

    def downs(self) -> list[Climber]:
        """On each lower rung that takes less."""
        lower = range(self.at + 1, len(self.steps))
        return [self.moved(n) for n in lower if self.steps[n].size < self.now.size]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stay:
    """What a swap cost, and what it has earned since.

    Attributes:
        cost, earned: weighted requests, times their quality.
        givers: who gave.
    """

    cost: float
    earned: float
    givers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Who should have which rung.

    Attributes:
        rungs: index of the rung by model.
        leads: by how much each model that waits for others has been ahead of them, in requests.
        stays: of the models that took a rung from others.
        patience: times its cost, a lead must be for a swap.
    """

    rungs: Mapping[str, int] = field(default_factory=dict)
    leads: Mapping[str, float] = field(default_factory=dict)
    stays: Mapping[str, Stay] = field(default_factory=dict)
    patience: float = 1.0


def plan(climbers: Sequence[Climber], room: float, before: Plan, seconds: float) -> Plan:
    """The rungs to have; the lowest of all models win over the room where even they do not fit.

    Args:
        climbers: the models, on the rungs that they had by the last plan.
        room: bytes for all of them.
        before: the last plan.
        seconds: since then.

    Example:
        Room for one best version beside the cheap one of the other: 40 req/s hold it, 100 come to
        the other, 2 s to load. The lead is 100 - 1.25 · 40 req/s at half the quality, the swap
        costs 2 s of 140 at half the quality: after 5.6 s the other has it.
    """
    at = {climber.model: climber.lasting for climber in climbers}
    while _taken(at) > room and (down := _cheapest(at.values())):
        at[down.model] = down
    while up := _free(at.values(), room - _taken(at)):
        at[up.model] = up
    leads: dict[str, float] = {}
    patience, stays = before.patience, _earned(before.stays, at, seconds)
    downs = _downs(at)
    for model in sorted(at, key=lambda name: (-_gain(at[name], _top(at[name])), name)):
        gain = _gain(at[model], up := _top(at[model]))
        needed = up.now.size - at[model].now.size - (room - _taken(at))
        givers = _givers(at, [down for down in downs if down.model != model], needed)
        if gain <= 0.0 or not givers:
            continue
        lost = {giver.model: -_gain(at[giver.model], giver) for giver in givers}
        ahead = gain - HOLDER * sum(lost.values())
        lead = max(0.0, before.leads.get(model, 0.0) + ahead * seconds)
        cost = up.climb_s * gain + sum(giver.climb_s * lost[giver.model] for giver in givers)
        if ahead <= 0.0 or lead < patience * cost:
            leads |= {model: lead} if lead > 0.0 else {}
            continue
        at |= {giver.model: giver for giver in givers} | {model: up}
        for ended in (stays.pop(name) for name in lost if name in stays):
            vain = ended.earned < ended.cost
            patience = min(MOST_PATIENCE, 2.0 * patience) if vain else max(1.0, patience / 2.0)
        downs = _downs(at)
        stays[model] = Stay(cost=cost, earned=0.0, givers=tuple(lost))
    rungs = {model: climber.at for model, climber in at.items()}
    return Plan(rungs=rungs, leads=leads, stays=stays, patience=patience)


def _earned(
    stays: Mapping[str, Stay], at: Mapping[str, Climber], seconds: float
) -> dict[str, Stay]:
    """The stays that go on, with what they earned since the last plan."""

    def worth(model: str) -> float:
        steps = at[model].steps
        return max(step.worth for step in steps) - steps[-1].worth

    found = {}
    for model, stay in stays.items():
        if model in at and at[model].at < len(at[model].steps) - 1:
            ahead = worth(model) - sum(worth(giver) for giver in stay.givers if giver in at)
            found[model] = replace(stay, earned=stay.earned + ahead * seconds)
    return found


def _taken(at: Mapping[str, Climber]) -> int:
    """Bytes of all."""
    return sum(climber.now.size for climber in at.values())


def _gain(before: Climber, after: Climber) -> float:
    """What a move is worth each second; below 0 for a loss."""
    return after.now.worth - before.now.worth


def _top(climber: Climber) -> Climber:
    """On the best rung that it can use; the smallest of equals."""
    return max([climber, *climber.ups()], key=lambda up: (up.now.worth, -up.now.size))


def _cheapest(climbers: Iterable[Climber]) -> Climber | None:
    """The move down that costs least for each byte, then the soonest back; None without one."""
    downs = [(now, down) for now in climbers for down in now.downs()]
    if not downs:
        return None
    return min(downs, key=lambda move: _cost(*move))[1]


def _cost(now: Climber, down: Climber) -> tuple[float, float, str]:
    """What each byte costs that a move down frees, and how long it takes to come back."""
    return (-_gain(now, down) / (now.now.size - down.now.size), now.climb_s, now.model)


def _free(climbers: Iterable[Climber], room: float) -> Climber | None:
    """The move up into the room that is worth most for each byte; None without one."""
    best, most = None, -1.0
    for now in climbers:
        for up in now.ups():
            more = up.now.size - now.now.size
            worth = _gain(now, up) / more if more > 0 else math.inf
            if more <= room and worth > most:
                best, most = up, worth
    return best


def _downs(at: Mapping[str, Climber]) -> list[Climber]:
    """What each may give, the cheapest for each byte first."""
    downs = [down for climber in at.values() if (down := _cheapest([climber]))]
    return sorted(downs, key=lambda down: _cost(at[down.model], down))


def _givers(at: Mapping[str, Climber], downs: list[Climber], needed: float) -> list[Climber]:
    """Those whose moves down make so much room, in their order; empty where all do not."""
    found: list[Climber] = []
    for down in downs:
        if needed <= 0:
            break
        found.append(down)
        needed -= at[down.model].now.size - down.now.size
    for down in list(found):  # what another makes more than enough
        if needed + (freed := at[down.model].now.size - down.now.size) <= 0:
            found.remove(down)
            needed += freed
    return [] if needed > 0 else found
