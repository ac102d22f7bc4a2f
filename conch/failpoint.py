"""Named places where a test can make this process die or fail, to prove what survives.

``CONCH_FAILPOINT=repository.config_written=kill`` kills the process (SIGKILL) when it passes that
name; ``=enospc`` raises what a full disk raises. Nothing happens when the variable is not set.
"""

from __future__ import annotations

import errno
import os
import signal


def failpoint(name: str) -> None:
    """Pass the place called ``name``; die or fail there when the environment says so."""
    armed, _, action = os.environ.get("CONCH_FAILPOINT", "").partition("=")
    if armed != name:
        return
    if action == "enospc":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.kill(os.getpid(), signal.SIGKILL)
