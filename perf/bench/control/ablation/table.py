"""What a mechanism is worth: a row for each, against the runs with all of them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from perf.bench.control.ablation.mechanisms import MECHANISMS
from perf.bench.control.ablation.play import Outcome

ALL = "(nothing)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One mechanism under one objective.

    Attributes:
        idle_cost, neighbour: the objective, and whether somebody else works on the machine.
        mechanism: that was left out; ``ALL`` for none.
        late_percent: mean over the loads and seeds.
        mean_instances, changes_per_hour, flaps: means likewise; flaps a run.
        loads_changed: loads whose late requests differ from those with all mechanisms.
        worst_percent, worst_load: the most late requests of one load, over its seeds.
    """

    idle_cost: float
    neighbour: bool
    mechanism: str
    late_percent: float
    mean_instances: float
    changes_per_hour: float
    flaps: float
    loads_changed: int
    worst_percent: float
    worst_load: str

    @property
    def without(self) -> str:
        """What is done instead."""
        return "" if self.mechanism == ALL else MECHANISMS[self.mechanism].without


def rows(outcomes: Sequence[Outcome]) -> list[Row]:
    """A row for each mechanism under each objective, in the order of the runs."""
    found = []
    groups = dict.fromkeys((o.case.idle_cost, o.case.neighbour) for o in outcomes)
    for idle_cost, neighbour in groups:
        mine = [
            o for o in outcomes if (o.case.idle_cost, o.case.neighbour) == (idle_cost, neighbour)
        ]
        whole = {(o.case.load, o.case.seed): o.late_fraction for o in mine if not o.case.mechanism}
        names = dict.fromkeys(o.case.mechanism for o in mine)
        found += [_row([o for o in mine if o.case.mechanism == n], whole) for n in names]
    return found


def _row(mine: Sequence[Outcome], whole: dict[tuple[str, int], float]) -> Row:
    """The row of one mechanism under one objective."""
    by_load = {
        load: 100 * fmean(o.late_fraction for o in mine if o.case.load == load)
        for load in dict.fromkeys(o.case.load for o in mine)
    }
    worst = max(by_load, key=lambda load: by_load[load])
    changed = {o.case.load for o in mine if o.late_fraction != whole[o.case.load, o.case.seed]}
    case = mine[0].case
    return Row(
        idle_cost=case.idle_cost,
        neighbour=case.neighbour,
        mechanism=case.mechanism or ALL,
        late_percent=100 * fmean(o.late_fraction for o in mine),
        mean_instances=fmean(o.mean_instances for o in mine),
        changes_per_hour=fmean(o.changes_per_hour for o in mine),
        flaps=fmean(o.flaps for o in mine),
        loads_changed=len(changed),
        worst_percent=by_load[worst],
        worst_load=worst,
    )


def markdown(found: Sequence[Row]) -> str:
    """The rows as tables, one for each objective."""
    parts = []
    for key in dict.fromkeys((row.idle_cost, row.neighbour) for row in found):
        idle_cost, neighbour = key
        price = (
            f"An idle instance-hour is worth {idle_cost:,.0f} late requests"
            if idle_cost
            else ("Idle instances are free")
        )
        parts += [
            f"**{price}; {'with' if neighbour else 'without'} a neighbour on the machine.**",
            "",
            "| without | instead | late, % | instances | changes/h | loads changed | worst load |",
            "|---|---|---|---|---|---|---|",
        ]
        parts += [
            f"| {row.mechanism} | {row.without} | {row.late_percent:.2f} | "
            f"{row.mean_instances:.2f} | {row.changes_per_hour:.1f} | {row.loads_changed} | "
            f"{row.worst_load}, {row.worst_percent:.2f} % |"
            for row in found
            if (row.idle_cost, row.neighbour) == key
        ]
        parts.append("")
    return "\n".join(parts)
