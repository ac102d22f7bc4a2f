"""Originals of every kind of source: what they give, how they are kept, and what is refused."""

from __future__ import annotations

import importlib.util

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch.export import Dim

from conch.errors import ConfigError, ParityError
from export import original as originals
from export import parity, pipeline, planning
from export import recipe as recipes
from export.data import RecipeData
from export.external_data import external_files
from export.session import Session
from export.source import Source
from export.source_files import source_files
from export.steps import Artifact, Form, onnx_file
from export.store import Store
from tests.integration import toy_recipe
from tests.integration.toy_originals import (
    Net,
    a_program,
    an_onnx,
    checked,
    loaded,
    refusal,
    rows,
)

MAGIKA = importlib.util.find_spec("magika")


def test_program_gives_what_its_module_gives_and_is_kept(tmp_path):
    """Also after it went through a file, as between two processes."""
    a_program(tmp_path / "net.pt2")
    original, recipe, _ = loaded(tmp_path, program="net.pt2")
    expected = Net().eval()(torch.from_numpy(rows()["x"])).detach().numpy()
    np.testing.assert_allclose(original.run(rows())["scores"], expected, atol=1e-6)
    summary = checked(tmp_path, original, recipe)
    assert (summary["source"], summary["parameters"]) == ("program", 16 * 8 + 8 + 8 * 4 + 4)
    kept = originals.keep(original, tmp_path, {"summary": summary})
    again = originals.stored(recipe, Artifact(form=kept.form, path=kept.path))
    np.testing.assert_array_equal(again.run(rows())["scores"], original.run(rows())["scores"])
    shapes = ({0: Dim("batch", min=1, max=8)},)
    example = (torch.from_numpy(rows(2)["x"]),)
    exported = torch.onnx.export(
        again.module, example, dynamo=True, dynamic_shapes=shapes, verbose=False
    )
    assert len(exported.model_proto.graph.initializer) >= 4


def test_program_that_is_trained_keeps_its_new_weights_when_stored(tmp_path):
    """Finetuning a program must not be lost on the way to the next step."""
    a_program(tmp_path / "net.pt2")
    original, _, _ = loaded(tmp_path, program="net.pt2")
    module = original.module.train()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    module(torch.from_numpy(rows()["x"])).square().sum().backward()
    optimizer.step()
    torch.save(module, tmp_path / "module.pt")
    again = torch.load(tmp_path / "module.pt", weights_only=False)
    x = torch.from_numpy(rows()["x"])
    assert torch.equal(again(x), module(x))
    assert not torch.equal(again(x), Net().eval()(x))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"dynamic": False}, "axis 0 is fixed to 2, the recipe needs 1 to 8 (batch)"),
        ({"largest": 4}, "axis 0 is 1 to 4, the recipe needs 1 to 8 (batch)"),
        ({"dtype": torch.float64}, "x is float64 in the program, float32 in the recipe"),
    ],
)
def test_program_that_is_not_what_the_recipe_says_is_refused(tmp_path, change, says):
    """Before any work; with what to write instead."""
    a_program(tmp_path / "net.pt2", **change)
    assert says in refusal(tmp_path, program="net.pt2")


def test_file_that_is_no_program_is_refused(tmp_path):
    """A TorchScript file, or a cut-off download."""
    (tmp_path / "net.pt2").write_bytes(b"PK\x03\x04 no zip")
    assert "cannot be loaded" in refusal(tmp_path, program="net.pt2")


def test_program_in_training_mode_is_refused_by_its_noise(tmp_path):
    """Its dropout was fixed to on when it was exported."""
    a_program(tmp_path / "net.pt2", module=Net().train())
    original, recipe, _ = loaded(tmp_path, program="net.pt2")
    with pytest.raises(ConfigError, match="changes with the other samples"):
        checked(tmp_path, original, recipe)


