"""YAML as plain values and as nodes with lines; whatever is wrong with a text is one error.

PyYAML lets ValueError, KeyError, AttributeError and RecursionError of its own out, takes the last
of two equal keys without a word, and spends minutes on a few bytes of nested aliases.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError
from yaml.reader import ReaderError

from conch.errors import ConfigError

MAX_BYTES = 2**20
"""A policy of a thousand models is a tenth of it."""
MAX_NODES = 100_000
"""Keys and values with every alias written out; a merge costs time for each of them."""
MAX_DEPTH = 50
"""Python's recursion ends at about 300; no file here is deeper than 10."""
_NOWHERE = re.compile("[\x00\ud800-\udfff]")
"""Escapes can write them; neither a file system nor UTF-8 takes them."""
_LONGEST = 60
"""Characters of a value that a message quotes."""


def read(path: Path) -> str:
    """The text of the file.

    Raises:
        ConfigError: when it cannot be read, is too large, or is not UTF-8.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise ConfigError(
            f"{path}: cannot be read ({error}).", hint="Check the path and its permissions."
        ) from error
    if len(content) > MAX_BYTES:
        raise ConfigError(
            f"{path}: larger than {MAX_BYTES // 2**20} MiB, which no file of this kind is.",
            hint="Check the path.",
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{path}:{line}: not UTF-8 (byte 0x{content[error.start]:02x}).",
            hint="Save the file as UTF-8.",
        ) from None


def parse(text: str, *, source: str) -> tuple[yaml.Node | None, Any]:
    """The text as nodes, which know their lines, and as values.

    Args:
        text: YAML.
        source: how messages name it.

    Raises:
        ConfigError: as ``source:line: what is wrong``.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        return node, None if node is None else loader.construct_document(node)
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _refused(f"{source}:{line}", f"the character {error.character!r}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _refused(
            f"{source}:{mark.line + 1}" if mark else source, error.problem or str(error)
        ) from None
    except Exception as error:  # whatever else PyYAML lets out
        raise _refused(source, f"{type(error).__name__}: {error}") from error


def short(value: object) -> str:
    """A value as a message quotes it."""
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _refused(where: str, problem: str) -> ConfigError:
    """The error; the hint fits the most usual mistake."""
    hint = "Indent with spaces; YAML takes no tabs." if r"'\t'" in problem else "Mend the syntax."
    return ConfigError(f"{where}: not valid YAML ({problem}).", hint=hint)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with bounds, without equal keys, and with a line for each error."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._nodes = 0
        self._depth = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """A node; an alias counts as much as what it names."""
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        is_alias = self.check_event(yaml.AliasEvent)
        before = self._nodes
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ComposerError(problem=f"nested more than {MAX_DEPTH} deep", problem_mark=mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if not is_alias:
            self._nodes += 1
            self._sizes[id(node)] = self._nodes - before
        elif id(node) in self._sizes:
            self._nodes += self._sizes[id(node)]
        else:
            raise ComposerError(problem="an alias within what it names", problem_mark=mark)
        if self._nodes > MAX_NODES:
            raise ComposerError(
                problem=f"more than {MAX_NODES:,} keys and values, aliases written out",
                problem_mark=mark,
            )
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A mapping, in which no key is written twice."""
        node = super().compose_mapping_node(anchor)
        first: dict[tuple[str, str], yaml.Node] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            other = first.setdefault((key.tag, key.value), key)
            if other is not key:
                raise ComposerError(
                    problem=f"{short(key.value)} is written twice, "
                    f"first in line {other.start_mark.line + 1}",
                    problem_mark=key.start_mark,
                )
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """A node's value; an error of any kind names the node's line."""
        try:
            value = super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except Exception:
            kind = node.tag.rpartition(":")[2]
            raise ConstructorError(
                problem=f"{short(node.value)} cannot be read as {kind}",
                problem_mark=node.start_mark,
            ) from None
        if isinstance(value, str) and _NOWHERE.search(value):
            raise ConstructorError(
                problem=f"{short(value)} holds a character that no name or path can",
                problem_mark=node.start_mark,
            )
        if isinstance(value, int) and abs(value) >= 2**63:
            raise ConstructorError(
                problem=f"{short(node.value)} is larger than any number here",
                problem_mark=node.start_mark,
            )
        return value
