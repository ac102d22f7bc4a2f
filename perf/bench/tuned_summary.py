"""What the pieces of ``conch perf bench tuned`` say, in lines and over the rounds. Pure."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from perf.bench import tuned_score
from perf.bench.control.run import ControlRun

Piece = dict[str, Any]

REFERENCE, DEFAULT, CONCH = "reference_default", "default", "conch"


def changes_of(run: ControlRun) -> list[str]:
    """The changes of a run, a line each."""
    return [
        f"{c.begun_s:.1f} s to {c.ended_s:.1f} s {c.reason}: {c.after.instances} instances, "
        f"batch {c.after.largest_batch}, delay {c.after.max_queue_delay_s * 1e3:g} ms, "
        f"threads {c.after.threads or 'default'}{'' if c.ok else ' (rolled back)'}"
        for c in run.changes
    ]


def line_of(name: str, data: Piece) -> str:
    """One piece in a line."""
    if name == "rough":
        return ", ".join(f"{label} about {rps:.0f} req/s" for label, rps in data.items())
    if name.startswith("cold"):
        return (
            f"{data['rate_rps']:.0f} req/s: settings final after {data['final_s']:.1f} s, SLO met "
            f"from {data['met_s']:.0f} s on, then {data['held_attainment'] * 100:.2f} % "
            f"({'; '.join(data['log']) or 'no change'})"
        )
    if name.startswith("capacity"):
        return ", ".join(f"{label} {found['rps']:.0f} req/s" for label, found in data.items())
    return (
        f"{data['rate_rps']:.0f} req/s: default {data['before'] * 100:.2f} %, "
        f"conch {data['conch'] * 100:.2f} %, default {data['after'] * 100:.2f} %"
    )


def summary(data: Piece) -> Piece:
    """Medians and ranges over the rounds, and what they say."""
    rounds, cold = data["capacity"], data["cold"]
    rates = {
        label: asdict(tuned_score.spread([r[label]["rps"] for r in rounds]))
        for label in (REFERENCE, DEFAULT, CONCH)
    }
    ratios = {
        label: asdict(
            tuned_score.spread([r[CONCH]["rps"] / max(r[label]["rps"], 1e-9) for r in rounds])
        )
        for label in (REFERENCE, DEFAULT)
    }
    return {
        "capacity_rps": rates,
        "conch_ratio_to": ratios,
        "cold": {
            key: asdict(tuned_score.spread([c[key] for c in cold]))
            for key in ("final_s", "met_s", "held_attainment", "held_p99_s")
        },
        "worse_at": [
            share for share, pairs in data["stationary"].items() if tuned_score.worse(pairs)
        ],
    }
