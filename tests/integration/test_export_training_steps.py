"""The steps that train and prune, on a small real model with real gradients."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from conch.errors import ConfigError, RepositoryError
from export.original import TorchOriginal
from export.session import Session
from export.steps import Artifact, Form
from export.steps.distill import Distill
from export.steps.finetune import Finetune
from export.steps.prune import Prune
from export.steps.qat import Qat
from export.steps.quantize import StaticQdq
from export.steps.sparsify import Sparsify
from export.steps.to_onnx import ToOnnx

from . import step_bench

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _one_thread():
    """Bit-equal results need one number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def context(tmp_path):
    """A context for one step."""
    return step_bench.a_context(tmp_path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model that knows its four directions, and the context where it is the original."""
    folder = tmp_path_factory.mktemp("trained")
    context = step_bench.a_context(folder)
    found = Finetune(steps=50, learning_rate=1e-2).run(step_bench.original(context), context)
    assert step_bench.accuracy(found.torch_module, context) > 0.95
    original = TorchOriginal(found.torch_module, context.recipe.model)
    return Artifact(form=Form.TORCH, module=found.module), original


def beside(context, trained):
    """The context with the trained model as the original, and that model."""
    artifact, original = trained
    return artifact, dataclasses.replace(context, original=original)


def digest(module: torch.nn.Module) -> str:
    """Hash of all weights and buffers."""
    found = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        found.update(name.encode())
        found.update(np.ascontiguousarray(tensor.numpy()).tobytes())
    return found.hexdigest()


def in_process(folder: Path, *, failpoint: str = "") -> subprocess.Popen[str]:
    """A training in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.integration.train_in_process", str(folder)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "CONCH_FAILPOINT": failpoint},
    )


def test_finetune_learns_and_leaves_its_input_alone(context):
    """From guessing to knowing; the best weights are taken, and told."""
    artifact = step_bench.original(context)
    before = digest(artifact.module)
    found = Finetune(steps=50, learning_rate=1e-2).run(artifact, context)
    assert step_bench.accuracy(artifact.module, context) < 0.6
    assert step_bench.accuracy(found.module, context) > 0.95
    assert digest(artifact.module) == before
    told = found.facts["training"][-1]
    assert told["held_back_loss_after"] < told["held_back_loss_before"]
    assert not found.module.training


def test_finetune_gives_the_same_weights_twice(context):
    """With dropout and an augmentation that draws random numbers."""
    step = Finetune(steps=12, augment="data.py:shifted")
    one = step.run(step_bench.original(context), context)
    torch.rand(7)  # what other code draws in between does not matter
    other = step.run(step_bench.original(context), context)
    assert digest(one.module) == digest(other.module)


def test_training_goes_on_after_sigkill_as_if_nothing_had_happened(tmp_path):
    """Killed in the middle, and once more while it writes a checkpoint: bit for bit the same."""
    undisturbed = step_bench.finetuned(tmp_path / "undisturbed", step_bench.silent)

    killed = tmp_path / "killed"
    process = in_process(killed)
    for line in process.stdout:
        if line.strip() == "17":
            process.send_signal(signal.SIGKILL)
            break
    assert process.wait(timeout=30) == -signal.SIGKILL
    process = in_process(killed, failpoint="training.checkpoint.temp_written=kill")
    assert process.communicate(timeout=60)[0] == ""
    assert process.returncode == -signal.SIGKILL

    told = []
    resumed = step_bench.finetuned(killed, lambda done, total, note="": told.append(done))
    assert 17 <= told[0] <= 30, "it began anew, or it was not killed"
    assert digest(resumed.module) == digest(undisturbed.module)
    assert resumed.facts == undisturbed.facts


