"""The pages about recipes say what the code does."""

import re
from pathlib import Path

from export import recipe, reference

ROOT = Path(__file__).parents[2]


def test_recipe_reference_is_what_the_schema_says():
    """Run `python -m export.reference > docs/reference/recipe.md` after changing a description."""
    assert (ROOT / "docs/reference/recipe.md").read_text(encoding="utf-8") == reference.markdown()


def test_every_key_of_a_recipe_is_described():
    """A key without a description would be an empty cell."""
    assert not re.search(r"\| +\|$", reference.markdown(), flags=re.MULTILINE)


def test_recipe_of_the_how_to_is_valid():
    """What people copy must work."""
    page = (ROOT / "docs/how-to/export-your-model.md").read_text(encoding="utf-8")
    text = re.search(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    assert text is not None
    assert recipe.loads(text[1]).model.name == "mymodel"
