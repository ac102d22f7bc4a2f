"""The demo's page: three acts with their figures; a page with plots for each of the first two."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from typing import Any

import jinja2

from demo import outcome
from demo.acts import Act
from demo.scenario import Scenario
from demo.stage import Stage
from perf.report import page
from perf.report.contender import ContenderResult, ReportMeta


def write(stage: Stage, result: dict[str, Any], tuned: Act, rush: Act) -> None:
    """report.html, and report.html with plots in act1/ and act2/."""
    hardware = (
        f"{os.cpu_count()} cores {platform.machine()} {platform.system()}, no GPU used; "
        f"Triton {stage.server.binary.version}"
    )
    date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    requests = (
        f"{stage.scenario.model}, {stage.scenario.sequence} tokens a request; SLO: p99 within "
        f"{stage.scenario.slo_s * 1e3:g} ms. Open loop: latency counts from the intended time."
    )
    fair = (
        "Every contender begins freshly loaded, on the same server, and gets the same arrivals. "
        "Client, server and controller share the machine."
    )
    common = (requests, fair, *result["attempts"])
    for act, folder, title in (
        (tuned, "act1", "Act 1: nobody tuned it (round 1 of 2)"),
        (rush, "act2", "Act 2: quality in a rush"),
    ):
        meta = ReportMeta(
            title=title, hardware=hardware, date=date, command="conch demo", notes=common
        )
        contenders = [
            ContenderResult(
                name=one.name,
                replay=one.replay,
                timeline=outcome.timeline(one),
                decisions=outcome.markers(one),
            )
            for one in act.rounds[0]
        ]
        page.write_report(stage.out / folder / "report.html", act.traces[0], contenders, [], meta)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("demo", "."), autoescape=True, trim_blocks=True
    )
    text = environment.get_template("report.html.j2").render(
        date=date,
        hardware=hardware,
        result=result,
        common=common,
        tables=tables(stage.scenario, result),
        verdicts=verdicts(stage.scenario, result),
        pictures={
            folder: page.data_uri(stage.out / folder / "overview.png")
            for folder in ("act1", "act2")
        },
    )
    (stage.out / "report.html").write_text(text, encoding="utf-8")


def tables(scenario: Scenario, result: dict[str, Any]) -> list[tuple[str, list[outcome.Row]]]:
    """(title, rows with the head first) of each act."""
    return [
        ("Act 1: nobody tuned it", outcome.tuned_rows(result["tuned"])),
        ("Act 2: quality in a rush", outcome.rush_rows(scenario, result["rush"])),
        ("Act 3: what faults cost", outcome.fault_rows(result["faults"])),
    ]


def verdicts(scenario: Scenario, result: dict[str, Any]) -> list[tuple[bool, str]]:
    """(met, in one sentence) of each act."""
    less = result["tuned"]["conch_less_by_hand"]
    conch = result["rush"]["contenders"]["Conch"]
    broken = [one["what"] for one in result["faults"]["faults"] if not one["answers"]]
    first = (
        f"Act 1: Conch less the settings by hand, once warm: {less['mean']:+.3f} "
        f"(95 %: {less['low']:+.3f} to {less['high']:+.3f}; goal: above {-scenario.not_worse:g})."
    )
    second = (
        f"Act 2: {conch['within_outside']:.3f} within the SLO outside {scenario.recovery_s:g} s "
        f"of the rush (goal: {scenario.attainment_goal:g}), full quality in "
        f"{conch['quality_carried'] * 100:.0f} % of the time outside of it "
        f"(goal: {scenario.quality_goal * 100:g} %)."
    )
    third = f"Act 3: no answers after: {', '.join(broken)}."
    return [
        (result["tuned"]["met"], first),
        (result["rush"]["met"], second),
        (result["faults"]["met"], third if broken else "Act 3: everything answers again."),
    ]
