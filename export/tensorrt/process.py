"""Starts a runner and gives what it found: a crash or a hang is an answer, not our end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RUNNER = Path(__file__).with_name("runner.py")
_TAIL_CHARACTERS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run of TensorRT gave.

    Attributes:
        values: what the runner noted before it ended.
        ended: how it ended, when not as it should; empty otherwise.
    """

    values: Mapping[str, Any]
    ended: str = ""


def run(request: Mapping[str, Any], *, timeout_s: float, runner: Path = RUNNER) -> Outcome:
    """Have the runner do what the request asks, in a process of its own.

    Args:
        request: see ``runner.main``; it is given this process's id as ``parent`` besides.
        timeout_s: after so many seconds the process is ended.
        runner: the file to run, with the request's file and the result's as arguments.
    """
    with tempfile.TemporaryDirectory(prefix="conch-runner-") as name:
        folder = Path(name)
        asked, found = folder / "request.json", folder / "result.json"
        asked.write_text(json.dumps({**request, "parent": os.getpid()}), encoding="utf-8")
        # -P: the runner's folder holds modules of ours, which must not hide others.
        command = [sys.executable, "-P", str(runner), str(asked), str(found)]
        with (folder / "output").open("wb+") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            ended = _wait(process, timeout_s)
            text = (folder / "output").read_text(encoding="utf-8", errors="replace")
        values = json.loads(found.read_text(encoding="utf-8")) if found.is_file() else {}
    if ended:
        return Outcome(values=values, ended=ended)
    return Outcome(values=values, ended=_how(process.returncode, text))


def probe(*, timeout_s: float = 60.0) -> Outcome:
    """The GPU of this host: ``gpu`` and ``compute_capability``, or ``error``.

    In a process of its own, because TensorRT and CUDA may end theirs where there is no driver.
    """
    return run({"action": "probe"}, timeout_s=timeout_s)


def memory_limit_bytes() -> int:
    """Address space that a build without a GPU may take: half of the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _wait(process: subprocess.Popen[bytes], timeout_s: float) -> str:
    """Wait for the end; how it came, when we made it."""
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return f"not done after {timeout_s:g} s"
    finally:
        if process.poll() is None:  # also on Ctrl-C: it has a session of its own
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return ""


def _how(code: int, text: str) -> str:
    """How a process ended that did not end well; its last words where it had some."""
    if code == 0:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = f" ({lines[-1][:_TAIL_CHARACTERS]})" if lines else ""
    if code < 0:
        return f"crashed with {signal.Signals(-code).name}{last}"
    return f"ended with exit code {code}{last}"
