"""Built variants of a recipe, a repository for them, and what is visible and served there."""

import pytest
import yaml

from export import publish, recipe
from export.steps import Artifact, Form
from serving import engines
from serving.repository import Repository
from tests.unit.test_export_recipe import WHOLE


@pytest.fixture
def artifact(tmp_path):
    """A built file."""
    path = tmp_path / "built" / "model.onnx"
    path.parent.mkdir()
    path.write_bytes(b"weights" * 100)
    return Artifact(form=Form.ONNX, path=path, facts={"opset": {"ai.onnx": 20}})


@pytest.fixture
def repository(tmp_path):
    """An empty repository."""
    (tmp_path / "repository").mkdir()
    return Repository(tmp_path / "repository")


def served(**serving):
    """The whole recipe with these keys in its serving section."""
    data = yaml.safe_load(WHOLE)
    data["serving"] |= serving
    return recipe.loads(yaml.safe_dump(data))


def accepted(typed, index, artifact, cosine=None):
    """A variant of the recipe that passed its gates, at this cosine if it was measured."""
    variant = typed.variants[index]
    lineage = {"variant": variant.name}
    if cosine is not None:
        fidelity = {"metric": "cosine", "output": None, "value": cosine}
        lineage["quality"] = {"task": None, "fidelity": fidelity}
    return publish.Accepted(variant=variant, artifact=artifact, lineage=lineage)


def two_variants(typed, folder, *contents, cosines=(None, None)):
    """Publications of fp32 and int8 with these contents."""
    found = []
    for index, content in enumerate(contents):
        path = folder / f"built{index}" / "model.onnx"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        artifact = Artifact(form=Form.ONNX, path=path)
        found.append(accepted(typed, index, artifact, cosines[index]))
    return publish.variants(typed, folder, found)


def served_now(repository):
    """The versions of ``toy`` that Triton serves."""
    return engines.served_versions(repository.read_config("toy"), repository.versions("toy"))


def visible(repository):
    """What Triton can see: every file outside the state folder, with its content."""
    return {
        str(path.relative_to(repository.root)): path.read_bytes()
        for path in repository.root.rglob("*")
        if path.is_file() and path.relative_to(repository.root).parts[0] != ".conch"
    }
