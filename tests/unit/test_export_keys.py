"""Content keys change with what decides a result, and with nothing else."""

from __future__ import annotations

import pytest
import yaml

from export import keys, planning
from export import recipe as recipes
from export.hashing import file_sha256
from export.source_files import distributions, source_files
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


def test_data_files_that_the_recipe_names_are_part_of_the_key(tmp_path):
    """Its code reads them, which nobody else can know."""
    path = toy_recipe.write(tmp_path)
    (tmp_path / "rows.csv").write_text("1\n")
    changed(path, lambda r: r["data"].update(files=["rows.csv"]))
    before = ends(path)
    (tmp_path / "rows.csv").write_text("2\n")
    assert ends(path)["fp32"] != before["fp32"]


@pytest.mark.parametrize("place", ["nets/toy.py", "a/b/c.py"])
def test_code_below_the_recipe_is_part_of_the_key_without_init_files(tmp_path, place):
    """`from .nets.toy import load` works without them."""
    path = toy_recipe.write(tmp_path)
    file = tmp_path / place
    file.parent.mkdir(parents=True)
    file.write_text("WIDTH = 3\n")
    before = ends(path)
    file.write_text("WIDTH = 4\n")
    assert ends(path)["fp32"] != before["fp32"]


def test_two_files_that_change_places_change_the_key(tmp_path):
    """Names alone would not tell them apart."""
    path = toy_recipe.write(tmp_path)
    for name, text in (("a", "X = 1\n"), ("b", "X = 2\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "net.py").write_text(text)
    before = ends(path)
    (tmp_path / "a" / "net.py").write_text("X = 2\n")
    (tmp_path / "b" / "net.py").write_text("X = 1\n")
    assert ends(path)["fp32"] != before["fp32"]


@pytest.mark.parametrize("place", [".hidden", "runs", "__pycache__", "model_repository", "env"])
def test_what_tools_write_beside_the_recipe_is_no_part_of_the_key(tmp_path, place):
    """Or each run would make the next one start anew."""
    path = toy_recipe.write(tmp_path)
    before = ends(path)
    (tmp_path / place).mkdir()
    (tmp_path / place / "some.py").write_text("X = 1\n")
    (tmp_path / "env" / "pyvenv.cfg").write_text("") if place == "env" else None
    assert ends(path) == before


def test_all_of_a_package_that_is_not_installed_is_part_of_the_key(tmp_path, monkeypatch):
    """One that is being written: the module that the recipe names imports the others."""
    package = tmp_path / "elsewhere" / "mynets"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "models.py").write_text("from .layers import load\n")
    (package / "layers.py").write_text("def load(): return 1\n")
    monkeypatch.syspath_prepend(package.parent)
    path = toy_recipe.write(tmp_path / "recipe", model={"factory": "mynets.models:load"})
    before = ends(path)
    (package / "layers.py").write_text("def load(): return 2\n")
    assert ends(path)["fp32"] != before["fp32"]


def test_version_stands_for_the_code_of_an_installed_package(tmp_path, monkeypatch):
    """Hashing all of a large one at each start would take too long."""
    path = toy_recipe.write(tmp_path, model={"factory": "yaml.loader:Loader"})
    assert distributions(["yaml.loader:Loader", "os.path:join", "model.py:load"]) == ("PyYAML",)
    before = ends(path)
    real = keys._version
    monkeypatch.setattr(keys, "_version", lambda one: "9" if one == "PyYAML" else real(one))
    assert ends(path)["fp32"] != before["fp32"]


def test_key_of_a_step_has_what_the_step_reads_of_the_recipe(tmp_path):
    """The profile of a TensorRT engine is tuned for the preferred batch sizes."""
    steps = ["to_onnx", "to_tensorrt"]
    path = toy_recipe.write(tmp_path, variants=[{"name": "trt", "steps": steps}])
    before = planning.plan(path).chains[0].keys
    changed(path, lambda r: r["serving"].update(preferred_batch_sizes=[2]))
    after = planning.plan(path).chains[0].keys
    assert before[:2] == after[:2]
    assert before[2] != after[2]


def test_options_of_a_step_are_part_of_its_key(tmp_path):
    """And the default written out is the same as the default left out."""
    recipe = recipes.load(toy_recipe.write(tmp_path))

    def key(spec, parent="p"):
        return keys.step(parent, StepSpec.model_validate(spec), recipe)

    assert key("to_onnx") == key({"to_onnx": None})
    assert key("to_onnx") != key({"to_onnx": {"opset": 19}})
    assert key("to_onnx") != key("to_onnx", parent="q")


def test_version_of_a_tool_is_part_of_the_key(monkeypatch, tmp_path):
    """An upgrade builds anew."""
    path = toy_recipe.write(tmp_path)
    recipe = recipes.load(path)
    before = keys.root(recipe, [path], tmp_path)
    monkeypatch.setattr(keys, "_version", lambda package: "0.0.1")
    assert keys.root(recipe, [path], tmp_path) != before


def test_files_that_decide_the_original_are_found(tmp_path):
    """Code beside the recipe and below it, and what ``model.files`` names."""
    path = toy_recipe.write(tmp_path, model={"files": ["weights"]})
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "a.bin").write_bytes(b"1")
    (tmp_path / "weights" / ".hidden").write_bytes(b"1")
    (tmp_path / "layers").mkdir()
    (tmp_path / "layers" / "__init__.py").touch()
    (tmp_path / "layers" / "conv.py").touch()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "notes.py").touch()
    found = source_files(path, recipes.load(path))
    assert [str(file.relative_to(tmp_path)) for file in found] == [
        "data.py", "layers/__init__.py", "layers/conv.py", "model.py", "weights/a.bin",
    ]  # fmt: skip
    before = file_sha256(tmp_path / "weights" / "a.bin")
    (tmp_path / "weights" / "a.bin").write_bytes(b"2")
    assert file_sha256(tmp_path / "weights" / "a.bin") != before
