"""Start, find and end the processes under attack. Only what was started here is ever ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

LAUNCH = Path(__file__).with_name("launch.py")
_MAIN = "from cli.main import main; main()"
_FEW_THREADS = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
TRITON, STUB = "tritonserver", "triton_python_backend_stub"


def conch(
    *arguments: str, environment: Mapping[str, str], out: Path, log: Path
) -> subprocess.Popen[bytes]:
    """A ``conch`` command of its own session; its output is appended to the files."""
    launcher = [sys.executable, "-I", "-S", str(LAUNCH), str(os.getpid())]
    with out.open("ab") as stdout, log.open("ab") as stderr:
        return subprocess.Popen(
            [*launcher, sys.executable, "-c", _MAIN, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            env={**os.environ, **_FEW_THREADS, **environment},
            start_new_session=True,
        )


def send(pid: int | None, number: signal.Signals) -> bool:
    """Send a signal; gives whether there was a process."""
    if pid is None:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
        return True
    return False


def end(process: subprocess.Popen[bytes], *, patience_s: float) -> float | None:
    """SIGINT, and SIGKILL after so long; gives the seconds it took, None where it was killed."""
    begun_s = time.monotonic()
    send(process.pid, signal.SIGCONT)
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(timeout=patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None
    return time.monotonic() - begun_s


def below(pid: int) -> list[psutil.Process]:
    """Every process below this one."""
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).children(recursive=True)
    return []


def named(processes: Sequence[psutil.Process], program: str) -> list[psutil.Process]:
    """Those whose program is this one, and that are not over."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            line = process.cmdline()
            over = process.status() == psutil.STATUS_ZOMBIE
            if line and Path(line[0]).name == program and not over:
                found.append(process)
    return found


def wait_until(holds: Callable[[], bool], timeout_s: float, *, step_s: float = 0.1) -> bool:
    """Whether it came true in time."""
    until_s = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > until_s:
            return False
        time.sleep(step_s)
    return True


def tail(path: Path, lines: int = 6) -> list[str]:
    """The last lines of a log, each cut to 300 characters."""
    with contextlib.suppress(OSError):
        text = path.read_text(errors="replace")[-20_000:]
        return [line[:300] for line in text.splitlines() if line.strip()][-lines:]
    return []
