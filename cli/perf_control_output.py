"""What ``conch perf bench control`` prints, and what its report says about itself."""

from __future__ import annotations

import datetime
import itertools
import os
import platform
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from cli.output import echo, print_json, print_table
from conch.errors import ThresholdMissed

if TYPE_CHECKING:
    from perf.bench.control.plan import Plan
    from perf.bench.control.real import Served
    from perf.bench.control.run import ControlRun
    from perf.bench.control.tables import Meta

RULE_WIDTH = 22
"""Longer names are folded: the table fits 80 columns."""


def print_plan(plan: Plan, side_by_side: int | None, *, as_json: bool) -> None:
    """What would be run, and for how long."""
    from rich.table import Table

    at_once = side_by_side or 1
    expected_s = plan.expected_s(at_once)
    rows = [
        {
            "trace": item.scenario.trace.name,
            "seed": item.scenario.seed,
            "rule": item.contender.label,
            "duration_s": item.scenario.duration_s,
            "warm_up_s": item.scenario.warm_up_s,
            "requests": item.scenario.trace.count,
            "instances_at_start": item.scenario.instances,
        }
        for item in plan.items
    ]
    if as_json:
        print_json({"simulated": plan.simulated, "expected_s": round(expected_s), "runs": rows})
        return
    table = Table("trace", "seed", "rule", "seconds", "warm-up", "requests", "start")
    for row in rows:
        table.add_row(*(f"{v:g}" if isinstance(v, float) else str(v) for v in row.values()))
    print_table(table)
    how = "on the simulator" if plan.simulated else f"about {expected_s / 60:.0f} minutes"
    echo(f"{len(rows)} runs, {how}, {at_once} at a time. Nothing was run.")


def meta_of(
    plan: Plan, served: Served | None, side_by_side: int, failures: tuple[str, ...]
) -> Meta:
    """What the report says about itself."""
    from perf.bench.control.real import emulator
    from perf.bench.control.tables import Meta
    from serving.runtime import find

    label = served.label if served else emulator(plan.model).label if plan.model else ""
    gib = psutil.virtual_memory().total / 2**30
    hardware = f"{_processor()}, {os.cpu_count()} cores, {gib:.0f} GiB"
    if not plan.simulated:
        hardware += f", Triton {find.find().version}"
    notes = [f"An idle instance-hour is worth {plan.policy.idle_cost:g} late requests."]
    notes += [f"Not finished: {text}" for text in failures]
    return Meta(
        title="Controllers compared" + (" in the simulator" if plan.simulated else ""),
        served=label,
        hardware=hardware,
        date=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        command=shlex.join(["conch", *sys.argv[1:]]),
        side_by_side=side_by_side,
        steps_s={i.scenario.trace.name: i.scenario.steps_s for i in plan.items},
        allowed_s=plan.policy.load_s + 5.0,
        notes=tuple(notes),
    )


def _processor() -> str:
    """The processor's name, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def tell(
    runs: tuple[ControlRun, ...],
    meta: Meta,
    out: Path,
    *,
    as_json: bool,
    fail_below: float | None,
) -> None:
    """The scores on stdout, and the verdict of ``--fail-below``."""
    from rich.table import Column, Table

    from perf.bench.control.report import texts
    from perf.bench.control.tables import as_json as as_data

    data = as_data(runs, meta)
    if as_json:
        print_json(data)
    else:
        names = ("attainment", "p99_s", "cost_instance_s", "x_static_best")
        more = ("changes_per_hour", "flaps")
        for trace, of_trace in itertools.groupby(texts(runs, meta), key=lambda row: row[0]):
            rule_column = Column("rule", max_width=RULE_WIDTH, overflow="fold")
            table = Table(rule_column, "in SLO", "p99", "cost", "× static", "chg/h", "flaps")
            table.title = trace
            for _, rule, cells in of_trace:
                table.add_row(rule, *(cells[name][0] for name in (*names, *more)))
            print_table(table)
        echo(f"Next: open {out / 'report.html'}", err=True)
    if fail_below is None:
        return
    for trace, rows in data["traces"].items():
        for row in rows:
            attained = row["attainment"]["median"]
            if row["rule"].split(" (")[0] == "conch" and (attained or 0.0) < fail_below:
                raise ThresholdMissed(
                    f"conch on {trace}: attainment {attained:.4f}, must be at least "
                    f"{fail_below:g}.",
                    hint=f"See {out / 'report.html'}.",
                )
