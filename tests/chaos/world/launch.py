"""Start a program that dies with its starter, and for which file permissions count. Stdlib only.

``python -I -S launch.py PARENT PROGRAM ARGS...`` becomes the program. Root passes by permissions;
what is attacked must not, as it would run as a user.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG, PR_CAPBSET_DROP = 1, 24
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2

if __name__ == "__main__":
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)
    for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
        libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)  # refused to who is not root: no need
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - no shell is the point
