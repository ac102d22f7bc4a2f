"""Open-loop replay: every request is sent at a time fixed in advance, whatever the server does.

Theory of operation. A closed-loop client waits for answers and so sends less just when the server
is slow; its percentiles leave out the requests that it never sent (coordinated omission, G. Tene).
Here the times come from a trace, the number of outstanding requests is unlimited, and a latency
counts from the *intended* time, so that our own delay is never hidden. That delay (lag) is told,
and a run whose lag is too large is not valid: it would describe the client.

The trace is dealt round robin to sender processes (``perf.replay_process``) that share one epoch on
the machine's monotonic clock. A request ends as OK, FAILED (an error of the server or the
transport), LATE (no answer by its deadline) or UNSENT.
"""

from __future__ import annotations

import json
import math
import os
import selectors
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import numpy as np

from conch.errors import LoadError, TritonUnavailable
from perf import slo
from perf.inputs import infer_request
from perf.replay_result import Outcome, ReplayResult
from perf.traces import Trace

RATE_PER_PROCESS_RPS = 700.0  # a third of what one sender held (p99 lag 5 ms) on 2 cores
START_DELAY_S = 0.2
CONNECT_S = 5.0
_FEW_THREADS = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # numpy's idle ones spin
ROLLING_S = 5.0  # the span of Progress.p99_s


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayTarget:
    """Where the requests go: gRPC ``host:port``, the model, and the one request that is re-sent."""

    grpc_url: str
    model: str
    inputs: Mapping[str, np.ndarray] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A run so far, about twice a second.

    Attributes:
        at_s: Seconds since time 0 of the trace.
        sent: Requests sent; of these ``ok``, ``failed`` and ``late`` have ended.
        ok: Requests answered.
        failed: Requests that ended with an error.
        late: Requests given up at their deadline.
        p99_s: 99th percentile latency of the answers of the last 5 s; nan without any.
    """

    at_s: float
    sent: int
    ok: int
    failed: int
    late: int
    p99_s: float

    @property
    def outstanding(self) -> int:
        """Requests sent and not ended."""
        return self.sent - self.ok - self.failed - self.late


def processes_for(trace: Trace) -> int:
    """How many senders the trace's busiest second calls for; never more than there are CPUs."""
    wanted = math.ceil(trace.peak_rps() / RATE_PER_PROCESS_RPS)
    return max(1, min(wanted, os.cpu_count() or 1))


def replay(
    trace: Trace,
    target: ReplayTarget,
    *,
    slo_s: float,
    processes: int | None = None,
    deadline_s: float = 60.0,
    on_progress: Callable[[Progress], None] | None = None,
    stop: threading.Event | None = None,
) -> ReplayResult:
    """Send the trace's requests at their times and return what became of each.

    Blocks until every request has ended: up to ``deadline_s`` after the last arrival.

    Args:
        trace: when to send.
        target: where to, and what.
        slo_s: SLO on latency, from the intended time.
        processes: sender processes; None chooses by the trace's busiest second.
        deadline_s: seconds after its intended time at which a request is given up as late.
        on_progress: called about twice a second, in the calling thread.
        stop: ends the run early when set; requests not yet sent stay UNSENT (an invalid run).

    Raises:
        TritonUnavailable: when no server answers at the address.
        LoadError: when a sender could not be started.
    """
    count = min(processes or processes_for(trace), max(1, trace.count))
    payload = infer_request(target.model, target.inputs)
    with tempfile.TemporaryDirectory(prefix="conch-replay-") as folder:
        senders = [
            _Sender(Path(folder) / str(number), trace.arrival_s[number::count])
            for number in range(count)
        ]
        try:
            for sender in senders:
                sender.start(target.grpc_url, payload, deadline_s)
            for sender in senders:
                sender.wait_ready(target.grpc_url)
            epoch_s = time.monotonic() + START_DELAY_S
            for sender in senders:
                sender.begin(epoch_s)
            _follow(senders, epoch_s, on_progress, stop)
        finally:
            for sender in senders:
                sender.end()
        return _assembled(senders, trace, target, slo_s, deadline_s, epoch_s)


