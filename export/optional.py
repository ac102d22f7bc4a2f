"""Optional tools: imported when a step needs them, named clearly when they are missing."""

from __future__ import annotations

import importlib
import types

from conch.errors import ConfigError


class ToolMissing(ConfigError):
    """An optional package is not installed: the variant that needs it is skipped with a line."""


def require(module: str, *, extra: str, purpose: str) -> types.ModuleType:
    """The module, imported now.

    Args:
        module: its import name.
        extra: the extra of this distribution that installs it.
        purpose: what needs it, for the message.

    Raises:
        ToolMissing: when it, or a package that it imports, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:  # some packages wrap the ModuleNotFoundError of what they need
        first = error if error.name else error.__cause__ or error.__context__
        missing = getattr(first, "name", None) or module
        raise ToolMissing(
            f"{purpose}: needs the package {missing}, which is not installed.",
            hint=f"pip install 'conch-serving[{extra}]'",
        ) from error
