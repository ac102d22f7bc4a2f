"""Where a training is, on disk: whole or not there, and only for the training that wrote it."""

from __future__ import annotations

import io
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from serving import atomic

log = structlog.get_logger()

FILE = "checkpoint.pt"

_WRITING_SHARE = 0.05
"""Time that checkpoints may cost: a large model is saved less often."""


class Checkpoint:
    """The checkpoint of one training.

    Args:
        folder: survives a kill.
        identity: what a file must agree in to be taken up: settings, rows, shapes of the weights.
        every_s: seconds between two writes, at least.
    """

    def __init__(self, folder: Path, *, identity: str, every_s: float) -> None:
        self._path = folder / FILE
        self._identity = identity
        self._every_s = every_s
        self._last = time.monotonic()
        self._cost = 0.0

    @property
    def is_due(self) -> bool:
        """Whether it is time to write."""
        wait = max(self._every_s, self._cost / _WRITING_SHARE)
        return time.monotonic() - self._last >= wait

    def write(self, state: Mapping[str, Any]) -> None:
        """Keep the state and all random states.

        Raises:
            RepositoryError: when the disk refuses; an older checkpoint is as it was.
        """
        import torch

        start = time.monotonic()
        buffer = io.BytesIO()
        randoms = (random.getstate(), np.random.get_state(), torch.get_rng_state())
        torch.save({"identity": self._identity, "random": randoms, "state": dict(state)}, buffer)
        aside = self._path.parent / "aside"
        atomic.write(self._path, buffer.getvalue(), aside=aside, point="training.checkpoint")
        self._last = time.monotonic()
        self._cost = self._last - start

    def read(self) -> dict[str, Any] | None:
        """The state, with all random states set as they were; None when there is none.

        A file that is damaged counts as none: the training starts anew.
        """
        import torch

        if not self._path.is_file():
            return None
        try:
            saved = torch.load(self._path, weights_only=False)  # a file that this module wrote
            if saved["identity"] != self._identity:
                return None
            own, numpys, torchs = saved["random"]
            state: dict[str, Any] = dict(saved["state"])
        except Exception as error:  # garbage may raise anything in pickle
            log.debug("checkpoint.refused", path=str(self._path), exc_info=error)
            return None
        random.setstate(own)
        np.random.set_state(numpys)
        torch.set_rng_state(torchs)
        return state
