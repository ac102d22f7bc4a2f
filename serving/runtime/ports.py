"""Free TCP ports on loopback."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence

from conch.errors import TritonUnavailable
from serving.runtime.command import LOOPBACK


def free_ports(asked: Sequence[int]) -> list[int]:
    """The asked ports, each 0 replaced by a free one; all different.

    Raises:
        TritonUnavailable: when a port that was asked for is taken.
    """
    with contextlib.ExitStack() as stack:
        ports = []
        for port in asked:
            held = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                held.bind((LOOPBACK, port))
            except OSError as error:
                raise TritonUnavailable(
                    f"port {port}: cannot be used ({error.strerror}).",
                    hint="Choose another, or 0 for a free one.",
                ) from error
            ports.append(int(held.getsockname()[1]))
        return ports
