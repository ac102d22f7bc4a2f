"""Rules by name. Any of them can run a server: ``conch control run --rule NAME``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from types import MappingProxyType
from typing import Any

from conch.errors import ConfigError
from control.core.decision.decide import Conch
from control.core.rules.baselines import (
    aimd_batching,
    clairvoyant,
    hpa_queue_compute,
    hpa_utilisation,
    inferline,
    knative_kpa,
    ray_serve,
    static,
)
from control.core.rules.baselines.aimd_batching import AimdBatching, AimdBatchingHpa
from control.core.rules.baselines.clairvoyant import Clairvoyant
from control.core.rules.baselines.hpa_queue_compute import HpaQueueCompute
from control.core.rules.baselines.hpa_utilisation import HpaUtilisation
from control.core.rules.baselines.inferline import InferLine
from control.core.rules.baselines.knative_kpa import KnativeKpa
from control.core.rules.baselines.ray_serve import RayServe
from control.core.rules.baselines.static import Static, StaticDefault, StaticMax, StaticMean
from control.core.rules.rule import Rule

RULES: Mapping[str, Callable[..., Rule]] = MappingProxyType(
    {
        "conch": Conch,
        "static": Static,
        "static-default": StaticDefault,
        "static-max": StaticMax,
        "static-mean": StaticMean,
        "hpa-utilisation": HpaUtilisation,
        "hpa-queue-compute": HpaQueueCompute,
        "knative-kpa": KnativeKpa,
        "ray-serve": RayServe,
        "aimd-batching": AimdBatching,
        "aimd-batching-hpa": AimdBatchingHpa,
        "inferline": InferLine,
        "clairvoyant": Clairvoyant,
    }
)
"""Rule class by the name that users write."""

SOURCES: Mapping[str, str] = MappingProxyType(
    {
        "conch": "this project: docs/explanation/control-loop.md",
        "static": static.SOURCE,
        "static-default": static.SOURCE,
        "static-max": static.SOURCE,
        "static-mean": static.SOURCE,
        "hpa-utilisation": hpa_utilisation.SOURCE,
        "hpa-queue-compute": hpa_queue_compute.SOURCE,
        "knative-kpa": knative_kpa.SOURCE,
        "ray-serve": ray_serve.SOURCE,
        "aimd-batching": aimd_batching.SOURCE,
        "aimd-batching-hpa": aimd_batching.SOURCE,
        "inferline": inferline.SOURCE,
        "clairvoyant": clairvoyant.SOURCE,
    }
)
"""Where each rule comes from."""

GRIDS: Mapping[str, Mapping[str, Sequence[float]]] = MappingProxyType(
    {
        "static": static.GRID,
        "hpa-utilisation": hpa_utilisation.GRID,
        "hpa-queue-compute": hpa_queue_compute.GRID,
        "knative-kpa": knative_kpa.GRID,
        "ray-serve": ray_serve.GRID,
        "aimd-batching": aimd_batching.GRID,
        "aimd-batching-hpa": aimd_batching.GRID,
        "inferline": inferline.GRID,
        "clairvoyant": clairvoyant.GRID,
    }
)
"""Values to try for each option of a rule that is worth tuning."""

_MAY_BE_ZERO = frozenset(
    {
        "container_concurrency",
        "envelope_z",
        "rho",
        "target_concurrency",
        "tolerance",
        "up_count",
        "up_fraction",
    }
)


def rule_named(name: str, options: Mapping[str, Any] | None = None) -> Rule:
    """The rule with these options; a number may come as text.

    Raises:
        ConfigError: for a name, an option or a value that is not allowed.
    """
    if name not in RULES:
        raise ConfigError(
            f"rule {name}: not known; known are {', '.join(sorted(RULES))}.",
            hint="`conch control rules` tells what each one does.",
        )
    kind: Any = RULES[name]
    known = {f.name: f.default for f in fields(kind) if f.name != "name"}
    for option in options or {}:
        if option not in known:
            names = ", ".join(sorted(known)) or "none"
            raise ConfigError(
                f"rule {name}: option {option}, must be one of {names}.",
                hint="Check the spelling.",
            )
    given = {
        option: _number(name, option, value, known[option])
        for option, value in (options or {}).items()
    }
    made: Rule = kind(**given)
    return made


def _number(name: str, option: str, value: Any, default: Any) -> Any:
    """The value as its default's type; anything but a number passes as it is.

    Raises:
        ConfigError: for a number that is not finite, not positive, or not whole where it must be.
    """
    if isinstance(default, bool) or not isinstance(default, int | float):
        if default == () and isinstance(value, int | float | str):
            raise ConfigError(
                f"rule {name}: option {option} is {value}, must be a series or a function.",
                hint="Only a bench can give it: `conch perf bench control`.",
            )
        return value
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    zero = option in _MAY_BE_ZERO or option.endswith("_delay_s")
    whole = isinstance(default, int)
    if (
        math.isfinite(number)
        and (number > 0 or (zero and number == 0))
        and (not whole or number.is_integer())
    ):
        return int(number) if whole else number
    allowed = f"a {'whole ' if whole else ''}number {'of 0 or more' if zero else 'above 0'}"
    raise ConfigError(
        f"rule {name}: option {option} is {value}, must be {allowed}.",
        hint=f"Its default is {default}.",
    )
