"""What the world looked like five times a second: instances on disk, the controller, its memory."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

from serving import model_config
from tests.chaos.world.models import MODELS

if TYPE_CHECKING:
    from tests.chaos.world.world import World

PERIOD_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One look.

    Attributes:
        at_s: on the monotonic clock.
        texts: each model's config; None where it could not be read.
        controller: the controller's pid; None when none ran.
        memory_bytes: resident, of the controller.
    """

    at_s: float
    texts: Mapping[str, str | None]
    controller: int | None
    memory_bytes: int

    def instances(self, model: str) -> int | None:
        """The count on disk; None where nothing can be read."""
        text = self.texts[model]
        with contextlib.suppress(Exception):
            return model_config.instance_count(model_config.parse(text or ""))
        return None


class Sampler:
    """Looks until it is stopped."""

    def __init__(self, world: World) -> None:
        """Nothing is looked at yet."""
        self._world, self._stop = world, threading.Event()
        self.samples: list[Sample] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._stop.set()
        self._thread.join(timeout=5)

    def since(self, at_s: float) -> list[Sample]:
        """The samples from then on."""
        return [sample for sample in list(self.samples) if sample.at_s >= at_s]

    def _run(self) -> None:
        while not self._stop.wait(PERIOD_S):
            self.samples.append(self._look())
            if len(self.samples) > 5000:
                del self.samples[:2000]

    def _look(self) -> Sample:
        world = self._world
        texts: dict[str, str | None] = {}
        for name in MODELS:
            texts[name] = None
            with contextlib.suppress(OSError, ValueError):
                texts[name] = (world.root / name / "config.pbtxt").read_bytes().decode()
        controller = world.controller
        pid = controller.pid if controller is not None and controller.poll() is None else None
        memory = 0
        with contextlib.suppress(psutil.Error):
            memory = psutil.Process(pid).memory_info().rss if pid else 0
        return Sample(at_s=time.monotonic(), texts=texts, controller=pid, memory_bytes=memory)
