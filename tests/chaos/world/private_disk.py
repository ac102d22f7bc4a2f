"""A small disk of our own for the repository, so that it can be filled without harm to others.

A tmpfs in a mount namespace of this process: nobody else sees it, and it goes with the process,
however that ends. Where mounting is not allowed the repository lies on the common disk.
"""

from __future__ import annotations

import ctypes
from contextlib import ExitStack
from pathlib import Path

BYTES = 96 * 2**20
_CLONE_NEWNS = 0x00020000
_MS_REC, _MS_PRIVATE = 0x4000, 1 << 18
_MNT_DETACH = 2


def mounted(stack: ExitStack, folder: Path) -> bool:
    """Mount it there until the stack is closed; gives whether it could."""
    folder.mkdir(parents=True)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0:
        return False
    if libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None) != 0:
        return False
    where = str(folder).encode()
    if libc.mount(b"chaos", where, b"tmpfs", 0, f"size={BYTES}".encode()) != 0:
        return False
    stack.callback(lambda: libc.umount2(where, _MNT_DETACH))
    return True
