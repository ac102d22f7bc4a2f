"""The page of an export run: what it says, and what its figures draw."""

from __future__ import annotations

import dataclasses
import re
import xml.etree.ElementTree as ET

import pytest

from export import report_html
from export.parity import Agreement, at_least, at_most
from export.report import CandidateReport, Report, StageReport, Status, VariantReport, load
from export.report_figures import charts, tradeoff
from export.report_figures.tradeoff import Measure, Spot


def agreement(cosine):
    """An agreement with this cosine."""
    return Agreement(
        sample_count=1000,
        cosine=cosine,
        cosine_min=cosine - 0.02,
        top1_agreement=0.99,
        sqnr_db=30.0,
        max_abs_diff=0.1,
    )


def a_variant(name, status, *, size=1.0, ratio=1.0, cosine=0.999, task=0.5, **more):
    """A variant with figures; ``size`` and ``ratio`` (of latency) are to the baseline."""
    return VariantReport(
        **{
            "name": name,
            "published_name": f"net_{name}",
            "steps": ("to_onnx", name),
            "size_bytes": int(90e6 * size),
            "size_ratio": size,
            "latency_ms": {1: 18.0 * ratio, 8: 140.0 * ratio, 32: 600.0 * ratio},
            "latency_ratio": dict.fromkeys((1, 8, 32), ratio),
            "fidelity": cosine,
            "agreement": agreement(cosine),
            "task_metric": task,
            "task_baseline": 0.505,
            "task_interval": (task - 0.515, task - 0.495),
            "gates": (
                at_least("fidelity.cosine", cosine, 0.98),
                at_least("task.spearman", task, 0.485),
                at_most("size.ratio", size, 1.0),
            ),
            "accepted": status in (Status.PUBLISHED, Status.ACCEPTED, Status.DOMINATED),
            "status": status,
            "reason": "passed 3 gates",
            "macs": 2_800_000_000,
            "params": 22_700_000,
            "macs_ratio": 1.0,
            **more,
        }
    )


def a_report(**changes):
    """A run with a variant of every fate."""
    candidates = (
        CandidateReport(
            name="smoothquant",
            steps=("to_onnx", "quantize smoothquant"),
            status=Status.ACCEPTED,
            reason="smallest that passes",
            size_ratio=0.26,
            latency_ratio={1: 0.6, 8: 0.45, 32: 0.44},
            fidelity=0.9969,
            task_metric=0.514,
            chosen=True,
            seconds=18.2,
        ),
        CandidateReport(
            name="static_u8",
            steps=("to_onnx", "quantize static"),
            status=Status.REFUSED,
            reason="fidelity.cosine = 0.921, must be at least 0.98",
            size_ratio=0.64,
            latency_ratio={1: 0.58, 8: 0.61, 32: 0.6},
            fidelity=0.921,
            task_metric=0.536,
            seconds=6.0,
        ),
        CandidateReport(
            name="modelopt",
            steps=(),
            status=Status.SKIPPED,
            reason="needs the package modelopt, which is not installed",
        ),
    )
    layers = tuple(
        {
            "node": f"/encoder/layer.{i}/output/dense/MatMul",
            "op_type": "MatMul",
            "cosine": 0.99,
            "sqnr_db": 12.0 + i,
        }
        for i in range(30)
    )
    failed = VariantReport(
        name="pruned", published_name="net_pruned", status=Status.FAILED, reason="<b>no</b> space"
    )
    report = Report(
        model="net",
        recipe="my recipes/recipe.yaml",
        recipe_sha256="ab" * 32,
        baseline="fp32",
        threads=1,
        seconds={"load": 2.0},
        total_seconds=93.0,
        dry_run=False,
        repository="model_repository",
        variants=(
            a_variant("fp32", Status.PUBLISHED, cosine=1.0, task=0.505),
            a_variant("int8", Status.PUBLISHED, size=0.25, ratio=0.5, cosine=0.9922, task=0.507),
            a_variant(
                "searched",
                Status.PUBLISHED,
                size=0.26,
                ratio=0.45,
                cosine=0.9969,
                task=0.514,
                candidates=candidates,
                sensitivity=layers,
                sha256={"1/model.onnx": "cd" * 32},
            ),
            a_variant("static", Status.REFUSED, size=0.64, ratio=0.62, cosine=0.821, task=0.567),
            a_variant("fp16", Status.DOMINATED, size=0.5, ratio=1.1, cosine=0.9999, task=0.505),
            a_variant("kept", Status.KEPT, reason="INT8 is slower here, kept fp32"),
            failed,
        ),
        configs={"net_searched": 'name: "net_searched"'},
        task="spearman",
        stages=(
            StageReport(name="load", variant="", seconds=2.0, cached=False),
            StageReport(name="fp32: to_onnx", variant="fp32", seconds=9.0, cached=True),
            StageReport(name="searched: smoothquant", variant="searched", seconds=18, cached=False),
        ),
        original={"source": "factory", "parameters": 22_700_000},
        warnings=("2 samples are in calibration and evaluation both",),
        versions={"torch": "2.13.0"},
        machine={"cpu": "Some CPU", "cores": 2, "flags": ["avx512_vnni"]},
        finished_at="2026-11-21T20:00:00+00:00",
    )
    return dataclasses.replace(report, **changes)


@pytest.fixture(scope="module")
def page():
    """The page of a full report."""
    return report_html.render(a_report())


def test_page_is_self_contained_and_escaped(page):
    """It loads nothing, runs nothing, and shows text as text."""
    assert not re.search(r"(src|href|srcset)=.?https?:", page.replace("xlink:href", ""))
    assert "<script" not in page
    assert "&lt;b&gt;no&lt;/b&gt; space" in page
    assert "<b>no</b>" not in page
    assert "conch export run &#39;my recipes/recipe.yaml&#39;" in page


