"""Parent of one Triton: nothing of it outlives whoever asked for it. Stdlib only, run as a script.

``python guard.py SHM_PREFIX tritonserver ARGS...`` starts Triton, writes its pid to stdout, and
waits for it, or for the end of stdin: the other end is held by the process that asked, so it ends
even when that process is killed. Then Triton is asked to stop, after a grace period killed, and
with it whatever it left: Python stubs (they come to this process, which is their subreaper) and
shared memory. Exits with Triton's exit code, 128 + signal when a signal ended it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import time
from pathlib import Path

GRACE_S = 5.0
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - POSIX shared memory lies there
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def main() -> int:
    """Run Triton until it ends or the asker does; gives the exit code."""
    prefix, command = sys.argv[1], sys.argv[2:]
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    wakeup_read, wakeup_write = os.pipe()
    os.set_blocking(wakeup_write, False)
    signal.set_wakeup_fd(wakeup_write, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # only wakes the loop; the asker decides
    triton = _start(command, libc)
    os.write(1, f"{triton}\n".encode())
    code = _wait(triton, wakeup_read)
    _kill_rest()
    _clean_shared_memory(prefix)
    return code


def _start(command: list[str], libc: ctypes.CDLL) -> int:
    """Fork Triton: its output goes to our stderr, and it dies with us."""
    guard = os.getpid()
    child = os.fork()
    if child:
        return child
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != guard:
        os._exit(127)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    try:
        os.execv(command[0], command)  # noqa: S606 - no shell is the point
    except OSError as error:
        os.write(2, f"{command[0]}: {error}\n".encode())
        os._exit(127)


def _wait(triton: int, wakeup: int) -> int:
    """Until Triton has ended; asks it to end when stdin does."""
    watched = [0, wakeup]
    deadline_s = None
    while True:
        timeout_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
        ready, _, _ = select.select(watched, [], [], timeout_s)
        if wakeup in ready:
            os.read(wakeup, 4096)
        if 0 in ready and not os.read(0, 4096):  # the asker is gone
            watched.remove(0)
            os.kill(triton, signal.SIGTERM)
            deadline_s = time.monotonic() + GRACE_S
        if deadline_s is not None and time.monotonic() >= deadline_s:
            os.kill(triton, signal.SIGKILL)
            deadline_s = time.monotonic() + GRACE_S
        while (ended := _reap()) is not None:
            if ended[0] == triton:
                return ended[1]


def _reap() -> tuple[int, int] | None:
    """One ended child (pid, exit code); None when no child has ended."""
    try:
        pid, status = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return None
    if pid == 0:
        return None
    code = os.waitstatus_to_exitcode(status)
    return pid, code if code >= 0 else 128 - code


def _kill_rest() -> None:
    """Kill what Triton left behind, generation by generation: orphans become our children."""
    until_s = time.monotonic() + GRACE_S
    while time.monotonic() < until_s:
        while _reap() is not None:
            pass
        children = _children()
        if not children:
            return
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def _children() -> list[int]:
    """Pids of our children."""
    text = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return [int(pid) for pid in text.split()]


def _clean_shared_memory(prefix: str) -> None:
    """Remove the shared memory that killed stubs left."""
    with contextlib.suppress(OSError):
        for region in SHARED_MEMORY.glob(f"{prefix}*"):
            region.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
