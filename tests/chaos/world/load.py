"""Open-loop Poisson load on every model, whose rates move by themselves or are pinned."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

import grpc
import numpy as np

from perf.inputs import infer_request
from tests.chaos.world.models import MODELS, RATES, WIDTH

DEADLINE_S = 20.0
"""Who waits for so long is lost; a rise of the load on a busy machine makes some wait for 10 s."""
LEVEL_S = 9.0
"""How long the load stays at one level."""
_METHOD = "/inference.GRPCInferenceService/ModelInfer"
_OPTIONS = (  # a server that comes back is found at once
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 300),
    ("grpc.enable_http_proxy", 0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of one request; times are of the monotonic clock."""

    model: str
    due_s: float
    done_s: float
    error: str = ""


class Load:
    """Requests to one server until ``stop``; every answer is kept."""

    def __init__(self, grpc_url: str, seed: int) -> None:
        """Nothing is sent yet."""
        self._url, self._seed = grpc_url, seed
        self._stop = threading.Event()
        self._pinned: Mapping[str, float] = {}
        self._open: list[float] = []
        self.answers: list[Answer] = []
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self) -> None:
        """Send no more, and wait for what is under way."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=DEADLINE_S + 5)

    def pin(self, **rates_rps: float) -> None:
        """Hold these models at these rates, until ``free``."""
        self._pinned = rates_rps

    def free(self) -> None:
        """Let every rate move again."""
        self._pinned = {}

    def between(self, since_s: float, until_s: float) -> list[Answer]:
        """The requests that were due then, by their due time."""
        found = [a for a in list(self.answers) if since_s <= a.due_s < until_s]
        return sorted(found, key=lambda answer: answer.due_s)

    def answered(self, until_s: float) -> bool:
        """Whether every request that was due before then has its answer or its deadline."""
        return all(due_s >= until_s for due_s in list(self._open))

    async def _run(self) -> None:
        """Every model's requests, over one connection."""
        async with grpc.aio.insecure_channel(self._url, options=_OPTIONS) as channel:
            infer = channel.unary_unary(_METHOD)
            await asyncio.gather(*(self._send(infer, model) for model in MODELS))
            while self._open:
                await asyncio.sleep(0.05)

    async def _send(self, infer: grpc.aio.UnaryUnaryMultiCallable, model: str) -> None:
        """One model's requests, at their times whatever becomes of them."""
        random = Random(f"{self._seed} {model}")
        payload = infer_request(model, {"x": np.ones((1, WIDTH), np.float32)})
        due_s = level_until_s = time.monotonic()
        moving_rps = RATES[model][0]
        under_way: set[asyncio.Task[None]] = set()
        while not self._stop.is_set():
            if due_s >= level_until_s:
                level_until_s += LEVEL_S
                moving_rps = random.choice(RATES[model])
            due_s += random.expovariate(self._pinned.get(model, moving_rps))
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            task = asyncio.create_task(self._one(infer, payload, model, due_s))
            under_way.add(task)
            task.add_done_callback(under_way.discard)

    async def _one(
        self, infer: grpc.aio.UnaryUnaryMultiCallable, payload: bytes, model: str, due_s: float
    ) -> None:
        """One request and its answer."""
        self._open.append(due_s)
        error = ""
        try:
            await infer(payload, timeout=DEADLINE_S)
        except grpc.aio.AioRpcError as failed:
            error = f"{failed.code().name}: {failed.details()}"[:200]
        finally:
            self._open.remove(due_s)
        self.answers.append(Answer(model=model, due_s=due_s, done_s=time.monotonic(), error=error))
