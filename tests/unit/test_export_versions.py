"""Variants as models or as versions of one, and which of them is served."""

import pytest

from conch.errors import RepositoryError
from export import numbering, publish, recipe
from export.ensemble_spec import Ensemble, ImageInput
from export.steps import Artifact, Form
from serving import engines, model_config
from serving.repository import VersionFiles
from tests.unit.test_export_recipe import WHOLE
from tests.unit.toy_variants import (
    accepted,
    artifact,
    repository,
    served,
    served_now,
    two_variants,
    visible,
)

__all__ = ["artifact", "repository"]


def test_variants_are_models_by_default(tmp_path):
    """One each, the newest version served."""
    first, second = two_variants(served(), tmp_path, b"a", b"b")
    assert (first.name, second.name) == ("toy_fp32", "toy_int8")
    assert first.config.version_policy.latest.num_versions == 1


def test_variants_as_versions_share_a_model_and_serve_one(repository, tmp_path):
    """The best has the highest number; the first is served, or the one that the recipe says."""
    (found,) = two_variants(served(layout="versions"), tmp_path, b"a", b"b")
    assert (found.name, found.variants) == ("toy", ("fp32", "int8"))
    assert publish.put(repository, found) == [2, 1]
    assert served_now(repository) == [2]
    (found,) = two_variants(served(layout="versions", served="int8"), tmp_path, b"a", b"b")
    assert publish.put(repository, found) == [2, 1]
    assert served_now(repository) == [1]


def test_the_measured_quality_numbers_the_versions(repository, tmp_path):
    """Not the recipe's order; a policy is told the numbers."""
    typed = served(layout="versions")
    (found,) = two_variants(typed, tmp_path, b"a", b"b", cosines=(0.9, 0.99))
    assert publish.put(repository, found) == [1, 2]
    [line] = numbering.remarks(repository, found)
    assert line == (
        "toy: versions, best first: 2 (int8), 1 (fp32); a policy that may switch between them says "
        "versions: [2, 1]"
    )


def test_versions_of_unknown_quality_are_said(repository, tmp_path):
    """The recipe's order counts, with a line."""
    (found,) = two_variants(served(layout="versions"), tmp_path, b"a", b"b", cosines=(0.9, None))
    assert publish.put(repository, found) == [2, 1]
    assert numbering.remarks(repository, found)[0] == (
        "toy: no quality was measured of all its variants; the recipe's first counts as the best. "
        "Set gates.fidelity or gates.task for all of them"
    )


def test_an_old_repository_is_renumbered_by_republishing(repository, tmp_path):
    """Beside what is served: no version directory changes, and the same content goes on serving."""
    typed = served(layout="versions")
    (old,) = two_variants(typed, tmp_path, b"a", b"b")
    config = model_config.with_versions(old.config, [1])
    repository.publish_versions("toy", config, old.versions)  # as it was: the recipe's order
    before = visible(repository)
    (found,) = two_variants(typed, tmp_path, b"a", b"b", cosines=(1.0, 0.99))
    for _ in range(2):  # the second time nothing is new
        assert publish.put(repository, found) == [4, 3]
        assert served_now(repository) == [4]
    after = visible(repository)
    assert {path: after[path] for path in before if "config" not in path} == {
        path: content for path, content in before.items() if "config" not in path
    }
    assert after["toy/4/model.onnx"] == b"a"
    assert repository.lineage("toy", 4)["quality"]["fidelity"]["value"] == 1.0


def test_the_best_is_the_highest_of_all_after_going_back(repository, tmp_path):
    """An older content that is published again is not hidden behind what came after it."""
    typed = served(layout="versions")
    for contents, numbers in (
        ((b"a", b"b"), [2, 1]),
        ((b"c", b"d"), [4, 3]),
        ((b"a", b"b"), [5, 1]),
        ((b"a", b"b"), [5, 1]),
    ):
        (found,) = two_variants(typed, tmp_path, *contents)
        assert publish.put(repository, found) == numbers
    assert served_now(repository) == [5]


