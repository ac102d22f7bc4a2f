"""What a recipe names: found beside it or in a package, or refused with a reason."""

import pytest

from conch import config_file
from conch.errors import ConfigError
from export import recipe as recipes
from export.source import Source
from export.source_files import located, source_files
from export.source_spec import SourceFields
from export.steps import Form
from tests.integration import toy_recipe


@pytest.fixture
def folder(tmp_path):
    """A recipe's folder with a few files."""
    (tmp_path / "model.py").write_text(
        "from .data import SIZE\nNOT_CALLABLE = 1\ndef load():\n    return SIZE\n"
    )
    (tmp_path / "data.py").write_text("SIZE = 7\n")
    (tmp_path / "broken.py").write_text("raise RuntimeError('at import')\n")
    (tmp_path / "flat.py").write_text("import data\n")
    (tmp_path / "needy.py").write_text("import surely_not_installed\n")
    return tmp_path


def test_function_beside_the_recipe_is_found_with_its_siblings(folder):
    """Files beside a recipe import each other relatively."""
    assert Source(folder).function("model.py:load", key="k")() == 7


def test_two_recipes_may_each_have_a_model_file(folder, tmp_path_factory):
    """Their modules must not be mixed up."""
    other = tmp_path_factory.mktemp("other")
    (other / "model.py").write_text("def load():\n    return 'other'\n")
    first, second = Source(folder), Source(other)
    assert second.function("model.py:load", key="k")() == "other"
    assert first.function("model.py:load", key="k")() == 7


def test_edited_file_is_read_again_by_the_next_run(folder):
    """A long-lived process must not run yesterday's code."""
    assert Source(folder).function("model.py:load", key="k")() == 7
    (folder / "data.py").write_text("SIZE = 88\n")
    assert Source(folder).function("model.py:load", key="k")() == 88


def test_function_of_an_installed_module_is_found(folder):
    """PACKAGE.MODULE:FUNCTION."""
    assert Source(folder).function("os.path:basename", key="k")("a/b") == "b"


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("nowhere.py:load", "is not there"),
        ("../model.py:load", "is not there"),
        ("model.py:lode", "has no function lode; it has load"),
        ("model.py:NOT_CALLABLE", "has no function NOT_CALLABLE"),
        ("broken.py:load", "raised RuntimeError: at import"),
        ("flat.py:load", "from .data import"),
        ("needy.py:load", "surely_not_installed"),
        ("no.such.package:load", "needs the module no"),
    ],
)
def test_reference_that_leads_nowhere_is_refused_with_the_reason(folder, reference, says):
    """The recipe's key goes first, so that one knows where to look."""
    with pytest.raises(ConfigError) as caught:
        Source(folder).function(reference, key="model.factory")
    assert says in str(caught.value)
    assert caught.value.message.startswith("model.factory: ")


def spec(text):
    """The source section of a recipe."""
    return config_file.loads(text, SourceFields, source="recipe.yaml")


@pytest.mark.parametrize(
    ("text", "kind", "form"),
    [
        ("factory: model.py:load", "factory", Form.TORCH),
        ("program: net.pt2", "program", Form.TORCH),
        ("onnx: package:magika/models/model.onnx", "onnx", Form.ONNX),
        ("huggingface: {folder: encoder, class: AutoModel}", "huggingface", Form.TORCH),
    ],
)
def test_each_kind_of_source_says_where_its_chain_starts(text, kind, form):
    """An ONNX file needs no export."""
    found = spec(text)
    assert (found.kind, found.form) == (kind, form)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("files: [a]", "names no source, must name exactly one of factory, program, onnx, hugg"),
        ("factory: m.py:f\nonnx: a.onnx", "names factory and onnx, must name exactly one"),
        ("onnx: a.pb", "must end in .onnx"),
        ("program: a.pt", "must end in .pt2"),
        ("onnx: package:a.b/c.onnx", "must be package:NAME/path/inside"),
        ("onnx: package:a/../c.onnx", "must be package:NAME/path/inside"),
        ("huggingface: {folder: x, clas: AutoModel}", "did you mean 'class'?"),
        ("huggingface: {folder: x, class: BertModel}", "huggingface.class"),
        ("huggingface: {folder: x, pooling: max}", "huggingface.pooling = 'max'"),
    ],
)
def test_source_that_is_not_clear_is_refused(text, says):
    """Before anything is read."""
    with pytest.raises(ConfigError) as caught:
        spec(text)
    assert says in caught.value.message


def test_paths_are_relative_to_the_recipe_or_inside_a_package(folder):
    """The package is found, not imported."""
    assert located("data.py", folder, key="k") == folder / "data.py"
    assert located(str(folder / "data.py"), folder.parent, key="k") == folder / "data.py"
    assert located("package:email/mime/text.py", folder, key="k").name == "text.py"


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("gone.onnx", "gone.onnx is not there"),
        ("package:email/gone", "gone is not there"),
        ("package:surely_not_installed/a", "the package surely_not_installed is not installed"),
        ("data.py/inside", "inside is not there"),
        ("x" * 5000, "cannot be looked at (File name too long)"),
        ("~surely_nobody/x", "cannot be looked at"),
        ("loop", "cannot be looked at"),
    ],
)
def test_path_that_leads_nowhere_is_refused(folder, reference, says):
    """The recipe's key goes first."""
    (folder / "loop").symlink_to("loop")
    with pytest.raises(ConfigError) as caught:
        located(reference, folder, key="model.onnx")
    assert len(caught.value.message) < 500
    assert caught.value.message.startswith("model.onnx: ")
    assert says in caught.value.message


def test_a_file_where_a_folder_should_be_is_refused(tmp_path):
    """It is there, and cannot be listed."""
    path = toy_recipe.write(
        tmp_path, model={"factory": None, "huggingface": {"folder": "model.py"}}
    )
    with pytest.raises(ConfigError, match=r"recipe\.yaml: a file or folder that it names"):
        source_files(path, recipes.load(path))
