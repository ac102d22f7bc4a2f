"""Each constant of the core has its row on the page, and an outcome that changes with it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import control.core
from control.core.service.curves import ServiceTime
from tests.unit.constants import (  # noqa: F401  # each enters its cases
    budget,
    decision,
    judgement,
    load,
    memory,
    need,
    service,
)
from tests.unit.constants.case import CASES, forget, module_of

CORE = Path(control.core.__file__).parent
PAGE = CORE.parents[1] / "docs/explanation/constants.md"
ROWS = {
    cells[0].strip("`"): cells
    for line in PAGE.read_text(encoding="utf-8").splitlines()
    if line.startswith("| `")
    for cells in [[cell.strip() for cell in line.strip("|").split("|")]]
}
CELLS = 9
"""Of a row with an outcome: name, value, unit, reason, source, and what the outcome is."""
OF_OTHERS = "rules"
"""The rules of others have the constants of others."""


def _is_number(value: Any) -> bool:
    """Whether it is a number, or made of numbers."""
    if isinstance(value, tuple):
        return bool(value) and all(_is_number(part) for part in value)
    return isinstance(value, int | float | ServiceTime) and not isinstance(value, bool)


def _names(tree: ast.Module) -> Iterator[str]:
    """What a module gives a name in capitals at its top."""
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
        for target in targets:
            for name in target.elts if isinstance(target, ast.Tuple) else [target]:
                if isinstance(name, ast.Name) and name.id.isupper():
                    yield name.id


def _constants() -> dict[str, Any]:
    """Every numeric constant of the core by "room.module.NAME"."""
    found = {}
    for path in sorted(CORE.rglob("*.py")):
        parts = path.relative_to(CORE).with_suffix("").parts
        if parts[0] == OF_OTHERS:
            continue
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        for name in _names(ast.parse(path.read_text(encoding="utf-8"))):
            full = ".".join((*parts, name))
            value = getattr(module_of(full), name)
            if _is_number(value):
                found[full] = value
    return found


CONSTANTS = _constants()


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    """No answer of another value is kept, before or after."""
    forget()
    yield
    forget()


@pytest.mark.parametrize("name", CASES)
def test_an_outcome_changes_with_each_constant(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Doubled and halved, one of them at least; and the page tells what it becomes."""
    case = CASES[name]
    told = [case.told()]
    for factor in (2.0, 0.5):
        with monkeypatch.context() as patch:
            patch.setattr(case.module, case.attribute, case.times(factor))
            forget()
            told.append(case.told())
    assert len(set(told)) > 1
    assert ROWS[name][-4:] == [case.says, *told]


def test_every_constant_is_on_the_page() -> None:
    """A new one needs a row: with an outcome, or among those that are said to have none."""
    assert set(ROWS) == set(CONSTANTS), "add a row, and an outcome in tests/unit/constants"
    assert {name for name, cells in ROWS.items() if len(cells) == CELLS} == set(CASES)
    assert set(CASES) | _listed("Technical") | _listed("No outcome found") == set(CONSTANTS)


@pytest.mark.parametrize("name", ROWS)
def test_a_row_has_the_code_s_value_a_unit_and_a_reason(name: str) -> None:
    """And a source, where the constant decides something."""
    value, unit, reason = ROWS[name][1:4]
    assert _flat(ast.literal_eval(value)) == pytest.approx(_flat(CONSTANTS[name]), rel=1e-3)
    assert unit
    assert reason
    if name in CASES:
        assert ROWS[name][4] in ("law", "measurement", "taste")


def _flat(value: Any) -> list[float]:
    """The numbers that it is made of."""
    if isinstance(value, ServiceTime):
        return [value.alpha_s, value.beta_s]
    if isinstance(value, tuple):
        return [number for part in value for number in _flat(part)]
    return [float(value)]


def _listed(heading: str) -> set[str]:
    """The constants below that heading."""
    section = PAGE.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2]
    lines = section.partition("\n## ")[0].splitlines()
    return {line.split("|")[1].strip(" `") for line in lines if line.startswith("| `")}
