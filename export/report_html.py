"""The report of an export run as one HTML page that loads nothing from elsewhere."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from dataclasses import dataclass
from typing import Any

import jinja2
from markupsafe import Markup

from export.parity import Verdict
from export.report import Report, Status, VariantReport
from export.report_figures import charts, tradeoff
from export.report_figures.svg import variables

_GOOD = (Status.PUBLISHED, Status.ACCEPTED)
_CLASSES = {
    Status.PUBLISHED: "good",
    Status.ACCEPTED: "good",
    Status.DOMINATED: "fair",
    Status.KEPT: "fair",
    Status.SKIPPED: "fair",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One headline: the best variant in something."""

    title: str
    name: str
    figure: str
    lines: tuple[str, ...]


def render(report: Report) -> str:
    """The page as text; figures are drawn into it, in light and dark colours."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("export", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        size=_size,
        times=_times,
        worse=_worse,
        ms=_three,
        figure=_figure,
        count=_count,
        verdict_mark=_mark,
    )
    page: str = environment.get_template("report.html.j2").render(
        report=report,
        light=variables(dark=False),
        dark=variables(dark=True),
        subtitle=_subtitle(report),
        summary=summary(report),
        cards=cards(report),
        batches=sorted({batch for v in report.variants for batch in v.latency_ms}),
        status_class=_CLASSES,
        tradeoffs=Markup(tradeoff.tradeoffs(report)),  # noqa: S704  our own drawing
        latency=Markup(charts.latency(report)),  # noqa: S704
        stages=Markup(charts.stages(report)),  # noqa: S704
        sensitivities=[
            (variant.name, Markup(drawn), variant.sensitivity)  # noqa: S704
            for variant in report.variants
            if (drawn := charts.sensitivity(variant))
        ],
        cached=sum(stage.cached for stage in report.stages),
        command=f"conch export run {shlex.quote(report.recipe)}",
        facts=_facts(report),
    )
    return page


def summary(report: Report) -> str:
    """What came out, in one or two sentences."""
    counted = Counter(variant.status for variant in report.variants)
    beaten = counted.pop(Status.DOMINATED, 0)
    others = [f"{count} {status}" for status, count in counted.items() if status not in _GOOD]
    passed = sum(variant.accepted for variant in report.variants)
    text = f"{passed} of {len(report.variants)} variants passed their gates"
    text += f", {beaten} of them no better than another" if beaten else ""
    text += f" ({', '.join(others)}). " if others else ". "
    published = [v.published_name for v in report.variants if v.status is Status.PUBLISHED]
    if published:
        return f"{text}Published: {', '.join(published)}."
    if report.dry_run:
        return f"{text}Nothing was published: this was a dry run."
    return f"{text}Nothing was published."


def cards(report: Report) -> list[Card]:
    """The smallest, the fastest and the best variant of those that passed, but the baseline."""
    passed = [v for v in report.variants if v.accepted and v.name != report.baseline]
    batch = tradeoff.typical_batch(report)
    found = []
    if sized := [v for v in passed if v.size_ratio]:
        best = min(sized, key=lambda v: v.size_bytes)
        found.append(_card(report, "Smallest", best, f"{_times(best.size_ratio)} smaller"))
    if batch is not None and (timed := [v for v in passed if v.latency_ratio.get(batch)]):
        best = min(timed, key=lambda v: v.latency_ratio[batch])
        ratio = best.latency_ratio[batch]
        speed = f"{_times(ratio)} faster" if ratio <= 1 else f"{ratio:.1f}× slower"
        found.append(_card(report, f"Fastest at batch {batch}", best, speed))
    for measure in reversed(tradeoff.measures(report)):
        if judged := [v for v in passed if measure.of(v) is not None]:
            best = max(judged, key=lambda v: (measure.of(v) or 0.0, -v.size_bytes))
            figure = f"{measure.of(best):.4g}"
            found.append(_card(report, f"Best {measure.metric.replace('_', ' ')}", best, figure))
            break
    return found


def _card(report: Report, title: str, variant: VariantReport, figure: str) -> Card:
    """A headline with the variant's other figures below."""
    batch = tradeoff.typical_batch(report)
    lines = [f"{_size(variant.size_bytes)} ({_times(variant.size_ratio)} smaller)"]
    if batch is not None and batch in variant.latency_ms:
        ratio = variant.latency_ratio.get(batch)
        lines.append(f"{_three(variant.latency_ms[batch])} ms at batch {batch} ({_times(ratio)})")
    lines += [
        f"{measure.metric.replace('_', ' ')} {value:.4g}"
        for measure in tradeoff.measures(report)
        if (value := measure.of(variant)) is not None
    ]
    return Card(title=title, name=variant.name, figure=figure, lines=tuple(lines))


def _subtitle(report: Report) -> str:
    """When, on what, how long."""
    cores = report.machine.get("cores")
    parts = [
        report.finished_at,
        str(report.machine.get("cpu", "")),
        f"{cores} cores" if cores else "",
        f"{report.threads} ONNX Runtime thread{'s'[: report.threads != 1]}",
        f"{report.total_seconds:.0f} s",
    ]
    return " · ".join(part for part in parts if part)


def _facts(report: Report) -> list[tuple[str, str]]:
    """Where the results come from, as name and value."""
    flags = report.machine.get("flags", ())
    rows = [
        ("recipe", report.recipe),
        ("hash of recipe and code", report.recipe_sha256),
        ("processor's features", ", ".join(flags)),
        ("repository", report.repository or "none"),
        ("ensembles", ", ".join(report.ensembles)),
        ("loaded before publishing", report.verified),
        *((f"original: {key}", _words(value)) for key, value in report.original.items()),
        *((f"version of {name}", version) for name, version in report.versions.items()),
    ]
    return [(name, value) for name, value in rows if value]


def _words(value: Any) -> str:
    """A JSON value for people."""
    return value if isinstance(value, str) else json.dumps(value)


def _size(size_bytes: int) -> str:
    """Bytes in kB or MB, to three digits."""
    if not size_bytes:
        return "–"
    return f"{size_bytes / 1e6:.3g} MB" if size_bytes >= 1e6 else f"{size_bytes / 1e3:.3g} kB"


def _times(ratio: float | None) -> str:
    """How many times better a ratio to the baseline is: 0.25 is 4.0×."""
    return f"{1 / ratio:.1f}×" if ratio else "–"


def _worse(ratio: float | None) -> str:
    """CSS class of a ratio to the baseline: marked when it is worse by more than noise."""
    return "small bad" if ratio and ratio > 1.05 else "small"


def _three(value: float | None) -> str:
    """Three digits."""
    return "–" if value is None else f"{value:.3g}"


def _figure(value: float | None) -> str:
    """Four digits after the point; of large values, fewer."""
    if value is None:
        return "–"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.5g}"


def _count(value: int | None) -> str:
    """Thousands and millions."""
    if value is None:
        return "–"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return str(value)


def _mark(gate: Verdict) -> str:
    """What stands before a verdict: never colour alone."""
    return "✓" if gate.passed else "✗"
