"""The agent example: its game and its learning rule in small, then the whole recipe."""

from __future__ import annotations

import importlib
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

from export import pipeline
from export.report import Status
from export.source import Source

EXAMPLE = Path(__file__).parents[2] / "examples" / "agent"


@pytest.fixture(scope="module")
def agent():
    """The example's modules by name."""
    package = Source(EXAMPLE).function("model.py:load", key="model").__module__.rpartition(".")[0]
    return {name: importlib.import_module(f"{package}.{name}") for name in ("play", "dqn", "model")}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """One run of the recipe; trains the teacher when it is not in the cache."""
    folder = tmp_path_factory.mktemp("agent")
    report = pipeline.run(
        EXAMPLE / "recipe.yaml", repository=folder / "repository", work_dir=folder
    )
    return {variant.name: variant for variant in report.variants}


def by_feel(batch):
    """A policy by hand, and a bad one: push to where the pole leans."""
    lean = batch["observation"][:, 2]
    return {"q": np.stack([-lean, lean], axis=1)}


def test_play_gives_the_returns_that_single_environments_give(agent):
    """Episodes side by side, some long over, are those of CartPole-v1 one by one."""
    play = agent["play"]
    returns, met = play.play(by_feel, seed=7, episodes=6)
    starts = play.make(6).reset(seed=7)[0]
    alone = gymnasium.make("CartPole-v1")
    expected = []
    for start in starts:
        alone.reset(seed=0)
        alone.unwrapped.state = tuple(start.astype(float))
        observation, total, over = start, 0.0, False
        while not over:
            action = by_feel({"observation": observation[None]})["q"].argmax()
            observation, reward, fallen, cut, _ = alone.step(action)
            total, over = total + reward, fallen or cut
        expected.append(total)
    assert returns == pytest.approx(expected, abs=1)  # the vector's states are kept in float64
    assert len(set(expected)) > 1
    assert len(met) == returns.sum()


def test_play_sends_only_episodes_that_still_run(agent):
    """The batches shrink as episodes end; a policy that always pushes left ends within 11 steps."""
    sizes = []

    def left(batch):
        sizes.append(len(batch["observation"]))
        return {"q": np.tile([1.0, 0.0], (sizes[-1], 1))}

    returns, _ = agent["play"].play(left, seed=0, episodes=50)
    assert sizes[0] == 50
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 50
    assert 8 <= returns.min() <= returns.max() <= 11


def test_untrained_student_fails_the_metric(agent):
    """The metric tells a policy that balances from one that does not."""
    torch.manual_seed(0)
    returns = agent["play"].mean_return(agent["dqn"].predictor(agent["model"].student()))
    assert returns.shape == (100,)
    assert returns.mean() < 100


def test_n_steps_end_where_an_episode_ends(agent):
    """Rewards are discounted, a fall has no future, a cut has one, a restart is no transition."""
    dqn = agent["dqn"]

    def step(number, *, fallen, cut=(), restarts=()):
        flags = [np.isin(np.arange(4), list(which)) for which in (fallen, cut, restarts)]
        seen = np.full((4, 4), number, dtype=np.float32)
        return (seen, np.full(4, number), seen + 1, *flags)

    recent = [step(0, fallen=(), restarts=[3]), step(1, fallen=[1], cut=[2]), step(2, fallen=[2])]
    observation, action, reward, last, discount = dqn.n_steps(recent)
    assert observation[:, 0].tolist() == [0, 0, 0]
    assert action.tolist() == [[0], [0], [0]]
    assert reward[:, 0] == pytest.approx([0, dqn.FALL * dqn.DISCOUNT, 0])
    assert last[:, 0].tolist() == [3, 2, 2]
    assert discount[:, 0] == pytest.approx([dqn.DISCOUNT**3, 0, dqn.DISCOUNT**2])


def test_teacher_balances_the_pole(exported):
    """At least 490 of 500 points in episodes that it was neither trained nor chosen on."""
    assert exported["fp32"].task_baseline >= 490
    assert exported["fp32"].status == Status.PUBLISHED


@pytest.mark.parametrize(("name", "smaller"), [("distilled", 8), ("distilled_int8", 10)])
def test_quarter_as_wide_keeps_the_return_through_triton(exported, name, smaller):
    """Distilled, and distilled and quantized: at least 97 % of the teacher's return, 475 points."""
    variant = exported[name]
    assert variant.status in (Status.PUBLISHED, Status.DOMINATED), variant.reason
    assert variant.task_metric >= max(475, 0.97 * variant.task_baseline)
    assert 1 / variant.size_ratio >= smaller
    assert all(gate.passed for gate in variant.gates)
