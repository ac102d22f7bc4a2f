"""Model names and versions that are safe in a path, a URL and a shell line.

Triton 2.51 passes model names to a shell (CVE-2025-23316), so the rule is ours and strict.
"""

from __future__ import annotations

import re
from typing import NewType

from conch.errors import ConfigError

ModelName = NewType("ModelName", str)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_VERSION = re.compile(r"[1-9][0-9]{0,9}")


def model_name(text: str) -> ModelName:
    """The text as a model name.

    Raises:
        ConfigError: on anything but letters, digits, ``_ . -`` (starting with a letter or a digit,
            128 at most, no ``..``).

    Example:
        >>> model_name("minilm_int8")
        'minilm_int8'
    """
    if not _NAME.fullmatch(text) or ".." in text:
        raise ConfigError(
            f"model name: {text!r}, allowed are letters, digits, '_', '.', '-' "
            "(first a letter or a digit, at most 128 characters, no '..').",
            hint="Rename the model.",
        )
    return ModelName(text)


def model_version(text: str) -> int:
    """The text as a model version, 1 to 9999999999.

    Raises:
        ConfigError: when it is anything else.
    """
    if not _VERSION.fullmatch(text):
        raise ConfigError(
            f"model version: {text!r}, allowed is a whole number from 1 to 9999999999.",
            hint="Use 1 for the first version.",
        )
    return int(text)
