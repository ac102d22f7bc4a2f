"""Whole export runs on small real models: what is published, and what a gate keeps out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from cli import export as cli_export
from conch.errors import ParityError
from export import recipe as recipes
from export.data import RecipeData
from export.session import Session
from export.source import Source, call, load_module
from serving.repository import Repository
from tests.integration import toy_recipe
from tests.integration.toy_recipe import a_model, run

ON_ANY_CPU = {"method": "static_qdq", "reduce_range": True}
"""Without VNNI, the sums of 8-bit weights saturate."""


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A recipe that works, run once: (path, report)."""
    path = toy_recipe.write(tmp_path_factory.mktemp("good"))
    return path, run(path)


@pytest.fixture
def built(good) -> Path:
    """That run's work folder: where the model is the same, only what differs is built."""
    return good[0].parent / "work"


def test_good_variants_are_published_with_config_and_lineage(good):
    """Both variants pass; the repository has them, whole."""
    path, report = good
    assert [variant.accepted for variant in report.variants] == [True, True]
    repository = Repository(path.parent / "repository")
    assert repository.models() == ["toy_fp32", "toy_int8"]
    for name in repository.models():
        folder = repository.root / name / "1"
        assert sorted(p.name for p in folder.iterdir()) == ["lineage.json", "model.onnx"]
        onnx.checker.check_model(onnx.load(folder / "model.onnx"))
        assert repository.read_config(name).max_batch_size == 8
    lineage = json.loads((repository.root / "toy_int8" / "1" / "lineage.json").read_text())
    assert lineage["facts"]["opset"]["ai.onnx"] == 20
    assert lineage["recipe_sha256"] == report.recipe_sha256


def test_report_has_figures_against_the_baseline(good):
    """The plain export is 1.0 by definition; the INT8 file is smaller."""
    _, report = good
    fp32, int8 = report.variants
    assert fp32.size_ratio == 1.0
    assert fp32.latency_ratio == {1: 1.0, 8: 1.0}
    assert int8.size_ratio < 1
    assert int8.agreement.sample_count == 32
    assert 0.98 < int8.fidelity < 1.0
    assert set(int8.latency_ms) == {1, 8}
    assert int8.seconds["build"] > 0


def test_publishing_the_same_again_adds_no_version(good):
    """An export of unchanged code is idempotent."""
    path, report = good
    again = run(path)
    assert [v.published_version for v in again.variants] == [1, 1]
    assert again.recipe_sha256 == report.recipe_sha256
    assert Repository(path.parent / "repository").versions("toy_int8") == [1]


def test_versions_of_one_model_are_numbered_by_what_was_measured(tmp_path, built):
    """Not by the recipe's order; the report tells the numbers, and each version its quality."""
    cheap_first = list(reversed(toy_recipe.GOOD_RECIPE["variants"]))
    path = toy_recipe.write(tmp_path, variants=cheap_first, serving={"layout": "versions"})
    for _ in range(2):
        report = run(path, work_dir=built)
        assert [v.published_version for v in report.variants] == [1, 2]
        assert "best first: 2 (fp32), 1 (int8); " in report.warnings[-1]
    repository = Repository(path.parent / "repository")
    told = [repository.lineage("toy", n)["quality"]["fidelity"]["value"] for n in (1, 2)]
    assert 0.98 < told[0] < told[1] <= 1.0


def test_dry_run_builds_and_judges_but_publishes_nothing(tmp_path, built):
    """The repository is not even made."""
    path = toy_recipe.write(tmp_path)
    report = run(path, work_dir=built, dry_run=True, only=["fp32"])
    assert report.accepted
    assert "max_batch_size: 8" in report.configs["toy_fp32"]
    assert not (tmp_path / "repository").exists()


def test_variant_that_misses_its_gate_is_not_published_and_the_others_are(tmp_path, built):
    """Refused with the figure; its neighbour goes on."""
    strict = {"name": "int8", "steps": ["to_onnx", {"quantize": {"method": "dynamic"}}],
              "gates": {"fidelity": {"min": 0.999999999}}}  # fmt: skip
    path = toy_recipe.write(tmp_path, variants=[{"name": "fp32", "steps": ["to_onnx"]}, strict])
    report = run(path, work_dir=built)
    assert [v.accepted for v in report.variants] == [True, False]
    assert report.variants[1].reason.startswith("fidelity.cosine = 0.99")
    assert report.variants[1].published_version is None
    assert Repository(tmp_path / "repository").models() == ["toy_fp32"]


def test_variant_that_cannot_be_built_leaves_the_others_alone(tmp_path, built):
    """A quantizer told to keep a node that is not there."""
    broken = {"name": "odd", "steps": [
        "to_onnx", {"quantize": {"method": "dynamic", "exclude": ["no_such_node"]}}]}  # fmt: skip
    path = toy_recipe.write(tmp_path, variants=[broken, {"name": "fp32", "steps": ["to_onnx"]}])
    report = run(path, work_dir=built)
    assert [v.accepted for v in report.variants] == [False, True]
    assert "no_such_node not among the graph's" in report.variants[0].reason
    assert Repository(tmp_path / "repository").models() == ["toy_fp32"]


