"""Functions that a recipe names: found beside it, or refused with a reason."""

import pytest

from conch.errors import ConfigError
from export.source import Source


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
