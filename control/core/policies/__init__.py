"""Rules by name. Any of them can run a server: ``conch control run --rule NAME``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any

from conch.errors import ConfigError
from control.core.policies.conch import Conch
from control.core.policies.rule import Rule

RULES: Mapping[str, Callable[..., Rule]] = MappingProxyType({"conch": Conch})
"""Rule class by the name that users write."""


def rule_named(name: str, options: Mapping[str, Any] | None = None) -> Rule:
    """The rule with these options.

    Raises:
        ConfigError: for a name or an option that is not known.
    """
    if name not in RULES:
        raise ConfigError(
            f"rule {name}: not known; known are {', '.join(sorted(RULES))}.",
            hint="`conch control rules` tells what each one does.",
        )
    kind: Any = RULES[name]
    known = {f.name for f in fields(kind)} - {"name"}
    for option in options or {}:
        if option not in known:
            names = ", ".join(sorted(known)) or "none"
            raise ConfigError(
                f"rule {name}: option {option}, must be one of {names}.",
                hint="Check the spelling.",
            )
    made: Rule = kind(**(options or {}))
    return made