@pytest.mark.parametrize("external", [False, True])
def test_onnx_file_is_run_as_it_is_and_kept_whole(tmp_path, external):
    """Its chain starts in ONNX form; external data travels along."""
    an_onnx(tmp_path / "net.onnx", external=external)
    original, recipe, path = loaded(tmp_path, onnx="net.onnx")
    assert recipe.initial_form is Form.ONNX
    w = np.random.default_rng(0).standard_normal((16, 4)).astype(np.float32)
    expected = np.maximum(rows()["x"] @ w, 0)
    np.testing.assert_allclose(original.run(rows())["scores"], expected, atol=1e-5)
    summary = checked(tmp_path, original, recipe)
    assert summary["operators"] == {"MatMul": 1, "Relu": 1}
    assert (summary["opset"], summary["ir_version"]) == ({"ai.onnx": 17}, 8)
    assert summary["inputs"] == [{"name": "x", "dtype": "float32", "dims": ["batch", 16]}]
    stage = tmp_path / "stage"
    stage.mkdir()
    kept = originals.keep(original, stage, {})
    again = originals.stored(recipe, kept)
    np.testing.assert_array_equal(again.run(rows())["scores"], original.run(rows())["scores"])
    names = {file.name for file in source_files(path, recipe)}
    assert names == {"model.py", "data.py", "net.onnx"} | ({"net.data"} if external else set())


def test_data_files_of_subgraphs_and_constants_are_found(tmp_path):
    """A weight may lie in a branch of If, or in the attribute of a node."""

    def tensor(name):
        found = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1])
        found.data_location = TensorProto.EXTERNAL
        found.external_data.add(key="location", value=f"{name}.data")
        (tmp_path / f"{name}.data").write_bytes(b"\0" * 4)
        return found

    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    same = helper.make_node("Identity", ["inner"], ["y"])
    inner = helper.make_graph([same], "then", [], [value], [tensor("inner")])
    constant = helper.make_node("Constant", [], ["y"], value=tensor("constant"))
    other = helper.make_graph([constant], "else", [], [value])
    branch = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=other)
    condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    graph = helper.make_graph([branch], "net", [condition], [value])
    (tmp_path / "net.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    names = [path.name for path in external_files(tmp_path / "net.onnx")]
    assert names == ["constant.data", "inner.data"]


@pytest.mark.parametrize("place", ["net.data", "weights/net.data"])
def test_weights_in_a_file_beside_pass_through_every_kind_of_step(tmp_path, place):
    """Steps that pass the model on keep the file, the others write one file."""
    proto = onnx.load(an_onnx(tmp_path / "net.onnx"))
    for node in proto.graph.node:
        node.name = node.op_type
    (tmp_path / place).parent.mkdir(exist_ok=True)
    onnx.save(
        proto, tmp_path / "net.onnx", save_as_external_data=True, location=place, size_threshold=0
    )
    static = {"quantize": {"method": "static_qdq", "reduce_range": True}}
    chains = {
        "plain": [],
        "ranked": ["rank_layers"],
        "static": ["rank_layers", static],
        "dynamic": ["slim", {"quantize": {"method": "dynamic", "reduce_range": True}}],
    }
    if importlib.util.find_spec("tensorrt_rtx"):
        chains["trt"] = ["rank_layers", "to_tensorrt"]
    path = toy_recipe.write(
        tmp_path,
        model={"factory": None, "onnx": "net.onnx"},
        variants=[{"name": name, "steps": steps} for name, steps in chains.items()],
    )
    pipeline.run(path, repository=None, work_dir=tmp_path / "runs", until="build", jobs=1)
    store = Store(tmp_path / "runs" / "toy" / "stages")
    whole = Session(tmp_path / "net.onnx").run(rows())["scores"]
    for chain in planning.plan(path).chains:
        made = store.get(chain.end)
        assert made is not None, chain.name
        kept = [extra.name for extra in made.artifact.extra]
        scores = Session(made.artifact.file).run(rows())["scores"]
        if chain.name in ("plain", "ranked"):
            assert kept == [place.replace("/", "_")]
        else:
            assert kept == (["build.json"] if chain.name == "trt" else [])
        assert parity.cosine(whole, scores).min() > 0.99, chain.name


def test_model_too_large_for_one_file_is_refused(tmp_path, monkeypatch):
    """Instead of protobuf's own words in the middle of a step."""
    an_onnx(tmp_path / "net.onnx", external=True)
    monkeypatch.setattr(onnx_file, "LARGEST_BYTES", 300)
    with pytest.raises(ConfigError, match="to_tensorrt: the model with its weights takes"):
        onnx_file.save_whole(tmp_path / "net.onnx", tmp_path / "out.onnx", step="to_tensorrt")


def test_recipe_that_moves_with_its_runs_keeps_its_stages(tmp_path):
    """Stored modules name their classes; the names must not hold the path."""
    variants = [{"name": "fp32", "steps": ["to_onnx"]}]
    old, new = tmp_path / "old", tmp_path / "new"
    path = toy_recipe.write(old, variants=variants)
    pipeline.run(path, repository=None, work_dir=old / "runs", until="build", jobs=1)
    before = {one.name for one in (old / "runs" / "toy" / "stages").iterdir()}
    old.rename(new)
    variants.append({"name": "again", "steps": [{"to_onnx": {"opset": 19}}]})
    path = toy_recipe.write(new, variants=variants)
    stages = new / "runs" / "toy" / "stages"
    times = {one: one.stat().st_mtime_ns for one in stages.iterdir()}
    pipeline.run(path, repository=None, work_dir=new / "runs", until="build", jobs=1)
    after = {one.name for one in stages.iterdir()}
    assert before < after
    assert len(after) == len(before) + 1
    assert all(one.stat().st_mtime_ns == time for one, time in times.items())


def test_onnx_source_has_no_module(tmp_path):
    """Steps on the network itself need one."""
    an_onnx(tmp_path / "net.onnx")
    original, _, _ = loaded(tmp_path, onnx="net.onnx")
    with pytest.raises(ConfigError, match="has no PyTorch module"):
        _ = original.module


NAN = np.full((16, 4), np.nan, dtype=np.float32)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"batch": 2}, ConfigError, "the batch axis is fixed (x [2, 16])"),
        ({"op": "Sparkle", "domain": "acme"}, ConfigError, "has the operators acme.Sparkle"),
        ({"op": "Sparkle"}, ConfigError, "is not valid (No Op registered for Sparkle"),
        ({"opset": 27, "ir": 13}, ConfigError, "takes opset 26 at most"),
        ({"extra_input": True}, ConfigError, "inputs are x, unused, the recipe names x"),
        ({"weight": NAN}, ParityError, "w holds NaN or infinity"),
        ({"weight": np.full((16, 4), np.inf, dtype=np.float32)}, ParityError, "w holds NaN"),
    ],
)
def test_onnx_file_that_cannot_be_served_is_refused(tmp_path, change, error, says):
    """Each with the reason, before any work."""
    an_onnx(tmp_path / "net.onnx", **change)
    assert says in refusal(tmp_path, error, onnx="net.onnx")


