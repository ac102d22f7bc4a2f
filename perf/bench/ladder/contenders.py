"""Who holds what and when: Conch, fixed sets in hindsight, and loading on demand. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from perf.bench.ladder.conch import conch
from perf.bench.ladder.held import Held
from perf.bench.ladder.loads import BEST, CHEAP, Load
from perf.traces import Times


def static_cheap(load: Load, _: list[Times]) -> Held:
    """All at their cheapest, all the time."""
    return Held.constant([CHEAP] * load.models)


def static_top(load: Load, arrivals: list[Times]) -> Held:
    """The models that are asked most over the whole run, at their best; the others not at all."""
    top = _most_asked(arrivals, load.room)
    return Held.constant([BEST if number in top else None for number in range(load.models)])


def static_mixed(load: Load, arrivals: list[Times]) -> Held:
    """The models that are asked most over the whole run at their best, the others cheap."""
    top = _most_asked(arrivals, load.best_at_once)
    return Held.constant([BEST if number in top else CHEAP for number in range(load.models)])


def ideal(load: Load, _: list[Times]) -> Held:
    """In each phase the best of the models that are asked most, changed at once and for nothing."""
    held = Held.constant([CHEAP] * load.models)
    for phase in range(load.phases):
        rates = load.rates_rps(phase)
        top = set(np.argsort(rates)[load.models - load.best_at_once :].tolist())
        for number in range(load.models):
            held.set(number, phase * load.phase_s, BEST if number in top else CHEAP)
    return held


def lru(load: Load, arrivals: list[Times]) -> Held:
    """The best version on demand, one loading at a time; who was asked least recently goes.

    Requests to a model that is not there wait for its loading.
    """
    held = Held.constant([BEST if number < load.room else None for number in range(load.models)])
    used_s = dict.fromkeys(range(load.room), 0.0)  # by model, of those that are there or load
    wanted: dict[int, float] = {}  # since when, in that order
    free_s = 0.0
    asked = [(at_s, number) for number, times in enumerate(arrivals) for at_s in times.tolist()]
    for at_s, number in sorted(asked):
        while wanted and free_s <= at_s:
            begin_s = max(free_s, wanted.pop(chosen := next(iter(wanted))))
            out = min(used_s, key=used_s.__getitem__)
            del used_s[out]
            held.set(out, begin_s, None)
            used_s[chosen] = free_s = begin_s + load.load_s
            held.set(chosen, free_s, BEST)
            held.changes += 1
        if number in used_s:
            used_s[number] = max(used_s[number], at_s)
        else:
            wanted.setdefault(number, at_s)
    return held


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """One way to hold the models.

    Attributes:
        plays: gives what is held, from the load and the arrivals of each model.
        says: what it does, for people.
    """

    plays: Callable[[Load, list[Times]], Held]
    says: str


CONTENDERS: Mapping[str, Contender] = {
    "conch": Contender(plays=conch, says="the ladder of the control loop"),
    "lru": Contender(plays=lru, says="the best on demand, least recently used out"),
    "static-top": Contender(plays=static_top, says="the most asked at their best, no others"),
    "static-cheap": Contender(plays=static_cheap, says="all at their cheapest"),
    "static-mixed": Contender(plays=static_mixed, says="the most asked at best, others cheap"),
    "ideal": Contender(plays=ideal, says="the right ones in each phase, at once"),
}
"""All but conch and lru know the whole load beforehand."""


def _most_asked(arrivals: list[Times], count: int) -> set[int]:
    """The models with the most requests."""
    return set(np.argsort([times.size for times in arrivals])[len(arrivals) - count :].tolist())
