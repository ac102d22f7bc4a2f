"""The ensembles around a model: a load of the model may take them out of service and be "ok"."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from conch.errors import ApplyRejected
from serving import ensembles
from serving.client import TritonClient
from serving.repository import Repository

log = structlog.get_logger()


class Around:
    """The ensembles of one server, seen from a model that is in them."""

    def __init__(self, repository: Repository, client: TritonClient) -> None:
        """Of this repository, as this server serves it."""
        self._repository = repository
        self._client = client

    def served(self, model: str) -> list[str]:
        """The ensembles that need the model and that Triton serves now."""
        names = ensembles.around(model, ensembles.of(self._repository))
        return [] if not names else sorted(set(names) - set(self._lost(names)))

    def _lost(self, names: Sequence[str]) -> list[str]:
        """Which of these models Triton does not serve."""
        if not names:
            return []
        states = self._client.index()
        return [name for name in names if states.get(name) != "READY"]

    def bring_back(self, model: str, around: Sequence[str]) -> None:
        """Have Triton serve again the ensembles that a refused change of the model took down."""
        for name in self._lost(around):
            log.warning("ensemble.loaded_again", model=model, ensemble=name)
            self._client.load(name)
        self.require(model, around)

    def require(self, model: str, around: Sequence[str]) -> None:
        """Refuse a change that an ensemble around the model did not survive."""
        if lost := self._lost(around):
            raise ApplyRejected(
                f"{model}: loaded, but Triton no longer serves {', '.join(lost)}, which it is in.",
                hint="A member's max_batch_size must not be below its ensemble's; the server's log "
                "says what does not fit.",
            )