@pytest.mark.parametrize(("value", "accepted"), [(np.nan, False), (np.inf, True)])
def test_constant_of_an_onnx_file_may_be_infinite_but_not_nan(tmp_path, value, accepted):
    """A mask holds infinity on purpose."""
    proto = onnx.load(an_onnx(tmp_path / "net.onnx"))
    mask = np.array([value], dtype=np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(mask, "mask"))
    onnx.save(proto, tmp_path / "net.onnx")
    if accepted:
        loaded(tmp_path, onnx="net.onnx")
    else:
        assert "mask holds NaN" in refusal(tmp_path, ParityError, onnx="net.onnx")


@pytest.mark.parametrize(
    ("tensor", "says"),
    [
        ({"name": "x", "dtype": "int64", "dims": [16]}, "x is float32 in the file, int64 in"),
        ({"name": "x", "dtype": "float32", "dims": [9]}, "['batch', 16] in the file, [batch, 9]"),
        (
            {"name": "image", "dtype": "float32", "dims": [16]},
            "inputs are x, the recipe names image",
        ),
    ],
)
def test_onnx_file_and_recipe_must_agree_on_inputs(tmp_path, tensor, says):
    """With the right dtype named."""
    an_onnx(tmp_path / "net.onnx")
    assert says in refusal(tmp_path, onnx="net.onnx", inputs=[tensor])


def test_onnx_input_that_nothing_reads_is_refused(tmp_path):
    """Clients would send it for nothing."""
    an_onnx(tmp_path / "net.onnx", extra_input=True)
    inputs = [
        {"name": "x", "dtype": "float32", "dims": [16]},
        {"name": "unused", "dtype": "float32", "dims": [2]},
    ]
    assert "no operator uses the input unused" in refusal(tmp_path, onnx="net.onnx", inputs=inputs)


def test_onnx_file_without_its_data_file_is_refused(tmp_path):
    """The weights lie in a second file that people forget to copy."""
    an_onnx(tmp_path / "net.onnx", external=True)
    (tmp_path / "net.data").unlink()
    assert "keeps weights in net.data, which is not beside it" in refusal(tmp_path, onnx="net.onnx")