def test_full_disk_is_told_and_the_training_can_go_on(context, monkeypatch):
    """The checkpoint before it stays."""
    monkeypatch.setattr("export.checkpoint.Checkpoint.is_due", property(lambda self: True))
    monkeypatch.setenv("CONCH_FAILPOINT", "training.checkpoint.temp_written=enospc")
    with pytest.raises(RepositoryError, match="No space left"):
        Finetune(steps=4).run(step_bench.original(context), context)
    monkeypatch.delenv("CONCH_FAILPOINT")
    found = Finetune(steps=4).run(step_bench.original(context), context)
    assert found.facts["training"][-1]["steps"] == 4


def test_training_stops_early_when_nothing_gets_better(context):
    """A rate at which it only gets worse: the weights of the start are kept."""
    step = Finetune(steps=40, learning_rate=1.0, schedule="constant", patience=2)
    artifact = step_bench.original(context)
    told = step.run(artifact, context).facts["training"][-1]
    assert told["steps"] < 40
    assert told["held_back_loss_after"] <= told["held_back_loss_before"]


def test_loss_that_is_not_finite_is_told(context):
    """With the step, and what to change."""
    artifact = step_bench.original(context)
    with torch.no_grad():
        artifact.module.head.weight.fill_(3e38)
    with pytest.raises(ConfigError, match=r"loss .*is (nan|inf) after 0 of 5 steps") as told:
        Finetune(steps=5).run(artifact, context)
    assert "Lower learning_rate" in told.value.hint


@pytest.mark.parametrize("step", [Finetune(steps=2), Prune(ratio=0.5), Sparsify(), Qat(steps=2)])
def test_weights_with_nan_are_refused(context, step):
    """Before any work."""
    artifact = step_bench.original(context)
    with torch.no_grad():
        artifact.module.stem.weight[0] = math.nan
    with pytest.raises(ConfigError, match=r"stem\.weight \(9 of 288 values\)"):
        step.run(artifact, context)


def test_finetune_takes_a_loss_of_the_recipe(context):
    """A function of the outputs and the labels."""
    step = Finetune(steps=40, learning_rate=1e-2, loss="data.py:halved")
    found = step.run(step_bench.original(context), context)
    assert step_bench.accuracy(found.module, context) > 0.8
    with pytest.raises(ConfigError, match=r"vectors: gave float32 \[26, 4\], must give one number"):
        Finetune(steps=2, loss="data.py:vectors").run(step_bench.original(context), context)


def test_finetune_without_labels_is_refused(tmp_path):
    """And the way out is told."""
    context = step_bench.a_context(tmp_path, training="data.py:unlabelled")
    with pytest.raises(ConfigError, match="no labels under the key target") as told:
        Finetune(steps=2).run(step_bench.original(context), context)
    assert "distil" in told.value.hint


def test_prune_reaches_its_target_and_distillation_recovers_without_labels(tmp_path, trained):
    """A third of the MACs; what pruning took comes back from the original alone."""
    context = step_bench.a_context(tmp_path, training="data.py:unlabelled")
    artifact, context = beside(context, trained)
    pruned = Prune(target_macs=0.35, loss="outputs", round_to=4).run(artifact, context)
    fact = pruned.facts["pruning"][-1]
    assert 0.15 < fact["macs_after"] / fact["macs_before"] <= 0.35
    assert fact["kept_whole"] == ["head"]
    assert [entry["after"] for entry in fact["channels"]][-1] == 4
    hurt = step_bench.accuracy(pruned.module, context)
    recovered = Distill(steps=60, learning_rate=1e-2).run(pruned, context)
    assert hurt < 0.85
    assert step_bench.accuracy(recovered.module, context) > 0.9
    assert step_bench.accuracy(artifact.module, context) > 0.95, "the original was changed"


