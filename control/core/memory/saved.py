"""What was learnt, as plain JSON types and back: for the journal, and a controller that restarts.

Whatever cannot be read, by age or by damage, is nothing learnt: a restart must never fail for it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from control.core.load.cache_use import Trials
from control.core.service.curves import ServiceTime
from control.core.service.evidence import Evidence, Tally, usable
from control.core.service.learnt import Learnt
from control.core.service.slow_seconds import LEAST, MOST, SHIFT_SECONDS, SlowSeconds
from control.core.service.versions import Versions

SCHEMA = 1
SUMS = ("busy_s", "usual_s", "batches", "span_s", "deviation", "weight")


def to_plain(learnt: Learnt) -> dict[str, Any]:
    """The learnt value in types that JSON has; ``from_plain`` gives an equal one back."""
    return {
        "schema": SCHEMA,
        "clock_s": learnt.clock_s,
        "sibling": asdict(learnt.sibling) if learnt.sibling else None,
        "slow": asdict(learnt.slow),
        "times": learnt.times,
        "seen": [
            {
                "instances": instances,
                "threads": threads,
                "busy_s": evidence.busy_s,
                "span_s": evidence.span_s,
                "seen_s": evidence.seen_s,
                "sizes": {str(size): list(tally) for size, tally in evidence.sizes.items()},
            }
            for (instances, threads), evidence in learnt.seen.items()
        ],
    }


def from_plain(data: Any, *, away_s: float = 0.0) -> Learnt:
    """The learnt value again; an empty one when the data is damaged or of another schema.

    Args:
        data: what ``to_plain`` gave.
        away_s: seconds since it was saved; by so much its evidence is older.
    """
    try:
        if data["schema"] != SCHEMA:
            return Learnt()
        sibling = data["sibling"]
        return Learnt(
            seen={
                (_whole(item["instances"]), _whole(item["threads"])): _evidence(item)
                for item in data["seen"]
            },
            clock_s=_number(data["clock_s"]) + _number(away_s),
            sibling=None if sibling is None else _curve(sibling),
            slow=_slow(data.get("slow"), away_s=_number(away_s)),
            times=_number(data.get("times", 1.0)) or 1.0,
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return Learnt()


def versions_to_plain(versions: Versions, *, now: int | None) -> dict[str, Any]:
    """Service times of the versions that are not in force, and whose ``to_plain`` is (``now``)."""
    others = [
        {"version": version, "learnt": to_plain(learnt)}
        for version, learnt in versions.others.items()
    ]
    return {"version": now, "others": others}


def versions_from_plain(data: Mapping[str, Any], *, away_s: float = 0.0) -> Versions:
    """The versions again; whatever cannot be read, and what an older journal lacks, is unknown.

    Args:
        data: what ``versions_to_plain`` gave.
        away_s: seconds since it was saved.
    """
    others = {}
    listed = data.get("others")
    for item in listed if isinstance(listed, list) else ():
        try:
            learnt = from_plain(item["learnt"], away_s=away_s)
            if learnt.seen:
                others[_whole(item["version"])] = learnt
        except (KeyError, TypeError, ValueError):
            continue
    try:
        now = _whole(data.get("version"))
    except ValueError:
        return Versions(others=others)
    return Versions(others=others, of=now)


def trials_to_plain(trials: Trials) -> dict[str, Any]:
    """The trials of the response cache."""
    return {"cache_trials": asdict(trials)}


def trials_from_plain(data: Mapping[str, Any]) -> Trials:
    """The trials again; none where that cannot be read, or in what an older journal has."""
    try:
        item = data["cache_trials"]
        failed_count, begun_s = item["failed_count"], item["begun_s"]
        return Trials(
            failed_count=_whole(failed_count) if failed_count else 0,
            begun_s=None if begun_s is None else _number(begun_s),
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        return Trials()


def refused_from_plain(data: Mapping[str, Any], refused: Iterable[int | None] = ()) -> int | None:
    """The smallest batch that the model has refused, by what was saved and by later refusals."""
    rows = [count for count in refused if count is not None]
    with suppress(ValueError):
        rows.append(_whole(data.get("refused_rows")))
    return min((count for count in rows if count > 1), default=None)


def peak_from_plain(data: Mapping[str, Any]) -> float:
    """The highest load on record; 0 where that cannot be read, or in what an older journal has."""
    with suppress(KeyError, TypeError, ValueError, OverflowError):
        return _number(data["peak_rps"])
    return 0.0


def away_s(data: Mapping[str, Any], *, at_s: float) -> float:
    """How long ago it was saved, by the ``saved_s`` in it; 0 where it does not say, or says later.

    An older journal does not say, and a clock may have been set back.
    """
    try:
        return max(0.0, at_s - _number(data["saved_s"]))
    except (KeyError, TypeError, ValueError, OverflowError):
        return 0.0


def _evidence(item: Mapping[str, Any]) -> Evidence:
    """One setting's evidence, of at least one batch size."""
    sizes = {int(size): _tally(int(size), numbers) for size, numbers in item["sizes"].items()}
    if not sizes:
        raise ValueError("a setting without evidence")
    return Evidence(
        sizes=sizes,
        busy_s=_number(item["busy_s"]),
        span_s=_number(item["span_s"]),
        seen_s=_number(item["seen_s"]),
    )


def _tally(size: int, numbers: Any) -> Tally:
    """One batch size's tally, if it could have been learnt."""
    tally = Tally(*(_number(number) for number in numbers))
    means = ((tally.batches, tally.mean_s), (tally.last_batches, tally.last_s))
    if not all(usable(size, batches, batches * mean_s) for batches, mean_s in means):
        raise ValueError("a tally that nobody can have learnt")
    return tally


def _curve(item: Mapping[str, Any]) -> ServiceTime:
    """A curve."""
    return ServiceTime(
        alpha_s=_number(item["alpha_s"]),
        beta_s=_number(item["beta_s"]),
        cv_fraction=_number(item["cv_fraction"]),
        table=tuple((_whole(size), _number(seconds)) for size, seconds in item["table"]),
    )


def _slow(item: Any, *, away_s: float) -> SlowSeconds:
    """How much seconds differ, less sure by the time away; nothing where that cannot be read."""
    try:
        level, setting = item["level"], item["setting"]
        slow = SlowSeconds(
            setting=None if setting is None else (_whole(setting[0]), _whole(setting[1])),
            level=None if level is None else min(MOST, max(LEAST, _number(level))),
            ratios=tuple(_number(ratio) for ratio in item.get("ratios", ())[-SHIFT_SECONDS:]),
            **{name: _number(item[name]) for name in SUMS},
        )
    except (KeyError, TypeError, ValueError, IndexError, OverflowError):
        return SlowSeconds()
    return slow if away_s == 0.0 and slow.possible else slow.aged(away_s)


def _number(value: Any) -> float:
    """A finite number of 0 or more."""
    number = float(value)
    if isinstance(value, str | bool) or not 0 <= number < math.inf:
        raise ValueError("not a finite number of 0 or more")
    return number


def _whole(value: Any) -> int:
    """A whole number of 1 or more."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError("not a whole number of 1 or more")
    return value
