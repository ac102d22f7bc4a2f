"""Rich's tables and bars with text that is printed as it is: no markup, no control characters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import Task, TextColumn
from rich.table import Table
from rich.text import Text

from conch.terminal import clean

R = TypeVar("R")


def literal_console(**options: Any) -> Console:
    """A console that reads no markup and no ``:names:``; a style comes as ``Text``."""
    return Console(highlight=False, markup=False, emoji=False, **options)


def clean_table(table: Table) -> Table:
    """The table, its title, headers and cells cleaned in place."""
    table.title, table.caption = _cell(table.title), _cell(table.caption)
    table.columns = [
        replace(
            column,
            header=_cell(column.header),
            footer=_cell(column.footer),
            _cells=[_cell(cell) for cell in column.cells],
        )
        for column in table.columns
    ]
    return table


def _cell(cell: R) -> R:
    """The cell, cleaned when it is text; a ``Text`` that needs it loses its styles."""
    if isinstance(cell, str):
        return clean(cell)  # type: ignore[return-value]
    if isinstance(cell, Text) and clean(cell.plain) != cell.plain:
        return Text(clean(cell.plain))  # type: ignore[return-value]
    return cell


class LiteralColumn(TextColumn):
    """Text beside a bar."""

    def render(self, task: Task) -> Text:
        """The text, cleaned, never read as markup."""
        return Text(clean(self.text_format.format(task=task)), style=self.style)
