"""YAML files of the user as typed values: every error at once, with its line and a suggestion."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from conch import yaml_reader
from conch.errors import ConfigError

M = TypeVar("M", bound="FileModel")

MOST_FAULTS = 20
"""Faults that are told at once; more are no help."""
LONGEST_FAULT = 400
"""Characters of a fault: validators quote the value, which may be a page."""
LARGEST = 2**31 - 1


class FileModel(BaseModel):
    """A section of a config file: immutable; unknown keys, NaN and infinity are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    wide: ClassVar[frozenset[str]] = frozenset()
    """Fields that count bytes, and so may be beyond 32 bits."""

    @model_validator(mode="after")
    def _numbers_fit(self) -> Self:
        """Whole numbers end up in Triton's config, whose fields have 32 bits."""
        for name in type(self).model_fields.keys() - self.wide:
            value = getattr(self, name)
            inner = value.values() if isinstance(value, dict) else value
            for number in inner if isinstance(value, dict | list | tuple) else (value,):
                if isinstance(number, int) and abs(number) > LARGEST:
                    raise ValueError(f"{name}: {number}, must be at most {LARGEST}")
        return self


def load(path: Path, model: type[M]) -> M:
    """The file's content as ``model``.

    Raises:
        ConfigError: when the file is missing, is no YAML, or does not fit the model; the message
            lists every fault as ``file:line: key: what is wrong``.
    """
    return loads(yaml_reader.read(path), model, source=str(path))


def loads(text: str, model: type[M], *, source: str) -> M:
    """The same as ``load`` for text in hand; ``source`` is how messages name it."""
    node, data = yaml_reader.parse(text, source=source)
    if not isinstance(data, dict):
        raise ConfigError(
            f"{source}: {'empty' if data is None else type(data).__name__}, "
            "must be a mapping of keys to values.",
            hint="See the example beside the documentation.",
        )
    try:
        return model.model_validate(data)
    except ValidationError as error:
        found = error.errors()
        faults = [_fault(fault, node, model, source) for fault in found[:MOST_FAULTS]]
        if len(found) > MOST_FAULTS:
            faults.append(f"{source}: ... and {len(found) - MOST_FAULTS} more.")
        raise ConfigError("\n".join(faults), hint="Nothing was started.") from None
    except ConfigError as error:  # of a validator, which knows no file
        raise ConfigError(f"{source}: {error.message}", hint=error.hint) from None


def _fault(fault: Any, node: Any, model: type[BaseModel], source: str) -> str:
    """One fault as a line of text."""
    loc = tuple(part for part in fault["loc"])
    number = _line_of(node, loc)
    key = ".".join(str(part) for part in loc)
    where = f"{source}:{number}" if number else source
    if fault["type"] == "extra_forbidden":
        known = _fields_at(model, loc[:-1])
        close = difflib.get_close_matches(str(loc[-1]), known, n=1)
        hint = (
            f"did you mean '{close[0]}'?" if close else f"known keys: {', '.join(sorted(known))}."
        )
        return f"{where}: {key}: unknown key; {hint}"
    if fault["type"] == "missing":
        return f"{where}: {key}: required, but missing."
    if fault["type"] == "union_tag_not_found":  # ctx quotes the key that tells the kinds apart
        return f"{where}: {key}: the key {fault['ctx']['discriminator']} is required, but missing."
    seen = fault.get("input")
    message = str(fault["msg"]).removeprefix("Value error, ")
    # A whole section as the value would bury the message, which names the keys it means.
    if not isinstance(seen, dict | list):
        key = f"{key} = {yaml_reader.short(seen)}"
    line = ": ".join(part for part in (where, key, message) if part)
    return f"{line if len(line) <= LONGEST_FAULT else line[:LONGEST_FAULT] + '...'}."


def _line_of(node: Any, loc: tuple[Any, ...]) -> int | None:
    """The 1-based line of the deepest part of ``loc`` that the YAML node has."""
    line = None
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            for key, value in reversed(node.value):  # what was merged in comes first
                if key.value == str(part):
                    line, node = key.start_mark.line + 1, value
                    break
            else:  # a union's tag in loc, or the missing key itself: stay where we are
                continue
        elif (
            isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value)
        ):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line


def _fields_at(model: type[BaseModel], loc: tuple[Any, ...]) -> list[str]:
    """Names of the fields that are known at ``loc`` below ``model``."""
    candidates: list[type[BaseModel]] = [model]
    for part in loc:
        below = [
            found
            for candidate in candidates
            if part in candidate.model_fields
            for found in _models_in(candidate.model_fields[part].annotation)
        ]
        if below:
            candidates = below
        elif isinstance(part, str):  # a discriminated union puts the tag into loc
            tagged = [c for c in candidates if part in _tags(c)]
            candidates = tagged or candidates
    return sorted(
        {
            field.alias or name
            for candidate in candidates
            for name, field in candidate.model_fields.items()
        }
    )


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """Every model class inside a type annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for arg in get_args(annotation) for found in _models_in(arg)]


def _tags(model: type[BaseModel]) -> set[Any]:
    """The literal values of a model's fields: a discriminator's tags are among them."""
    return {
        tag
        for field in model.model_fields.values()
        for tag in get_args(field.annotation)
        if isinstance(tag, str)
    }
