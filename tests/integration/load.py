"""Open-loop loads of ones on a scripted model: each answer kept, or a trace replayed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import Any, Self

import numpy as np
import tritonclient.grpc as triton
from numpy.typing import NDArray

from perf.replay import ReplayTarget, replay
from perf.replay_result import ReplayResult
from perf.traces import Trace
from serving.client import channel_options
from serving.runtime.endpoint import Endpoint

ONES = np.ones((1, 4), np.float32)
_DEADLINE_S = 60.0


class Load:
    """Sends requests at a rate while the block runs; all are answered at its end."""

    def __init__(self, grpc_url: str, model: str, *, rps: float = 80.0) -> None:
        self._url, self._model, self._period_s = grpc_url, model, 1 / rps
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._send)
        self._lock = threading.Lock()
        self.sent = 0
        self.answered = 0
        self.failures: list[tuple[float, str]] = []  # when it was sent, s; what it got

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _send(self) -> None:
        """The sending thread."""
        tensor = triton.InferInput("x", [1, 4], "FP32")
        tensor.set_data_from_numpy(ONES)
        client = triton.InferenceServerClient(self._url, channel_args=channel_options(self._url))
        with client:
            next_s = time.monotonic()
            while not self._ended.is_set():
                self.sent += 1
                client.async_infer(
                    self._model,
                    [tensor],
                    callback=partial(self._take, time.monotonic()),
                    client_timeout=_DEADLINE_S,
                )
                next_s += self._period_s
                self._ended.wait(max(0.0, next_s - time.monotonic()))
            until_s = time.monotonic() + _DEADLINE_S
            while self.answered < self.sent and time.monotonic() < until_s:
                time.sleep(0.05)

    def _take(self, sent_s: float, result: Any, error: Any) -> None:
        """One answer, from gRPC's thread."""
        with self._lock:
            self.answered += 1
            if error is not None:
                self.failures.append((sent_s, str(error)))


@contextmanager
def replaying(
    endpoint: Endpoint, model: str, trace: Trace, *, row: NDArray[np.float32] = ONES
) -> Iterator[list[ReplayResult]]:
    """Open-loop load on the model, of its ``x``, for as long as the block lasts."""
    stop, results = threading.Event(), list[ReplayResult]()
    target = ReplayTarget(grpc_url=endpoint.grpc_url, model=model, inputs={"x": row})
    thread = threading.Thread(
        target=lambda: results.append(replay(trace, target, slo_s=0.2, stop=stop))
    )
    thread.start()
    try:
        yield results
    finally:
        stop.set()
        thread.join()
