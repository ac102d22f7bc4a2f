"""Which ensembles of a repository a model is in, and what they ask of it.

Triton refuses an ensemble with a larger ``max_batch_size`` than one of its members. It looks again
whenever a member is loaded, takes an ensemble that no longer fits out of service, and still answers
that load with "ok".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from conch.errors import ConfigError, RepositoryError
from serving.model_config import ModelConfig
from serving.repository import Repository

_MARK = "ensemble_scheduling"


def members(config: ModelConfig) -> set[str]:
    """Names of the models that the ensemble is made of; empty for any other model."""
    return {step.model_name for step in config.ensemble_scheduling.step}


def of(repository: Repository) -> dict[str, ModelConfig]:
    """Name → config of every ensemble; one that cannot be read is Triton's to report."""
    found: dict[str, ModelConfig] = {}
    for name in repository.models():
        try:
            if _MARK in repository.config_text(name):  # parsing each model every tick would cost
                config = repository.read_config(name)
                if config.HasField(_MARK):
                    found[name] = config
        except (ConfigError, RepositoryError):
            continue
    return found


def around(model: str, ensembles: Mapping[str, ModelConfig]) -> list[str]:
    """Names of the ensembles that need the model, also through another ensemble; sorted."""
    needed, before = {model}, 0
    while before != len(needed):
        before = len(needed)
        needed |= {name for name, config in ensembles.items() if members(config) & needed}
    return sorted(needed - {model})


def least_batch_size(model: str, ensembles: Iterable[ModelConfig]) -> int:
    """The smallest ``max_batch_size`` that the model may have for its ensembles' sake; at least 1.

    Example:
        >>> from serving.model_config import parse
        >>> step = 'step { model_name: "toy" model_version: -1 }'
        >>> pix = parse("max_batch_size: 8 ensemble_scheduling { " + step + " }")
        >>> least_batch_size("toy", [pix]), least_batch_size("other", [pix])
        (8, 1)
    """
    sizes = [int(one.max_batch_size) for one in ensembles if model in members(one)]
    return max([1, *sizes])