def test_cut_off_onnx_file_is_refused(tmp_path):
    """A download that broke."""
    whole = an_onnx(tmp_path / "net.onnx").read_bytes()
    (tmp_path / "net.onnx").write_bytes(whole[: len(whole) // 2])
    assert "model.onnx" in refusal(tmp_path, onnx="net.onnx")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ({"onnx": "gone.onnx"}, "gone.onnx is not there"),
        ({"program": "gone.pt2"}, "gone.pt2 is not there"),
        ({"onnx": "package:surely_not_installed/a.onnx"}, "surely_not_installed is not installed"),
        ({"huggingface": {"folder": "gone"}}, "gone is not there"),
    ],
)
def test_source_that_is_not_there_is_refused(tmp_path, source, says):
    """The recipe's key goes first."""
    assert says in refusal(tmp_path, **source)


@pytest.mark.skipif(MAGIKA is None, reason="needs the package magika")
def test_onnx_file_of_an_installed_package_is_an_original(tmp_path):
    """A real model that others trained: magika tells the type of a file from its bytes."""
    data = (
        "import numpy as np\n"
        "def evaluation():\n"
        "    text = (b'def f(x):\\n    return x\\n' * 99)[:1024]\n"
        "    return [{'bytes': np.tile(np.frombuffer(text, np.uint8).astype(np.int32), (3, 2))}]\n"
    )
    path = toy_recipe.write(
        tmp_path,
        data_code=data,
        model={
            "factory": None,
            "onnx": "package:magika/models/standard_v3_3/model.onnx",
            "inputs": [{"name": "bytes", "dtype": "int32", "dims": [2048]}],
            "outputs": [{"name": "target_label", "dtype": "float32", "dims": [214]}],
        },
        data={"calibration": None},
        variants=[{"name": "fp32", "steps": []}],
    )
    recipe = recipes.load(path)
    original = originals.load(recipe, Source(tmp_path))
    summary = checked(tmp_path, original, recipe)
    assert summary["parameter_bytes"] > 3_000_000
    scores = original.run(RecipeData(recipe, Source(tmp_path)).evaluation()[0])["target_label"]
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-3)


def test_nan_in_the_weights_of_a_module_is_refused_by_name(tmp_path):
    """It would only be seen as NaN in every output."""
    code = toy_recipe.GOOD_MODEL.replace(
        "    return Toy()",
        "    toy = Toy()\n    toy.second.weight.data[0, 0] = float('nan')\n    return toy",
    )
    path = toy_recipe.write(tmp_path, model_code=code)
    with pytest.raises(ParityError, match=r"second\.weight holds NaN or infinity"):
        originals.load(recipes.load(path), Source(tmp_path))


def test_infinity_in_a_buffer_may_be_a_mask(tmp_path):
    """A causal mask holds it on purpose."""
    code = toy_recipe.GOOD_MODEL.replace(
        "        self.second", "        self.register_buffer('mask', torch.tensor([-torch.inf]))\n"
        "        self.second", 1,
    )  # fmt: skip
    path = toy_recipe.write(tmp_path, model_code=code)
    assert originals.load(recipes.load(path), Source(tmp_path)).run(rows())["scores"].shape == (
        5,
        4,
    )


def test_module_that_cannot_be_stored_is_refused_with_the_reason(tmp_path):
    """Weight normalisation as torch has it cannot be pickled."""
    code = toy_recipe.GOOD_MODEL.replace(
        "    return Toy()",
        "    toy = Toy()\n    nn.utils.parametrizations.weight_norm(toy.first)\n    return toy",
    )
    path = toy_recipe.write(tmp_path, model_code=code)
    original = originals.load(recipes.load(path), Source(tmp_path))
    with pytest.raises(ConfigError, match="remove_parametrizations"):
        originals.keep(original, tmp_path, {})
    assert not (tmp_path / originals.MODULE_FILE).exists()


def test_wrong_width_of_integers_is_refused_with_the_right_one(tmp_path):
    """An embedding takes both, one_hot only int64."""
    code = toy_recipe.GOOD_MODEL.replace(
        "def forward(self, x):\n",
        "def forward(self, x):\n        x = nn.functional.one_hot(x, 16).float().mean(1)\n",
    )
    data = "import numpy as np\ndef evaluation():\n    return [{'x': np.ones((4, 16), np.int32)}]\n"
    path = toy_recipe.write(
        tmp_path,
        model_code=code,
        data_code=data,
        model={"inputs": [{"name": "x", "dtype": "int32", "dims": [16]}]},
    )
    recipe = recipes.load(path)
    original = originals.load(recipe, Source(tmp_path))
    with pytest.raises(ConfigError, match="x is int32 in the recipe, but forward takes int64"):
        checked(tmp_path, original, recipe)