def test_page_tells_every_fate_with_its_reason(page):
    """Nobody must open the JSON to learn what was refused, skipped or kept, and why."""
    for status in ("published", "refused", "dominated", "kept", "failed", "skipped"):
        assert f">{status}</span>" in page
    assert "needs the package modelopt, which is not installed" in page
    assert "INT8 is slower here, kept fp32" in page
    assert "✗ missed" in page
    assert "2 samples are in calibration and evaluation both" in page
    assert "cd" * 32 in page


def test_slower_than_the_baseline_is_marked(page):
    """A variant that is slower may pass its gates; nobody should overlook it."""
    assert page.count('<div class="small bad">0.9×</div>') == 3


def test_highest_bound_of_a_quality_is_the_one_drawn():
    """A task gate may set two limits; the line is where the verdict turns."""
    two = (at_least("task.spearman", 0.5, 0.4), at_least("task.spearman", 0.5, 0.45))
    variants = tuple(dataclasses.replace(v, gates=two) for v in a_report().variants)
    measure = Measure(kind="task", metric="spearman")
    assert measure.limit(a_report(variants=variants)) == 0.45
    assert measure.limit(a_report()) == 0.485


def test_figures_are_svg_without_fixed_colours(page):
    """Light and dark come from the page's variables, so no figure may name a colour itself."""
    figures = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(figures) == 4
    for figure in figures:
        ET.fromstring(figure)  # noqa: S314  our own drawing
        assert not re.search(r"#[0-9a-f]{6}\b", figure), re.search(r"#[0-9a-f]{6}", figure)
        assert 'aria-label="' in figure
    assert "prefers-color-scheme: dark" in page
    assert page.count(">fp32: to_onnx</text>") == 1
    assert "9 s, cached" in page


def test_equal_reports_give_equal_pages(page):
    """A page can be compared between runs."""
    assert report_html.render(a_report()) == page


def test_summary_counts_what_passed():
    """The first sentence is the outcome."""
    text = report_html.summary(a_report())
    assert text.startswith(
        "4 of 7 variants passed their gates, 1 of them no better than another (1 refused, 1 kept,"
    )
    assert text.endswith("Published: net_fp32, net_int8, net_searched.")


def test_cards_name_the_best_of_what_passed():
    """The refused variant has the best task metric, and is no headline."""
    found = {card.title: (card.name, card.figure) for card in report_html.cards(a_report())}
    assert found["Smallest"] == ("int8", "4.0× smaller")
    assert found["Fastest at batch 8"] == ("searched", "2.2× faster")
    assert found["Best spearman"] == ("searched", "0.514")


def test_bare_report_still_makes_a_page():
    """A run whose variants all failed has a page that says so, without figures."""
    failed = a_report().variants[-1]
    page = report_html.render(
        a_report(variants=(failed,), stages=(), configs={}, task="", machine={}, original={})
    )
    assert "0 of 1 variants passed their gates (1 failed)" in page
    assert "<svg" not in page


def test_front_leaves_out_what_is_dearer_and_no_better():
    """Equal quality at a higher cost is off the front; so is lower quality."""

    def spot(name, cost, quality):
        return Spot(name=name, cost=cost, quality=quality, status=Status.ACCEPTED)

    found = [spot("a", 1, 0.8), spot("b", 2, 0.9), spot("c", 3, 0.9), spot("d", 4, 0.7)]
    assert [one.name for one in tradeoff.front(found)] == ["a", "b"]


def test_candidates_are_placed_by_their_ratio_to_the_baseline():
    """They have ratios only; what was chosen or kept is drawn once, as variant or as baseline."""
    found = tradeoff.spots(a_report(), Measure(kind="fidelity", metric="cosine"), 8)
    nameless = [spot for spot in found if not spot.name]
    assert [spot.cost for spot in nameless] == [pytest.approx(0.61 * 140)]
    assert {spot.name for spot in found} == {"fp32", "int8", "searched", "static", "fp16", ""}


def test_interval_is_that_of_the_metric_itself():
    """The report has the interval of the difference; it is drawn around the original's score."""
    found = tradeoff.spots(a_report(), Measure(kind="task", metric="spearman"), None)
    assert found[0].interval == (pytest.approx(0.495), pytest.approx(0.515))


def test_infinite_noise_ratios_are_not_drawn():
    """A layer that adds no noise has infinite SQNR and no bar; infinite fidelity has no spot."""
    silent = {"node": "n", "op_type": "Gemm", "cosine": 1.0, "sqnr_db": float("inf")}
    assert (
        charts.sensitivity(dataclasses.replace(a_report().variants[0], sensitivity=(silent,))) == ""
    )
    endless = dataclasses.replace(agreement(1.0), sqnr_db=float("inf"))
    variant = dataclasses.replace(a_report().variants[0], agreement=endless)
    report = a_report(variants=(variant,))
    assert tradeoff.spots(report, Measure(kind="fidelity", metric="sqnr_db"), 8) == []


def test_endless_fidelity_survives_the_json(tmp_path):
    """SQNR of equal outputs is infinite, which JSON has no number for; the page still says it."""
    variant = dataclasses.replace(a_report().variants[0], fidelity=float("inf"))
    path = tmp_path / "report.json"
    a_report(variants=(variant,)).save(path)
    loaded = load(path)
    assert loaded.variants[0].fidelity == float("inf")
    assert ">inf</td>" in report_html.render(loaded)
