"""One sender of an open-loop replay, as a process: ``python -m perf.replay_process JOB``.

Imports as little as it can (numpy and grpc): it shares the machine with the server it measures.
The request is serialised once and re-sent as bytes through a raw gRPC method. On the 2-core machine
of the tests one request costs the asyncio client 0.39 ms of CPU and the thread-based one 0.49 ms
(medians at 400 req/s, 32 tokens), hence asyncio; its timers are rounded up to the next millisecond,
which the reported lag includes.

Protocol, one line each: we write ``ready``; the parent writes ``start EPOCH`` (monotonic clock,
which all processes of a Linux machine share); we write a JSON object of progress twice a second and
``finished`` when ``result.npz`` is in the job's folder. SIGTERM ends the run early and still writes
the result. When the parent is gone, the write of progress fails and ends us.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from conch import loopback

METHOD = "/inference.GRPCInferenceService/ModelInfer"
PROGRESS_PERIOD_S = 0.5
PRIORITY = -10  # nice value that we ask for; the client stands for machines outside the server's
GRACE_S = 3.0
"""How long a stopped run waits for the answers to what it sent."""

# perf.replay_result.Outcome, not imported: see above
OK, FAILED, LATE, UNSENT = 0, 1, 2, 3

_CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),
)


@dataclass(slots=True)
class Rows:
    """What is known of each request so far; the arrays of ``ReplayResult``."""

    arrival_s: np.ndarray
    sent_s: np.ndarray = field(init=False)
    done_s: np.ndarray = field(init=False)
    outcome: np.ndarray = field(init=False)
    error_index: np.ndarray = field(init=False)
    errors: dict[str, int] = field(default_factory=dict)
    sent_count: int = 0
    counts: list[int] = field(default_factory=lambda: [0, 0, 0, 0])

    def __post_init__(self) -> None:
        count = len(self.arrival_s)
        self.sent_s = np.full(count, np.nan)
        self.done_s = np.full(count, np.nan)
        self.outcome = np.full(count, UNSENT, dtype=np.int8)
        self.error_index = np.full(count, -1, dtype=np.int16)

    def settle(self, number: int, outcome: int, error: str = "") -> None:
        """Record how a request ended."""
        self.outcome[number] = outcome
        self.counts[outcome] += 1
        if error:
            if len(self.errors) > 100:  # texts that carry a number must not fill the memory
                error = "(other errors)"
            self.error_index[number] = self.errors.setdefault(error, len(self.errors))


class Sender:
    """Sends each request at its time, whatever became of the earlier ones."""

    def __init__(self, job: dict[str, Any], rows: Rows, payload: bytes) -> None:
        self.rows = rows
        self.payload = payload
        self.deadline_s = float(job["deadline_s"])
        self.epoch_s = 0.0
        self.stopped = asyncio.Event()
        self.over = asyncio.Event()
        options = (*_CHANNEL_OPTIONS, *loopback.grpc_options(job["grpc_url"]))
        self.channel = grpc.aio.insecure_channel(job["grpc_url"], options=options)
        self.infer = self.channel.unary_unary(
            METHOD, request_serializer=None, response_deserializer=None
        )
        self.open: set[Any] = set()
        self.finished: list[tuple[int, Any]] = []

    async def send_all(self) -> None:
        """Send everything, then wait for the answers; the deadlines bound the wait.

        A run that is stopped sends no more, and gives what is under way a moment to be answered: a
        request that its sender gave up is no failure of the server.
        """
        for number, arrival_s in enumerate(self.rows.arrival_s.tolist()):
            due_s = self.epoch_s + arrival_s
            now_s = time.monotonic()
            if now_s < due_s:
                await asyncio.sleep(due_s - now_s)
            elif number % 8 == 0:  # behind: let answers in all the same
                await asyncio.sleep(0)
            if self.stopped.is_set():
                break
            self._send(number, arrival_s)
        stopped_s: float | None = None
        while self.open:
            if self.stopped.is_set():
                stopped_s = stopped_s or time.monotonic()
                if time.monotonic() - stopped_s >= GRACE_S:
                    break
            await asyncio.sleep(0.02)
        for call in list(self.open):
            call.cancel()
        await asyncio.sleep(0)

    def _send(self, number: int, arrival_s: float) -> None:
        """Hand one request to the transport."""
        left_s = self.deadline_s - (time.monotonic() - self.epoch_s - arrival_s)
        call = self.infer(self.payload, timeout=max(left_s, 0.001))
        self.open.add(call)

        def done(call: Any) -> None:
            self.rows.done_s[number] = time.monotonic() - self.epoch_s
            self.open.discard(call)
            self.finished.append((number, call))

        call.add_done_callback(done)
        self.rows.sent_s[number] = time.monotonic() - self.epoch_s
        self.rows.sent_count += 1

    async def settle_finished(self) -> list[float]:
        """Sort the finished calls into outcomes; the latencies (s) of the good ones."""
        batch, self.finished = self.finished, []
        latencies_s = []
        for number, call in batch:
            code = await call.code()
            if code is grpc.StatusCode.OK:
                self.rows.settle(number, OK)
                latencies_s.append(self.rows.done_s[number] - self.rows.arrival_s[number])
            elif code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED):
                self.rows.settle(number, LATE)
            else:
                text = f"{code.name}: {await call.details()}"
                self.rows.settle(number, FAILED, text[:300])
        return latencies_s

    async def report(self) -> None:
        """Print progress until ``over`` is set; a parent that is gone stops the run."""
        while not self.over.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.over.wait(), PROGRESS_PERIOD_S)
            latencies_s = await self.settle_finished()
            line = {
                "sent": self.rows.sent_count,
                "counts": self.rows.counts,
                "latency_ms": [round(latency_s * 1e3, 2) for latency_s in latencies_s],
            }
            try:
                print(json.dumps(line), flush=True)
            except BrokenPipeError:
                self.stopped.set()
                return


async def run(folder: Path) -> int:
    """The whole life of a sender; returns the process's exit status."""
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    rows = Rows(np.load(folder / "arrival_s.npy"))
    sender = Sender(job, rows, (folder / "payload.bin").read_bytes())
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, sender.stopped.set)
    loop.add_signal_handler(signal.SIGINT, lambda: None)  # the parent decides
    try:
        await asyncio.wait_for(sender.channel.channel_ready(), timeout=float(job["connect_s"]))
    except TimeoutError:
        print("unreachable", flush=True)
        return 0
    print("ready", flush=True)
    words = (await asyncio.to_thread(sys.stdin.readline)).split()
    if len(words) != 2:  # the parent is gone or gave up
        return 0
    sender.epoch_s = float(words[1])
    gc.collect()
    gc.freeze()
    cpu_before_s = time.process_time()
    reporter = asyncio.create_task(sender.report())
    await sender.send_all()
    cpu_s = time.process_time() - cpu_before_s
    sender.over.set()
    await reporter
    await sender.settle_finished()
    _write(folder, rows, cpu_s)
    await sender.channel.close()
    with contextlib.suppress(BrokenPipeError):
        print("finished", flush=True)
    return 0


def _write(folder: Path, rows: Rows, cpu_s: float) -> None:
    """The result file; a request that was sent and never settled is late."""
    open_still = (rows.outcome == UNSENT) & ~np.isnan(rows.sent_s)
    rows.outcome[open_still] = LATE
    np.savez(
        folder / "result.npz",
        sent_s=rows.sent_s,
        done_s=rows.done_s,
        outcome=rows.outcome,
        error_index=rows.error_index,
        errors=np.array(json.dumps(list(rows.errors))),
        cpu_s=np.array(cpu_s),
    )


def main() -> None:
    """Entry point."""
    with contextlib.suppress(OSError):  # needs a privilege; without it we run as we are
        os.setpriority(os.PRIO_PROCESS, 0, PRIORITY)
    sys.exit(asyncio.run(run(Path(sys.argv[1]))))


if __name__ == "__main__":
    main()