def test_taylor_importance_sees_what_magnitude_does_not(context, trained):
    """Eight units are large, but nothing listens to them: the gradient knows."""
    _, context = beside(context, trained)
    module = copy.deepcopy(trained[0].module)
    with torch.no_grad():
        module.wide.weight[:8] *= 20
        module.head.weight[:, :8] = 0
    artifact = Artifact(form=Form.TORCH, module=module)
    same = {}
    for kind in ("taylor", "magnitude"):
        step = Prune(layers={"wide": 8 / 64}, importance=kind)
        found = step.run(artifact, context).module.wide.weight
        same[kind] = torch.equal(found, module.wide.weight[8:])
    assert same == {"taylor": True, "magnitude": False}


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Prune(target_macs=0.001), r"cannot be reached: 0\.\d+ is the least, with round_to 8"),
        (Prune(ratio=0.5, round_to=64), "took out nothing"),
        (Prune(layers={"head": 0.5}), "head cannot be pruned"),
    ],
)
def test_prune_that_cannot_be_is_refused(context, step, message):
    """With what is possible."""
    with pytest.raises(ConfigError, match=message):
        step.run(step_bench.original(context), context)


def test_student_of_a_quarter_of_the_width_learns_from_the_original(context, trained):
    """Another, smaller network, which the recipe's factory gives."""
    artifact, context = beside(context, trained)
    step = Distill(steps=60, student="model.py:student", learning_rate=1e-2)
    found = step.run(artifact, context)
    assert found.module.stem.out_channels == 8
    assert step_bench.accuracy(found.module, context) > 0.9


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ("wrong_student", r"the student gives \[26, 3\], the original \[26, 4\]"),
        ("no_student", "gave a int, must give a torch.nn.Module"),
    ],
)
def test_student_that_does_not_fit_is_refused(context, student, message):
    """Another shape, or no module at all."""
    step = Distill(steps=2, student=f"model.py:{student}")
    with pytest.raises(ConfigError, match=message):
        step.run(step_bench.original(context), context)


@pytest.mark.parametrize("recovery", [Finetune(steps=10), Qat(steps=10)])
def test_training_keeps_the_zeros_of_a_sparse_model(context, trained, recovery):
    """Two of every four stay zero, the others move."""
    artifact, context = beside(context, trained)
    sparse = Sparsify(ignore=("head",)).run(artifact, context)
    assert sparse.facts["sparsity"]["layers"] == ["inner", "wide"]
    found = recovery.run(sparse, context)
    for name in ("inner", "wide"):
        before, after = (getattr(one.module, name).weight for one in (sparse, found))
        assert torch.equal(before == 0, after == 0)
        assert float((after == 0).float().mean()) == 0.5
    with pytest.raises(ConfigError, match="2:4 sparse, which taking out channels would break"):
        Prune(ratio=0.5).run(found, context)


def with_an_outlier(module: torch.nn.Module) -> torch.nn.Module:
    """The same function with one channel 300 times larger inside, as transformers have them."""
    same = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in (same.norm.weight, same.norm.bias, same.inner.weight, same.inner.bias):
            parameter[3] *= 300
        same.inner.weight[:, 3] /= 300
        same.wide.weight[:, 3] /= 300
    return same


def test_qat_saves_a_model_that_static_quantization_breaks(context, trained):
    """One scale for all channels leaves the small ones no steps; trained with it, they bear it."""
    module = with_an_outlier(trained[0].module)
    original = TorchOriginal(module, context.recipe.model)
    artifact, context = beside(context, (Artifact(form=Form.TORCH, module=module), original))
    assert step_bench.accuracy(module, context) > 0.95
    step = Qat(steps=60, loss="match", learning_rate=5e-3, held_back=0.1)
    aware = step.run(artifact, context)
    assert type(aware.module.stem) is torch.nn.Conv2d
    assert set(aware.module.state_dict()) == set(module.state_dict())

    found = {}
    for name, one in (("ptq", artifact), ("qat", aware)):
        own = dataclasses.replace(context, folder=context.folder / name)
        own.folder.mkdir()
        step = StaticQdq(method="static_qdq", activations="u8")
        quantized = step.run(ToOnnx().run(one, own), own)
        found[name] = step_bench.accuracy(Session(quantized.file), own)
    assert found["ptq"] < 0.75
    assert found["qat"] > 0.85