class _Sender:
    """One sender process as its parent sees it."""

    def __init__(self, folder: Path, arrival_s: np.ndarray) -> None:
        self.folder = folder
        self.arrival_s = arrival_s
        self.sent = 0
        self.counts = [0, 0, 0, 0]
        self.finished = False
        self._unread = b""

    def start(self, grpc_url: str, payload: bytes, deadline_s: float) -> None:
        """Write the job and start the process."""
        self.folder.mkdir()
        job = {"grpc_url": grpc_url, "deadline_s": deadline_s, "connect_s": CONNECT_S}
        (self.folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        (self.folder / "payload.bin").write_bytes(payload)
        np.save(self.folder / "arrival_s.npy", self.arrival_s)
        root = str(Path(__file__).resolve().parent.parent)
        path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH")) if part)
        self.log = (self.folder / "stderr").open("w+b")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "perf.replay_process", str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env={**os.environ, **_FEW_THREADS, "PYTHONPATH": path},
        )

    @property
    def stdin(self) -> IO[bytes]:
        """Where the process reads."""
        if self.process.stdin is None:
            raise ValueError("the process was started without a pipe")
        return self.process.stdin

    @property
    def stdout(self) -> IO[bytes]:
        """Where the process writes."""
        if self.process.stdout is None:
            raise ValueError("the process was started without a pipe")
        return self.process.stdout

    def wait_ready(self, grpc_url: str) -> None:
        """Return when the sender is connected."""
        word = self.stdout.readline().strip()
        if word == b"unreachable":
            raise TritonUnavailable(
                f"Triton at {grpc_url}: no gRPC connection within {CONNECT_S:g} s.",
                hint="Start one with `conch serve`, or check --url.",
            )
        if word != b"ready":
            raise LoadError(
                f"sender process: ended before the start ({self._stderr()}).",
                hint="Run it again with --debug.",
            )

    def begin(self, epoch_s: float) -> None:
        """Tell the process when time 0 is."""
        self.stdin.write(f"start {epoch_s!r}\n".encode())
        self.stdin.close()

    def read(self) -> list[float] | None:
        """Latencies (s) of the answers since the last call; None when the process has ended."""
        data = os.read(self.stdout.fileno(), 1 << 16)
        if not data:
            return None
        *lines, self._unread = (self._unread + data).split(b"\n")
        latencies_s: list[float] = []
        for line in lines:
            if line == b"finished":
                self.finished = True
            elif line:
                seen = json.loads(line)
                self.sent, self.counts = seen["sent"], seen["counts"]
                latencies_s += [value / 1e3 for value in seen["latency_ms"]]
        return latencies_s

    def trouble(self) -> str:
        """What went wrong with the process; empty when it finished."""
        if self.finished:
            return ""
        return f"a sender process ended with status {self.process.returncode} ({self._stderr()})"

    def end(self) -> None:
        """Stop the process if it still runs."""
        if not hasattr(self, "process"):
            return
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()

    def _stderr(self) -> str:
        try:
            lines = (self.folder / "stderr").read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return lines[-1][:200] if lines else "no message"


def _follow(
    senders: list[_Sender],
    epoch_s: float,
    on_progress: Callable[[Progress], None] | None,
    stop: threading.Event | None,
) -> None:
    """Read the senders' progress until the last one has ended."""
    recent: deque[tuple[float, list[float]]] = deque()
    told_s = time.monotonic()
    with selectors.DefaultSelector() as selector:
        for sender in senders:
            selector.register(sender.stdout, selectors.EVENT_READ, sender)
        while selector.get_map():
            for key, _ in selector.select(timeout=0.25):
                latencies_s = key.data.read()
                if latencies_s is None:
                    selector.unregister(key.fileobj)
                    key.data.process.wait()
                else:
                    recent.append((time.monotonic(), latencies_s))
            now_s = time.monotonic()
            if on_progress and now_s - told_s >= 0.5:
                told_s = now_s
                while recent and recent[0][0] < now_s - ROLLING_S:
                    recent.popleft()
                on_progress(_progress(senders, now_s - epoch_s, recent))
            if stop and stop.is_set():
                for sender in senders:
                    sender.process.terminate()
                stop = None


def _progress(
    senders: list[_Sender], at_s: float, recent: deque[tuple[float, list[float]]]
) -> Progress:
    """The senders' counts together."""
    counts = np.sum([sender.counts for sender in senders], axis=0)
    latency_s = np.array([value for _, values in recent for value in values])
    return Progress(
        at_s=at_s,
        sent=sum(sender.sent for sender in senders),
        ok=int(counts[Outcome.OK]),
        failed=int(counts[Outcome.FAILED]),
        late=int(counts[Outcome.LATE]),
        p99_s=slo.percentile_s(latency_s, 99),
    )


def _assembled(
    senders: list[_Sender],
    trace: Trace,
    target: ReplayTarget,
    slo_s: float,
    deadline_s: float,
    epoch_s: float,
) -> ReplayResult:
    """The senders' rows back in the trace's order."""
    size, count = trace.count, len(senders)
    sent_s, done_s = np.full(size, np.nan), np.full(size, np.nan)
    outcome = np.full(size, Outcome.UNSENT, dtype=np.int8)
    error_index = np.full(size, -1, dtype=np.int16)
    errors: dict[str, int] = {}
    cpu_s = 0.0
    for number, sender in enumerate(senders):
        if not sender.finished:
            continue
        with np.load(sender.folder / "result.npz", allow_pickle=False) as data:
            mine = slice(number, None, count)
            sent_s[mine], done_s[mine] = data["sent_s"], data["done_s"]
            outcome[mine] = data["outcome"]
            texts = json.loads(str(data["errors"]))
            merged = [errors.setdefault(text, len(errors)) for text in texts]
            index = data["error_index"]
            error_index[mine] = np.where(index >= 0, np.array([*merged, -1])[index], -1)
            cpu_s += float(data["cpu_s"])
    return ReplayResult(
        trace_name=trace.name,
        description=trace.description,
        seed=trace.seed,
        model=target.model,
        duration_s=trace.duration_s,
        slo_s=slo_s,
        deadline_s=deadline_s,
        processes=count,
        epoch_monotonic_s=epoch_s,
        client_cpu_s=cpu_s,
        intended_s=trace.arrival_s,
        sent_s=sent_s,
        done_s=done_s,
        outcome=outcome,
        error_index=error_index,
        errors=tuple(errors),
        trouble="; ".join(filter(None, (sender.trouble() for sender in senders))),
    )
