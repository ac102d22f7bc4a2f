"""``docs/reference/recipe.md``, made from the recipe's own schema so that it cannot drift.

Write it anew with ``python -m export.reference > docs/reference/recipe.md``; a test compares.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from export.recipe import Recipe

HEAD = """# Recipe reference

<!-- Made by `python -m export.reference > docs/reference/recipe.md`; edit the descriptions in
`export/recipe.py` and `export/steps/`, not this page. -->

A recipe is a YAML file that says which model to shrink, how, and when to refuse the result.
`conch export plan RECIPE` checks it and says what it would do; `conch export run RECIPE` does it.
How to write one: [Export your model](../how-to/export-your-model.md).
Unknown keys are errors. A key without a default is required.
"""


def markdown() -> str:
    """The whole page."""
    schema = Recipe.model_json_schema()
    sections = {"recipe": schema, **schema["$defs"]}
    order = list(dict.fromkeys(_reachable(schema, sections)))
    parts = [HEAD, _section("recipe", schema)]
    parts += [_section(name, sections[name]) for name in order]
    return "\n".join(parts)


def _reachable(schema: Mapping[str, Any], sections: Mapping[str, Any]) -> Iterator[str]:
    """Names of the sections below this one, in the order in which a reader meets them."""
    for field in schema.get("properties", {}).values():
        for name in _references(field):
            yield name
            yield from _reachable(sections[name], sections)


def _references(field: Mapping[str, Any]) -> list[str]:
    """Sections that a field's type names."""
    found = []
    if "$ref" in field:
        found.append(field["$ref"].rpartition("/")[2])
    for key in ("anyOf", "oneOf"):
        found += [name for option in field.get(key, ()) for name in _references(option)]
    for key in ("items", "additionalProperties"):
        if isinstance(field.get(key), dict):
            found += _references(field[key])
    return found


def _section(name: str, schema: Mapping[str, Any]) -> str:
    """One section: its sentence and a table of its keys."""
    lines = [f"## {name}", "", _sentence(schema), ""]
    lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
    required = schema.get("required", ())
    for key, field in schema["properties"].items():
        default = "" if key in required else f"`{_default(field)}`"
        meaning = field.get("description", "").replace("|", "\\|")
        lines.append(f"| `{key}` | {_type(field)} | {default} | {meaning} |")
    return "\n".join(lines) + "\n"


def _sentence(schema: Mapping[str, Any]) -> str:
    """The first paragraph of the class's docstring, on one line."""
    return " ".join(schema.get("description", "").split("\n\n")[0].split())


def _default(field: Mapping[str, Any]) -> str:
    """The default as YAML would have it; sections are spelled out in their own table."""
    if "default" not in field:
        return "{}" if field.get("type") == "object" else "see there"
    return json.dumps(field["default"])


def _type(field: Mapping[str, Any]) -> str:
    """A type in a reader's words."""
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for key in ("anyOf", "oneOf"):
        if key in field:
            return " or ".join(_type(option) for option in field[key])
    if "const" in field:
        return f"`{json.dumps(field['const'])}`"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if field.get("type") == "array":
        return f"list of {_type(field['items'])}" if "items" in field else "list"
    if field.get("type") == "object":
        return f"mapping of name to {_type(field['additionalProperties'])}"
    return _plain(field)


def _plain(field: Mapping[str, Any]) -> str:
    """A number, a text or a flag with its bounds."""
    words = {"integer": "whole number", "number": "number", "string": "text", "boolean": "flag"}
    bounds = [
        f"{sign} {field[key]:g}"
        for key, sign in (
            ("minimum", "≥"), ("exclusiveMinimum", ">"),
            ("maximum", "≤"), ("exclusiveMaximum", "<"),
        )
        if key in field
    ]  # fmt: skip
    return " ".join([words.get(field.get("type", ""), field.get("type", "any")), *bounds])


if __name__ == "__main__":
    sys.stdout.write(markdown())