def test_quantizer_that_finds_nothing_to_quantize_is_refused(tmp_path, built):
    """The unchanged model would pass every fidelity gate under a false name."""
    step = {"quantize": {"method": "dynamic", "op_types": ["Conv"]}}
    path = toy_recipe.write(tmp_path, variants=[{"name": "int8", "steps": ["to_onnx", step]}])
    variant = run(path, work_dir=built).variants[0]
    assert not variant.accepted
    assert "quantized nothing; the graph has Add, MatMul, Relu" in variant.reason


def test_static_quantization_keeps_a_good_model_good(tmp_path, built):
    """U8S8 with real calibration data agrees with the original; fewer bytes of weights."""
    variant = {"name": "q", "steps": ["to_onnx", {"quantize": ON_ANY_CPU}]}
    report = run(toy_recipe.write(tmp_path, variants=[variant]), work_dir=built)
    assert report.baseline == "baseline"
    assert report.variants[0].accepted, report.variants[0].reason
    assert report.variants[0].fidelity > 0.99


def test_static_quantization_takes_a_bias_of_two_dimensions(tmp_path):
    """ONNX Runtime's preparation makes a Gemm of it that its own quantizer cannot handle."""
    code = a_model(
        "return torch.relu(x @ self.weight + self.bias)",
        init="self.weight = nn.Parameter(torch.randn(16, 4))\n"
        "        self.bias = nn.Parameter(torch.randn(1, 4))",
    )
    variant = {"name": "q", "steps": ["to_onnx", {"quantize": ON_ANY_CPU}]}
    report = run(toy_recipe.write(tmp_path, model_code=code, variants=[variant]), dry_run=True)
    assert report.variants[0].accepted, report.variants[0].reason


EXACTNESS = """
def exactness(outputs):
    import torch
    from .model import load
    torch.manual_seed(0)
    model = load().eval()
    with torch.inference_mode():
        expected = [model(torch.from_numpy(batch["x"])).numpy() for batch in evaluation()]
    return float(np.mean([np.abs(e - o["scores"]) < 1e-6 for e, o in zip(expected, outputs)]))
"""


@pytest.fixture(scope="module")
def exact_work(tmp_path_factory) -> Path:
    """One work folder for both gates: the model that they judge is built once."""
    return tmp_path_factory.mktemp("exact")


@pytest.mark.parametrize(("max_drop", "accepted"), [(0.5, False), (1.0, True)])
def test_task_metric_is_judged_against_the_originals(tmp_path, exact_work, max_drop, accepted):
    """INT8 gives no exact answer: a loss of 1.0, allowed or not by max_drop."""
    path = toy_recipe.write(
        tmp_path,
        data_code=toy_recipe.GOOD_DATA + EXACTNESS,
        gates={"task": {"metric": "data.py:exactness", "max_drop": max_drop}},
        variants=[{"name": "int8", "steps": ["to_onnx", {"quantize": {"method": "dynamic"}}]}],
    )
    variant = run(path, work_dir=exact_work).variants[0]
    assert variant.task_baseline == 1.0
    assert variant.task_metric < 0.1
    assert variant.accepted == accepted


def test_command_exits_with_6_when_no_variant_passes(tmp_path, monkeypatch):
    """And prints the report as JSON all the same."""
    monkeypatch.chdir(tmp_path)
    path = toy_recipe.write(tmp_path, gates={"fidelity": {"min": 1.0}}, variants=[
        {"name": "int8", "steps": ["to_onnx", {"quantize": {"method": "dynamic"}}]}])  # fmt: skip
    result = CliRunner().invoke(cli_export.export, ["run", str(path), "--json"])
    assert isinstance(result.exception, ParityError)
    assert result.exception.exit_code == 6
    shown = json.loads(result.stdout)
    assert shown["variants"][0]["accepted"] is False
    assert (tmp_path / "runs" / "export" / "toy" / "report.json").is_file()
    assert Repository(tmp_path / "model_repository").models() == []


def test_command_shows_the_saved_report_again(tmp_path, monkeypatch):
    """`conch export report` prints what `run` found."""
    monkeypatch.chdir(tmp_path)
    path = toy_recipe.write(tmp_path)
    ran = CliRunner().invoke(cli_export.export, ["run", str(path), "--dry-run", "--json"])
    assert ran.exit_code == 0, ran.output
    shown = CliRunner().invoke(cli_export.export, ["report", str(path), "--json"])
    assert json.loads(shown.stdout) == json.loads(ran.stdout)
    assert "would be" in ran.stderr
    assert "Nothing was published." in ran.stderr


def test_same_seed_gives_the_same_file_with_no_path_of_this_machine(tmp_path, good):
    """Two runs in two folders write equal bytes; the exporter would note where the code lies."""
    path = toy_recipe.write(tmp_path / "another")
    run(path, only=["fp32"])
    one, two = (
        (recipe.parent / "repository" / "toy_fp32" / "1" / "model.onnx").read_bytes()
        for recipe in (good[0], path)
    )
    assert one == two
    assert b"model.py" not in one


def test_published_file_agrees_with_the_original(good):
    """The file in the repository, not the one in the work folder, is what counts."""
    path, _ = good
    recipe = recipes.load(path)
    source = Source(path.parent)
    batch = RecipeData(recipe, source).evaluation()[0]
    expected = call(load_module(source, recipe.model, seed=recipe.seed), batch, recipe.model)
    got = Session(path.parent / "repository" / "toy_fp32" / "1" / "model.onnx").run(batch)
    np.testing.assert_allclose(got["scores"], expected["scores"], atol=1e-5)