def test_a_cheaper_version_that_is_loaded_stays_loaded(repository, tmp_path):
    """Both are served under control; publishing again takes neither away."""
    typed = served(layout="versions")
    (found,) = two_variants(typed, tmp_path, b"a", b"b")
    publish.put(repository, found)
    config = model_config.with_versions(repository.read_config("toy"), [1, 2])
    repository.write_config("toy", config, reason="test")
    (found,) = two_variants(typed, tmp_path, b"a", b"new")
    assert publish.put(repository, found) == [4, 3]
    assert served_now(repository) == [3, 4]
    config = model_config.with_versions(repository.read_config("toy"), [3])
    repository.write_config("toy", config, reason="a rush")
    assert publish.put(repository, found) == [4, 3]
    assert served_now(repository) == [3]


@pytest.mark.parametrize("says", ["fp32", None], ids=["served: fp32", "as it is now"])
def test_a_run_without_the_served_variant_does_not_switch(repository, tmp_path, says):
    """`--only int8` adds its version; the best gets a higher number, and answers as before."""
    typed = served(layout="versions", served=says)
    (found,) = two_variants(typed, tmp_path, b"a", b"b", cosines=(1.0, 0.99))
    publish.put(repository, found)
    (tmp_path / "new.onnx").write_bytes(b"new")
    only = accepted(typed, 1, Artifact(form=Form.ONNX, path=tmp_path / "new.onnx"), 0.995)
    (found,) = publish.variants(typed, tmp_path, [only])
    for _ in range(2):
        assert publish.put(repository, found) == [3]
        assert served_now(repository) == [4]
    assert (repository.root / "toy" / "4" / "model.onnx").read_bytes() == b"a"
    assert repository.lineage("toy", 4) == repository.lineage("toy", 2)
    # The variant that somebody chose by hand is followed, and answers where the recipe is silent.
    config = model_config.with_versions(repository.read_config("toy"), [3])
    repository.write_config("toy", config, reason="test")
    (found,) = two_variants(typed, tmp_path, b"a", b"newer", cosines=(1.0, 0.99))
    assert publish.put(repository, found) == [6, 5]
    assert served_now(repository) == ([5, 6] if says else [5])


def test_a_variant_that_was_not_measured_the_same_way_keeps_its_number(repository, tmp_path):
    """Of an old repository, whose lineages tell no quality, and a run of one variant."""
    typed = served(layout="versions")
    (old,) = two_variants(typed, tmp_path, b"a", b"b")
    publish.put(repository, old)
    (tmp_path / "new.onnx").write_bytes(b"new")
    only = accepted(typed, 1, Artifact(form=Form.ONNX, path=tmp_path / "new.onnx"), 0.99)
    (found,) = publish.variants(typed, tmp_path, [only])
    assert publish.put(repository, found) == [3]
    assert (repository.versions("toy"), served_now(repository)) == ([1, 2, 3], [2])
    [line] = numbering.remarks(repository, found)
    assert line == (
        "toy: version 2 (fp32) keeps its number, as it was not measured by fidelity cosine; run "
        "the export of all variants"
    )


def test_variants_of_the_same_content_are_versions_of_their_own(repository, tmp_path):
    """Publishing again adds none."""
    (found,) = two_variants(served(layout="versions"), tmp_path, b"a", b"a")
    for _ in range(2):
        assert publish.put(repository, found) == [2, 1]


def test_a_served_variant_that_missed_its_gates_at_first_is_replaced(repository, tmp_path):
    """Something has to answer; there is nothing in force to keep."""
    typed = served(layout="versions", served="fp32")
    (tmp_path / "model.onnx").write_bytes(b"b")
    only = accepted(typed, 1, Artifact(form=Form.ONNX, path=tmp_path / "model.onnx"))
    (found,) = publish.variants(typed, tmp_path, [only])
    assert publish.put(repository, found) == [1]
    assert served_now(repository) == [1]


