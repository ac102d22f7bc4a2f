"""Several models under one budget: who gets how many instances, and what each may hold now.

Theory of operation. Where the budget carries what all models need, each gets it, and what is left
stays with those that hold it. Where it does not, an open queue decides: a model that gets less than
its load misses nearly every deadline, so three models at 77 % of their need are worth less than two
at 100 %. So, after the least that keeps a model alive, whole needs are met in the order of weight
per share of the budget; a model that holds its need already comes a little earlier, so that noise
does not move instances to and fro. What is left goes, one instance at a time, to the greatest gain
in weighted share of the load (Faro, 2024, relaxes its utility likewise).
``share`` says where it should end; ``cap`` what a model may hold at this moment: nobody takes what
another still holds or is loading, so the sum never passes the budget. The giver's cap falls first.
A scale up by a second copy counts both; where there is no room for that, it is made in place. Only
a reload that nothing can replace (another batch size, a rollback) may pass the budget for a while.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from control.core.budget import ladder
from control.core.budget.want import Limit, Want

_TINY = 1e-9


def share(wants: Sequence[Want], limit: Limit) -> dict[str, int]:
    """How many instances each model should have; never below its least.

    The least of all models wins over the budget where that does not even carry them.

    Example:
        Weights 3, 2, 1, each in need of 4 instances, and 9 in all: 4, 4 and 1.
    """
    counts = {want.model: want.min_instances for want in wants}
    lasting = {want.model: want.lasting for want in wants}
    if _fits(wants, lasting, limit):
        counts = dict(lasting)
    else:
        _meet_whole_needs(wants, counts, limit, lasting)
        _add_by_gain(wants, counts, limit, lasting)
    # What is left: to the need of the moment, to that of the last while, to whoever holds it.
    _raise(wants, counts, limit, {want.model: want.bounded(want.needed) for want in wants})
    _raise(wants, counts, limit, {want.model: want.bounded(want.hold) for want in wants})
    _raise(wants, counts, limit, {want.model: want.bounded(want.held) for want in wants})
    return counts


def cap(model: str, wants: Sequence[Want], goals: Mapping[str, int], limit: Limit) -> int:
    """The most instances that the model may hold now.

    Args:
        model: one of the wants.
        wants: of this moment: what was granted since the goals were set is held.
        goals: what ``share`` said.
        limit: the budget.
    """
    own = next(want for want in wants if want.model == model)
    reserved = [
        want if _has(want, goals[want.model]) else _reserved(want, goals[want.model])
        for want in wants
    ]
    room = min(_room(own, wants, limit), _room(own, reserved, limit))
    if _all_fit(reserved, limit):
        held = own.held if own.held * own.bytes_each <= own.kept_bytes else goals[model]
        return max(own.min_instances, held, room)
    # Others wait for what this one has, or this one waits for others. A grant comes whole: a
    # saturated model that takes a part of it has that change in flight until its queue is empty.
    goal = goals[model]
    return max(own.min_instances, goal if goal <= room else min(goal, own.held))


def _meet_whole_needs(
    wants: Sequence[Want], counts: dict[str, int], limit: Limit, needs: Mapping[str, int]
) -> None:
    """Give whole needs, the most weight per share of the budget first."""

    def worth(want: Want) -> float:
        cost = _cost(want, limit) * max(1, needs[want.model] - want.min_instances)
        bonus = ladder.HOLDER if want.held >= needs[want.model] else 1.0
        return bonus * want.weight / max(cost, _TINY)

    for want in sorted(wants, key=lambda w: (-worth(w), w.model)):
        raised = {**counts, want.model: max(counts[want.model], needs[want.model])}
        if _fits(wants, raised, limit):
            counts.update(raised)


def _add_by_gain(
    wants: Sequence[Want], counts: dict[str, int], limit: Limit, needs: Mapping[str, int]
) -> None:
    """One instance at a time to the greatest gain in weighted share of the load."""
    while True:
        best: Want | None = None
        most = 0.0
        for want in wants:
            count = counts[want.model]
            if count >= needs[want.model]:
                continue
            more = want.served_fraction(count + 1) - want.served_fraction(count)
            gain = want.weight * max(more, _TINY) / max(_cost(want, limit), _TINY)
            if gain > most and _fits(wants, {**counts, want.model: count + 1}, limit):
                best, most = want, gain
        if best is None:
            return
        counts[best.model] += 1


def _raise(
    wants: Sequence[Want], counts: dict[str, int], limit: Limit, upto: Mapping[str, int]
) -> None:
    """Raise counts towards these as far as there is room, the greatest weight first."""
    for want in sorted(wants, key=lambda w: (-w.weight, w.model)):
        while counts[want.model] < upto[want.model]:
            raised = {**counts, want.model: counts[want.model] + 1}
            if not _fits(wants, raised, limit):
                break
            counts.update(raised)


def _cost(want: Want, limit: Limit) -> float:
    """The greatest share of a limit that one instance takes (dominant resource fairness, 2011)."""
    shares = [each / most for each, most in _uses(want, limit)]
    return max(shares, default=0.0)


def _uses(want: Want, limit: Limit) -> list[tuple[float, float]]:
    """(what an instance takes, what there is) of everything that is limited."""
    pairs = (
        (1.0, limit.instances),
        (want.cores_each, limit.cores),
        (float(want.bytes_each), limit.memory_bytes),
    )
    return [(each, float(most)) for each, most in pairs if most is not None]


def _fits(wants: Sequence[Want], counts: Mapping[str, int], limit: Limit) -> bool:
    """Whether so many instances of each are within every limit."""
    if limit.instances is not None and sum(counts.values()) > limit.instances:
        return False
    if limit.cores is not None:
        cores = sum(counts[want.model] * want.cores_each for want in wants)
        if cores > limit.cores + _TINY:
            return False
    if limit.memory_bytes is None:
        return True
    return sum(counts[want.model] * want.bytes_each for want in wants) <= limit.memory_bytes


def _has(want: Want, goal: int) -> bool:
    """Whether it has what it is to have."""
    enough = want.held_bytes is None or want.held_bytes >= goal * want.bytes_each
    return want.held >= goal and enough


def _reserved(want: Want, goal: int) -> Want:
    """The want with what it will have, where that is more than it has."""
    kept = max(want.kept_bytes, goal * want.bytes_each)
    return replace(want, held=max(want.held, goal), held_bytes=kept)


def _all_fit(wants: Sequence[Want], limit: Limit) -> bool:
    """Whether all that is held is within every limit."""
    most = limit.memory_bytes
    if most is not None:
        if sum(want.kept_bytes for want in wants) > most:
            return False
        limit = replace(limit, memory_bytes=None)
    return _fits(wants, {want.model: want.held for want in wants}, limit)


def room_bytes(model: str, wants: Sequence[Want], most: int) -> int:
    """What the others leave of the memory at this moment."""
    return most - sum(want.taken_bytes for want in wants if want.model != model)


def _room(own: Want, wants: Sequence[Want], limit: Limit) -> int:
    """How many instances the model could hold beside what the others hold now."""
    others = [want for want in wants if want.model != own.model]
    rooms = [own.max_instances]
    if limit.instances is not None:
        rooms.append(limit.instances - sum(want.held + want.second for want in others))
    if limit.cores is not None and own.cores_each > 0:
        left = limit.cores - sum((want.held + want.second) * want.cores_each for want in others)
        rooms.append(math.floor(left / own.cores_each + _TINY))
    each = max(own.bytes_each, own.kept_bytes / max(1, own.held))  # with what stands by
    if limit.memory_bytes is not None and each > 0:
        left = room_bytes(own.model, wants, limit.memory_bytes)
        rooms.append(math.floor(left / each))
    return max(0, min(rooms))
