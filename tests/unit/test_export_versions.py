"""Variants as models or as versions of one, and which of them is served."""

import pytest

from conch.errors import RepositoryError
from export import publish, recipe
from export.ensemble_spec import Ensemble, ImageInput
from export.steps import Artifact, Form
from serving import engines, model_config
from serving.repository import VersionFiles
from tests.unit.test_export_recipe import WHOLE
from tests.unit.toy_variants import accepted, artifact, repository, served, served_now, two_variants

__all__ = ["artifact", "repository"]


def test_variants_are_models_by_default(tmp_path):
    """One each, the newest version served."""
    first, second = two_variants(served(), tmp_path, b"a", b"b")
    assert (first.name, second.name) == ("toy_fp32", "toy_int8")
    assert first.config.version_policy.latest.num_versions == 1


def test_variants_as_versions_share_a_model_and_serve_one(repository, tmp_path):
    """Numbered in the recipe's order; the first is served, or the one that the recipe says."""
    (found,) = two_variants(served(layout="versions"), tmp_path, b"a", b"b")
    assert (found.name, found.variants) == ("toy", ("fp32", "int8"))
    assert publish.put(repository, found) == [1, 2]
    assert served_now(repository) == [1]
    (found,) = two_variants(served(layout="versions", served="int8"), tmp_path, b"a", b"b")
    assert publish.put(repository, found) == [1, 2]
    assert served_now(repository) == [2]


@pytest.mark.parametrize("says", ["fp32", None], ids=["served: fp32", "as it is now"])
def test_a_run_without_the_served_variant_does_not_switch(repository, tmp_path, says):
    """`--only int8` adds its version; who asks the model notices nothing."""
    typed = served(layout="versions", served=says)
    (found,) = two_variants(typed, tmp_path, b"a", b"b")
    publish.put(repository, found)
    (tmp_path / "new.onnx").write_bytes(b"new")
    only = accepted(typed, 1, Artifact(form=Form.ONNX, path=tmp_path / "new.onnx"))
    (found,) = publish.variants(typed, tmp_path, [only])
    assert publish.put(repository, found) == [3]
    assert served_now(repository) == [1]
    # The variant that somebody chose by hand is followed, where the recipe does not say.
    config = model_config.with_versions(repository.read_config("toy"), [3])
    repository.write_config("toy", config, reason="test")
    (found,) = two_variants(typed, tmp_path, b"a", b"newer")
    assert publish.put(repository, found) == [1, 4]
    assert served_now(repository) == [1 if says else 4]


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
    with pytest.raises(RepositoryError, match=r"variant fp32, but toy serves int8 \(version 2\)"):
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
        return number, publish.served_now(repository, "toy_trt")

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


def test_an_unchanged_variant_keeps_its_version(repository, tmp_path):
    """Only what is new gets a number; the old files stay for who rolls back."""
    typed = served(layout="versions", served="int8")
    (found,) = two_variants(typed, tmp_path, b"a", b"b")
    publish.put(repository, found)
    (found,) = two_variants(typed, tmp_path, b"a", b"new")
    assert publish.put(repository, found) == [1, 3]
    assert repository.versions("toy") == [1, 2, 3]
    assert served_now(repository) == [3]


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
