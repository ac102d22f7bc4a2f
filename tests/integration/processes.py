"""Whether processes of this machine run."""

from __future__ import annotations

import psutil


def runs(pid: int) -> bool:
    """Whether the process runs; one that nobody has reaped does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
