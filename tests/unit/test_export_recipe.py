"""Recipes: what is accepted, what is refused, and what the refusal says."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from conch.errors import ConfigError
from export import planning, recipe

WHOLE = """
version: 1
model:
  name: toy
  factory: model.py:load
  axes:
    sequence: {min: 2, max: 16, example: 8}
  inputs:
    - {name: ids, dtype: int64, dims: [sequence]}
  outputs:
    - {name: scores, dtype: float32, dims: [4]}
data:
  calibration: data.py:calibration
  evaluation: data.py:evaluation
variants:
  - name: fp32
    steps: [to_onnx]
  - name: int8
    steps:
      - to_onnx
      - quantize: {method: dynamic}
serving:
  max_batch_size: 16
  max_queue_delay: 2ms
"""


def changed(*path, to):
    """The whole recipe as text, with one value replaced (or removed, for None)."""
    data = yaml.safe_load(WHOLE)
    place = data
    for key in path[:-1]:
        place = place.setdefault(key, {}) if isinstance(place, dict) else place[key]
    if to is None:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return yaml.safe_dump(data, sort_keys=False)


def refusal(text):
    """What the refusal of a recipe says."""
    with pytest.raises(ConfigError) as caught:
        recipe.loads(text)
    assert caught.value.exit_code == 3
    return caught.value.message


def test_whole_recipe_is_read_with_units_and_defaults():
    """Durations become seconds; gates default to a cosine of 0.98."""
    found = recipe.loads(WHOLE)
    assert found.serving.max_queue_delay == 0.002
    assert found.gates.fidelity is not None
    assert found.gates.fidelity.min == 0.98
    assert [v.labels for v in found.variants] == [("to_onnx",), ("to_onnx", "quantize dynamic")]
    assert found.published_name(found.variants[1]) == "toy_int8"


def test_unknown_key_is_refused_with_its_line_and_a_suggestion():
    """A typing error must not silently be a default."""
    message = refusal(WHOLE.replace("max_queue_delay: 2ms", "max_queu_delay: 2ms"))
    assert message == (
        "recipe.yaml:24: serving.max_queu_delay: unknown key; did you mean 'max_queue_delay'?"
    )


def test_unknown_step_is_refused_with_a_suggestion():
    """Steps are keys too."""
    assert "did you mean 'quantize'?" in refusal(WHOLE.replace("quantize:", "quantise:"))


def test_unknown_option_of_a_step_is_refused_with_a_suggestion():
    """Options belong to the method that was chosen."""
    text = WHOLE.replace("{method: dynamic}", "{method: dynamic, per_chanel: true}")
    assert "did you mean 'per_channel'?" in refusal(text)


def test_every_fault_is_reported_at_once():
    """One round trip mends a file."""
    text = WHOLE.replace("max_batch_size: 16", "max_batch_size: many").replace(
        "dtype: int64", "dtype: int65"
    )
    message = refusal(text)
    assert "serving.max_batch_size = 'many'" in message
    assert "dtype = 'int65'" in message
    assert len(message.splitlines()) == 2


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("model", "name"), "a;reboot", "allowed are letters"),
        (("model", "name"), "../up", "allowed are letters"),
        (("variants", 0, "name"), "$(id)", "allowed are letters"),
        (("model", "name"), "m" * 126, "published model name"),
        (("model", "factory"), "model.py", "FILE.py:FUNCTION"),
        (("model", "outputs", 0, "name"), "ids", "share the name ids"),
        (("model", "outputs", 0, "dims"), ["classes"], "axes has no classes"),
        (("model", "axes", "sequence", "example"), 99, "must lie in 2 to 16"),
        (("variants", 1, "name"), "fp32", "two variants are called fp32"),
        (("variants", 1, "steps"), ["to_onnx", "quantize"], "the key 'method' is required"),
        (("data", "evaluation"), None, "gates.fidelity needs data.evaluation"),
        (("gates",), {"task": {"metric": "data.py:f", "max_drop": -1}}, "greater than or equal"),
        (("gates",), {"latency": {"batch": 3, "max_ratio": 1.0}}, "is not measured"),
        (("gates",), {"fidelity": {"output": "logits"}}, "outputs are scores"),
        (("serving", "max_queue_delay"), "2 weeks", "is not a duration"),
        (("version",), 2, "Input should be 1"),
        (("variants",), [], "at least 1 entry"),
    ],
)
def test_wrong_value_is_refused(path, value, says):
    """Each with a sentence that tells what is allowed."""
    assert says in refusal(changed(*path, to=value))


def test_steps_out_of_order_are_refused_with_the_reason():
    """A quantizer of ONNX files cannot take a PyTorch module."""
    steps = [{"quantize": {"method": "dynamic"}}, "to_onnx"]
    assert "quantize takes a model in onnx form, but would get torch" in refusal(
        changed("variants", 0, "steps", to=steps)
    )


def test_two_steps_under_one_dash_are_refused():
    """Their order would be unclear."""
    steps = [{"to_onnx": {}, "quantize": {"method": "dynamic"}}]
    assert "names 2 steps" in refusal(changed("variants", 0, "steps", to=steps))


def test_static_quantization_without_calibration_data_is_refused():
    """Found before the model is loaded, not after a minute."""
    text = changed("data", "calibration", to=None).replace("dynamic", "static_qdq")
    assert "variant int8 needs data.calibration" in refusal(text)


def test_task_gate_without_data_is_refused():
    """Nothing to measure it on."""
    data = yaml.safe_load(WHOLE)
    data["data"] = {}
    data["gates"] = {"fidelity": None, "task": {"metric": "data.py:f", "max_drop": 0.1}}
    assert "gates.task needs data.evaluation" in refusal(yaml.safe_dump(data))


def test_gates_may_be_switched_off_without_data():
    """Only when it is said in so many words."""
    data = yaml.safe_load(WHOLE)
    data["data"] = {}
    data["gates"] = {"fidelity": None}
    assert recipe.loads(yaml.safe_dump(data)).gates.fidelity is None


def test_variant_gates_replace_only_the_keys_they_name():
    """The fidelity gate stays when a variant adds a size gate."""
    data = yaml.safe_load(WHOLE)
    data["variants"][1]["gates"] = {"size": {"max_ratio": 0.3}}
    found = recipe.loads(yaml.safe_dump(data))
    gates = found.gates_of(found.variants[1])
    assert gates.size is not None
    assert gates.fidelity == found.gates.fidelity
    assert found.gates_of(found.variants[0]).size is None


def test_latency_batches_never_exceed_what_is_served():
    """A batch of 8 cannot be measured for a model that is served at most 4."""
    assert recipe.loads(WHOLE.replace("16\n", "4\n")).latency_batches == (1, 4)


def test_missing_recipe_is_refused_with_the_path(tmp_path):
    """The first mistake of all."""
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read"):
        planning.plan(tmp_path / "nowhere.yaml")


def test_plan_refuses_variants_that_the_recipe_does_not_have(tmp_path):
    """--only with a typing error must not run nothing and call it success."""
    path = tmp_path / "recipe.yaml"
    path.write_text(WHOLE)
    with pytest.raises(ConfigError, match=r"int9 not in .* which has fp32, int8"):
        planning.plan(path, only=["int9"])


def test_plan_names_the_plain_export_as_the_baseline(tmp_path):
    """Ratios are taken against the variant that is only exported."""
    path = tmp_path / "recipe.yaml"
    path.write_text(WHOLE)
    todo = planning.plan(path, only=["int8"])
    assert todo.baseline.name == "fp32"
    assert [variant.name for variant in todo.variants] == ["int8"]
    assert [chain.name for chain in todo.all_chains] == ["fp32", "int8"]


def test_plan_adds_a_baseline_when_no_variant_is_one(tmp_path):
    """A recipe with only INT8 still has something to be compared with."""
    path = tmp_path / "recipe.yaml"
    data = yaml.safe_load(WHOLE)
    del data["variants"][0]
    path.write_text(yaml.safe_dump(data))
    assert planning.plan(path).baseline.name == planning.BASELINE


@pytest.mark.parametrize("example", ["minilm", "mnist"])
def test_example_recipes_are_valid(example):
    """What the documentation points at must load."""
    path = Path(__file__).parents[2] / "examples" / example / "recipe.yaml"
    assert recipe.load(path).model.name == example


def test_planning_imports_nothing_heavy():
    """`conch export plan` answers at once, and `conch control` must never load torch."""
    code = (
        "import sys, cli.export, export.pipeline; "
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'transformers') if m in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout.strip() == "[]"


def test_name_of_the_plain_export_is_taken():
    """A variant of that name would be mistaken for it, without its gates."""
    data = yaml.safe_load(WHOLE)
    data["variants"][1]["name"] = "baseline"
    with pytest.raises(ConfigError, match="a variant is called baseline"):
        recipe.loads(yaml.safe_dump(data))


def test_onnx_source_has_no_to_onnx():
    """The message says what to write instead."""
    data = yaml.safe_load(WHOLE)
    del data["model"]["factory"]
    data["model"]["onnx"] = "model.onnx"
    with pytest.raises(ConfigError, match="leave it out"):
        recipe.loads(yaml.safe_dump(data))
