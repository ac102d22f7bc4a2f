"""The two examples, whole: real weights, real data, the figures that the README promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from export import pipeline
from serving.repository import Repository

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def minilm(tmp_path_factory):
    """One run of the MiniLM recipe: (repository, report)."""
    folder = tmp_path_factory.mktemp("minilm")
    report = pipeline.run(
        EXAMPLES / "minilm" / "recipe.yaml", repository=folder / "repository", work_dir=folder
    )
    return Repository(folder / "repository"), {v.name: v for v in report.variants}


@pytest.fixture(scope="module")
def mnist(tmp_path_factory):
    """One run of the MNIST recipe on 5,000 images, without the variants that train for minutes."""
    folder = tmp_path_factory.mktemp("mnist")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONCH_MNIST", "small")
        report = pipeline.run(
            EXAMPLES / "mnist" / "recipe.yaml",
            repository=folder / "repository",
            work_dir=folder,
            only=("fp32", "int8"),
        )
    return Repository(folder / "repository"), {v.name: v for v in report.variants}


def test_minilm_dynamic_int8_is_small_fast_and_true(minilm):
    """At least 3.5 times smaller, 1.7 times faster at batch 8 (paired), cosine 0.98."""
    _, variants = minilm
    int8 = variants["int8"]
    assert int8.accepted, int8.reason
    assert 1 / int8.size_ratio >= 3.5
    assert 1 / int8.latency_ratio[8] >= 1.7
    assert int8.agreement.cosine >= 0.98
    assert int8.agreement.sample_count == 50


def test_minilm_original_ranks_documents_as_people_do(minilm):
    """Spearman's correlation with the Lee judgements; 0.50 is what this model reaches."""
    _, variants = minilm
    assert variants["fp32"].task_baseline == pytest.approx(0.5045, abs=0.005)


def test_minilm_naive_static_int8_is_refused_although_its_task_metric_rises(minilm):
    """The reason for a fidelity gate beside the task gate."""
    repository, variants = minilm
    static = variants["int8_static"]
    assert not static.accepted
    assert static.reason.startswith("fidelity.cosine = 0.8")
    assert static.task_metric > static.task_baseline
    assert repository.models() == ["minilm_fp32", "minilm_int8"]


def test_mnist_static_int8_reads_digits_as_well_as_the_original(mnist):
    """A convolutional net is where static quantization belongs."""
    repository, variants = mnist
    int8 = variants["int8"]
    assert int8.accepted, int8.reason
    assert int8.task_baseline > 0.96
    assert int8.agreement.top1_agreement >= 0.99
    assert 1 / int8.size_ratio > 3
    assert repository.models() == ["mnist_fp32", "mnist_int8"]