def test_an_ensemble_of_a_variant_that_is_not_served_is_refused(repository, tmp_path):
    """It would ask the other one, without a word."""
    (found,) = two_variants(served(layout="versions", served="int8"), tmp_path, b"a", b"b")
    publish.put(repository, found)
    image = Ensemble(name="look", model=("fp32",), image=ImageInput())
    config = model_config.parse('name: "look" platform: "ensemble"')
    nothing = VersionFiles(files={}, lineage={})
    pipeline = publish.Publication(
        name="look", config=config, versions=(nothing,), ensemble=image, needs=("toy",)
    )
    with pytest.raises(RepositoryError, match=r"variant fp32, but toy serves int8 \(version 1\)"):
        publish.put(repository, pipeline)
    assert repository.models() == ["toy"]
    (found,) = two_variants(served(layout="versions", served="fp32"), tmp_path, b"a", b"b")
    publish.put(repository, found)
    assert publish.put(repository, pipeline) == [1]


def test_a_version_without_an_engine_does_not_replace_one_that_has_it(repository, tmp_path):
    """A server that starts before `build-engines` ran goes on serving the model."""
    config = publish.triton_config(recipe.loads(WHOLE), "toy_trt", target=Form.TENSORRT)

    def put(content):
        (tmp_path / "model.onnx").write_bytes(content)
        files = {"model.onnx": tmp_path / "model.onnx"}
        one = publish.Publication(
            name="toy_trt", config=config, versions=(VersionFiles(files=files, lineage={}),)
        )
        (number,) = publish.put(repository, one)
        return number, numbering.served_now(repository, "toy_trt")

    backends = tmp_path / "backends"
    (backends / "tensorrt").mkdir(parents=True)
    assert put(b"first") == (1, [1])
    assert "engine is not built" in engines.left_out(repository, backends)["toy_trt"]
    assert put(b"second") == (2, [2])
    (repository.root / "toy_trt" / "2" / "model.plan").write_bytes(b"engine")
    assert put(b"second") == (2, [2])
    assert put(b"third") == (3, [2])
    assert put(b"third") == (3, [2])
    assert engines.left_out(repository, backends) == {}
    assert engines.unbuilt(repository, repository.read_config("toy_trt")) == []
    (repository.root / "toy_trt" / "3" / "model.plan").write_bytes(b"engine")
    assert put(b"third") == (3, [3])


def test_an_unchanged_variant_keeps_its_version_unless_the_order_forbids_it(repository, tmp_path):
    """Only what is new gets a number, and what must stay above it; the old files stay."""
    typed = served(layout="versions", served="int8")
    (found,) = two_variants(typed, tmp_path, b"a", b"b")
    publish.put(repository, found)
    (found,) = two_variants(typed, tmp_path, b"new", b"b")
    assert publish.put(repository, found) == [3, 1]
    (found,) = two_variants(typed, tmp_path, b"new", b"newer")
    assert publish.put(repository, found) == [5, 4]
    assert repository.versions("toy") == [1, 2, 3, 4, 5]
    assert served_now(repository) == [4]


def test_an_engine_that_was_built_in_place_makes_no_new_version(repository, artifact):
    """`conch export build-engines` adds it to what was published."""
    config = publish.triton_config(recipe.loads(WHOLE), "toy_trt", target=Form.TENSORRT)
    assert (config.backend, config.default_model_filename) == ("tensorrt", "model.plan")
    files = publish.version_files(artifact)
    assert repository.publish("toy_trt", config, files, {}) == 1
    for name in ("model.plan", "plan.json"):
        (repository.root / "toy_trt" / "1" / name).write_text("built here")
    assert repository.publish("toy_trt", config, files, {}) == 1
    (repository.root / "toy_trt" / "1" / "stray").write_text("not ours")
    assert repository.publish("toy_trt", config, files, {}) == 2
