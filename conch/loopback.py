"""Servers on this machine are asked directly, whatever proxies the environment names.

On an office machine ``http_proxy`` is set; gRPC, requests and urllib would all ask that proxy for
127.0.0.1, which is the proxy's own machine.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

DIRECT = ("127.0.0.1", "127.0.0.0/8", "localhost", "::1")
"""As ``no_proxy`` takes them: gRPC and urllib compare endings, requests knows networks."""


def is_loopback(host: str) -> bool:
    """Whether the host is this machine: 127.0.0.0/8, ``::1`` or ``localhost``.

    Example:
        >>> [is_loopback(host) for host in ("127.1.2.3", "[::1]", "localhost", "10.0.0.1", "")]
        [True, True, True, False, False]
    """
    name = host.strip().strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def grpc_options(address: str) -> tuple[tuple[str, int], ...]:
    """Channel options for ``host:port``: no proxy where it is this machine."""
    host = address.removeprefix("grpc://").rpartition(":")[0]
    return (("grpc.enable_http_proxy", 0),) if is_loopback(host) else ()


def no_proxy_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment with this machine among what no proxy is asked for.

    What is excepted already stays so: of ``no_proxy`` and ``NO_PROXY`` programs read the one or
    the other, so both get the words of both. gRPC reads ``no_grpc_proxy`` instead where it is set.
    """
    given = [
        word.strip()
        for name in ("no_proxy", "NO_PROXY")
        for word in environment.get(name, "").split(",")
        if word.strip()
    ]
    words = ",".join(dict.fromkeys([*given, *DIRECT]))
    found = {**environment, "no_proxy": words, "NO_PROXY": words}
    if grpc_only := environment.get("no_grpc_proxy"):
        found["no_grpc_proxy"] = ",".join(dict.fromkeys([*grpc_only.split(","), *DIRECT]))
    return found
