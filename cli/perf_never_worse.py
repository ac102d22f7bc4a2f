"""``conch perf bench never-worse``: is anybody worse off under control than with nobody there?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from cli.options import json_option
from cli.output import echo, print_json, print_table
from conch.errors import ConfigError, LoadError, ThresholdMissed
from conch.units import DURATION

if TYPE_CHECKING:
    from perf.bench.never_worse.compare import Compared, Pair, Verdict
    from perf.bench.never_worse.play import Played
    from perf.bench.never_worse.subjects import Subject


@click.command("never-worse")
@click.option("--models", metavar="A,B", help="Only these of the table. [default: all]")
@click.option("--pairs", type=click.IntRange(1, 10), default=3, show_default=True, help="Of each.")
@click.option("--seconds", type=DURATION, default="60s", show_default=True, help="Of each run.")
@click.option("--list", "list_only", is_flag=True, help="Print the models and end.")
@json_option
def never_worse(
    models: str | None, pairs: int, seconds: float, list_only: bool, as_json: bool
) -> None:
    """Models as people write them: attainment with `conch control run --slo`, and with nobody.

    Both sides see the same arrivals, in turn, each on a Triton of its own with the owner's config.
    The load is 50 to 78 % of what that config carries, with a step in the middle. Exits with 5
    when a model that waits loses more than 0.5 points, when the 95 % interval of one that burns
    CPU reaches below -2 points, or when more requests fail under control than without.

    \b
    Example:
      conch perf bench never-worse
      conch perf bench never-worse --models sleep6,burn1 --pairs 1 --json
    """
    from perf.bench.never_worse import compare
    from perf.bench.never_worse.compare import Verdict
    from perf.bench.never_worse.subjects import SUBJECTS

    known = {subject.name: subject for subject in SUBJECTS}
    names = models.split(",") if models else list(known)
    for name in names:
        if name not in known:
            raise ConfigError(
                f"models: {name!r}, known are: {', '.join(known)}.", hint="See --list."
            )
    if list_only:
        _list([known[name] for name in names])
        return
    found = [
        compare.compare(
            known[name],
            pairs=pairs,
            seconds=seconds,
            note=lambda line: echo(line, err=True),
        )
        for name in names
    ]
    if as_json:
        print_json({"models": [_as_json(each) for each in found]})
    else:
        _tell(found)
    if worse := _names(found, Verdict.WORSE):
        raise ThresholdMissed(
            f"never worse: {worse} worse under control, none may be.",
            hint="`--models NAME --json` has every second and every change.",
        )
    if unknown := _names(found, Verdict.NOT_VALID):
        raise LoadError(
            f"never worse: {unknown}: the client fell behind in every pair, twice.",
            hint="Run these again on a quieter machine: --models NAME,...",
        )


def _list(subjects: Sequence[Subject]) -> None:
    """What there is to be compared."""
    table = Table("model", "p99, ms", "what", box=None)
    for each in subjects:
        table.add_row(each.name, f"{each.slo_s * 1e3:g}", each.what)
    print_table(table)


def _names(found: Sequence[Compared], verdict: Verdict) -> str:
    """The models of which this was found."""
    return ", ".join(each.subject.name for each in found if each.verdict is verdict)


def _tell(found: Sequence[Compared]) -> None:
    """A table of 80 columns, then what was changed."""
    table = Table("model", "alone %", "control %", "points", "95 %", "failed", "", box=None)
    for each in found:
        counted = each.counted
        low, high = each.by_blocks()
        table.add_row(
            each.subject.name,
            _percent(counted, "alone"),
            _percent(counted, "controlled"),
            f"{100 * each.difference:+.2f}" if counted else "",
            f"{100 * low:+.1f}..{100 * high:+.1f}" if counted else "",
            f"{_failed(each, 'alone')}/{_failed(each, 'controlled')}",
            each.verdict.value,
        )
    print_table(table)
    echo("")
    for each in found:
        _tell_one(each)


def _tell_one(each: Compared) -> None:
    """What control did with one model, and how busy the machine was."""
    sides = [side for pair in each.pairs for side in (pair.alone, pair.controlled)]
    busy, load = fmean(s.busy_fraction for s in sides), fmean(s.load_average for s in sides)
    invalid = len(each.pairs) - len(each.counted)
    echo(
        f"{each.subject.name}: {each.rates_rps[0]:.0f} then {each.rates_rps[1]:.0f} req/s of "
        f"{each.capacity_rps:.0f}; cores {busy:.0%} busy, load {load:.1f}"
        + (f"; {invalid} pairs not valid" if invalid else "")
    )
    for number, pair in enumerate(each.pairs, start=1):
        side = pair.controlled
        done = "; ".join([*side.changes, *([side.note] if side.note else [])]) or "no change"
        echo(f"  {number}: {done} → {side.final}")


def _percent(pairs: Sequence[Pair], side: str) -> str:
    """Mean attainment."""
    if not pairs:
        return "not valid"
    return f"{100 * fmean(getattr(pair, side).attainment for pair in pairs):.2f}"


def _failed(each: Compared, side: str) -> int:
    """Requests that failed or came too late for anybody, over all pairs."""
    played: list[Played] = [getattr(pair, side) for pair in each.pairs]
    return sum(one.failed + one.late for one in played)


def _as_json(each: Compared) -> dict[str, Any]:
    """Everything."""
    return {
        "model": each.subject.name,
        "what": each.subject.what,
        "kind": each.subject.kind.value,
        "slo_s": each.subject.slo_s,
        "capacity_rps": each.capacity_rps,
        "rates_rps": list(each.rates_rps),
        "difference": _finite(each.difference),
        "interval_by_blocks": [_finite(end) for end in each.by_blocks()],
        "interval_by_pairs": [_finite(end) for end in each.by_pairs()],
        "verdict": each.verdict.value,
        "pairs": [
            {"alone": _side(pair.alone), "controlled": _side(pair.controlled)}
            for pair in each.pairs
        ],
    }


def _finite(value: float) -> float | None:
    """None where there is no figure: JSON has no NaN."""
    return value if math.isfinite(value) else None


def _side(played: Played) -> dict[str, Any]:
    """One run as JSON values."""
    return {
        "attainment": played.attainment,
        "offered": played.offered.tolist(),
        "good": played.good.tolist(),
        "failed": played.failed,
        "late": played.late,
        "changes": list(played.changes),
        "final": played.final,
        "note": played.note,
        "busy_fraction": played.busy_fraction,
        "load_average": played.load_average,
        "invalid_reason": played.invalid_reason,
    }
