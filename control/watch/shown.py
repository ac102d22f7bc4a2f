"""The config in force, as Triton shows it; asked for only where it may be another one."""

from __future__ import annotations

from dataclasses import dataclass

from conch.errors import ConchError
from serving import statistics as counted
from serving.client import TritonClient
from serving.model_config import ModelConfig
from serving.repository import Repository
from serving.statistics import ModelStatistics

CONFIG_EVERY_S = 3.0
"""So old the config in force may be where nothing speaks of a change: asking costs half a look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Config:
    """A config that Triton has shown, and all that tells of a newer one."""

    config: ModelConfig
    asked_s: float
    statistics: ModelStatistics
    written_ns: int | None


class Shown:
    """The configs that Triton has shown last."""

    def __init__(self, client: TritonClient, repository: Repository | None) -> None:
        """Ask this server; the repository tells when a file was written."""
        self._client = client
        self._repository = repository
        self._known: dict[str, _Config] = {}

    def config(
        self, model: str, statistics: ModelStatistics, *, now_s: float, renew: bool
    ) -> ModelConfig:
        """The config in force, asked for where it may be another than the last one."""
        written_ns = self._written_ns(model)
        known = self._known.get(model)
        if (
            known is not None
            and not renew
            and 0.0 <= now_s - known.asked_s < CONFIG_EVERY_S
            and known.written_ns == written_ns
            and known.statistics.versions == statistics.versions
            and counted.delta(known.statistics, statistics) is not None
        ):
            return known.config
        self._known.pop(model, None)
        config = self._client.config(model, versions=statistics.versions)
        self._known[model] = _Config(
            config=config, asked_s=now_s, statistics=statistics, written_ns=written_ns
        )
        return config

    def _written_ns(self, model: str) -> int | None:
        """When the config on disk was written; None where it cannot be seen."""
        if self._repository is None:
            return None
        try:
            return self._repository.config_path(model).stat().st_mtime_ns
        except (OSError, ConchError):
            return None
