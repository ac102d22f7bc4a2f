"""Content keys change with what decides a result, and with nothing else."""

from __future__ import annotations

import pytest
import yaml

from export import keys, planning
from export import recipe as recipes
from export.steps import StepSpec
from tests.integration import toy_recipe


def ends(path) -> dict[str, str]:
    """Each chain's end key."""
    return {chain.name: chain.end for chain in planning.plan(path).chains}


def changed(path, edit) -> None:
    """Write the recipe with a change."""
    recipe = yaml.safe_load(path.read_text())
    edit(recipe)
    path.write_text(yaml.safe_dump(recipe))


def test_equal_recipes_in_two_folders_have_equal_keys(tmp_path):
    """Neither paths nor times are part of a key."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    assert ends(toy_recipe.write(tmp_path / "one")) == ends(toy_recipe.write(tmp_path / "two"))


def test_shared_steps_share_a_key(tmp_path):
    """The export of fp32 is that of int8."""
    todo = planning.plan(toy_recipe.write(tmp_path))
    fp32, int8 = todo.chains
    assert fp32.keys == int8.keys[:2]
    assert int8.end not in fp32.keys


@pytest.mark.parametrize(
    "edit",
    [
        lambda r: r.update(seed=1),
        lambda r: r["model"]["inputs"][0].update(name="y"),
        lambda r: r["serving"].update(max_batch_size=16),
        lambda r: r["data"].pop("calibration"),
    ],
    ids=["seed", "input name", "largest batch", "data"],
)
def test_what_decides_the_original_changes_every_key(tmp_path, edit):
    """Everything is built anew."""
    path = toy_recipe.write(tmp_path)
    before = ends(path)
    changed(path, edit)
    after = ends(path)
    assert all(before[name] != after[name] for name in before)


@pytest.mark.parametrize(
    "edit",
    [
        lambda r: r["serving"].update(instances=2, threads=2),
        lambda r: r.update(gates={"fidelity": {"min": 0.5}}),
        lambda r: r.update(measure={"batches": [1], "rounds": 5}),
        lambda r: r["variants"].pop(),
    ],
    ids=["instances", "gates", "measure", "another variant"],
)
def test_what_decides_no_file_changes_no_key_of_one(tmp_path, edit):
    """Gates and instance counts are judged and published anew, not built anew."""
    path = toy_recipe.write(tmp_path)
    before = ends(path)
    changed(path, edit)
    after = ends(path)
    assert all(before[name] == after[name] for name in after)


def test_code_beside_the_recipe_is_part_of_the_key(tmp_path):
    """Also of files that the recipe does not name: they may be imported."""
    path = toy_recipe.write(tmp_path)
    before = ends(path)
    (tmp_path / "layers.py").write_text("WIDTH = 3\n")
    middle = ends(path)
    (tmp_path / "layers.py").write_text("WIDTH = 4\n")
    assert before["fp32"] != middle["fp32"] != ends(path)["fp32"]


def test_environment_that_the_recipe_names_is_part_of_the_key(tmp_path, monkeypatch):
    """Data that depend on a variable are other data."""
    path = toy_recipe.write(tmp_path)
    changed(path, lambda r: r["data"].update(environment=["TOY_SIZE"]))
    before = ends(path)
    monkeypatch.setenv("TOY_SIZE", "large")
    assert ends(path)["fp32"] != before["fp32"]


def test_options_of_a_step_are_part_of_its_key():
    """And the default written out is the same as the default left out."""
    plain = StepSpec.model_validate("to_onnx")
    assert keys.step("p", plain) == keys.step("p", StepSpec.model_validate({"to_onnx": None}))
    other = StepSpec.model_validate({"to_onnx": {"opset": 19}})
    assert keys.step("p", plain) != keys.step("p", other)
    assert keys.step("p", plain) != keys.step("q", plain)


def test_version_of_a_tool_is_part_of_the_key(monkeypatch, tmp_path):
    """An upgrade builds anew."""
    path = toy_recipe.write(tmp_path)
    recipe = recipes.load(path)
    before = keys.root(recipe, [path])
    monkeypatch.setattr(keys, "_version", lambda package: "0.0.1")
    assert keys.root(recipe, [path]) != before
