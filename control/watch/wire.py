"""A connection whose every read and write must end before one moment, whatever the other side does.

Headers and framing count as well as what they frame. Names are looked up in a thread of their own,
as nothing else can end that.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import ipaddress
import select
import socket
import ssl
import threading
import time
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import certifi
import requests

AT_A_TIME = 2**16
_lookups: dict[tuple[str, int], threading.Thread] = {}


class Unusable(requests.RequestException):
    """The answer is not one that can be read: too large, compressed, cut short."""


class Wire(io.RawIOBase):
    """A connection whose every read and write must end before one moment."""

    def __init__(
        self, url: SplitResult, *, proxy: str | None, verify: bool | str, cert: Any, until_s: float
    ) -> None:
        """Connect.

        Raises:
            OSError: when that does not succeed in time.
        """
        super().__init__()
        self._until_s, self._left = until_s, AT_A_TIME
        to = split(proxy) if proxy is not None else url
        if to.scheme not in ("http", "https"):
            raise Unusable(f"{to.scheme} is not supported, only http and https are")
        port = to.port or (443 if to.scheme == "https" else 80)
        self._socket = self._connected(to.hostname or "", port)
        try:
            if to.scheme == "https":
                self._secure(to.hostname or "", verify, cert)
            if proxy is not None and url.scheme == "https":
                self._tunnel(url, to)
                self._secure(url.hostname or "", verify, cert)
        except BaseException:
            self._socket.close()
            raise

    def _connected(self, host: str, port: int) -> socket.socket:
        """A socket to the first of the host's addresses that answers."""
        failed: OSError = OSError(f"no address of {host}")
        for family, kind, protocol, _, address in _addresses(host, port, self._remaining_s()):
            try:
                made = socket.socket(family, kind, protocol)
                try:
                    made.settimeout(self._remaining_s())
                    made.connect(address)
                    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                except BaseException:
                    made.close()
                    raise
            except OSError as error:
                failed = error
            else:
                return made
        raise failed

    def _secure(self, host: str, verify: bool | str, cert: Any) -> None:
        """TLS from here on."""
        context = ssl.create_default_context(
            cafile=verify if isinstance(verify, str) else certifi.where()
        )
        if verify is False:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if cert:
            context.load_cert_chain(*((cert,) if isinstance(cert, str) else cert))
        self._socket.settimeout(self._remaining_s())
        self._socket = context.wrap_socket(self._socket, server_hostname=host)

    def _tunnel(self, url: SplitResult, proxy: SplitResult) -> None:
        """Ask the proxy for a way through."""
        there = f"{url.hostname}:{url.port or 443}"
        words = "".join(f"{name}: {value}\r\n" for name, value in password(proxy).items())
        self.sendall(f"CONNECT {there} HTTP/1.1\r\nHost: {there}\r\n{words}\r\n".encode("latin-1"))
        answer = http.client.HTTPResponse(self, method="CONNECT")  # type: ignore[arg-type]
        answer.begin()
        if answer.status != http.HTTPStatus.OK:
            raise Unusable(f"the proxy answers {answer.status}")

    def renew(self, until_s: float, most_bytes: int) -> None:
        """Another request: until then, and so much may come, headers and framing included."""
        self._until_s, self._left = until_s, most_bytes + most_bytes // 8 + AT_A_TIME

    def is_stale(self) -> bool:
        """Whether the server has closed it, or sent what nobody asked for."""
        if self._socket.fileno() < 0:
            return True
        poll = select.poll()  # select() cannot tell of descriptors above 1024
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def makefile(self, _mode: str) -> io.BufferedReader:
        """What an HTTPResponse reads; closing that does not close this."""
        return io.BufferedReader(_Ears(self))

    def sendall(self, data: bytes) -> None:
        """Send all of it, in time."""
        self._socket.settimeout(self._remaining_s())
        self._socket.sendall(data)

    def recv_into(self, buffer: Any) -> int:
        """What comes next, in time."""
        self._socket.settimeout(self._remaining_s())
        count = self._socket.recv_into(buffer)
        self._left -= count
        if self._left < 0:
            raise Unusable("the answer is too large")
        return count

    def close(self) -> None:
        """End the connection."""
        with contextlib.suppress(AttributeError, OSError):
            self._socket.close()
        super().close()

    def _remaining_s(self) -> float:
        """What is left of the time."""
        left_s = self._until_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("no whole answer in time")
        return left_s


class _Ears(io.RawIOBase):
    """The reading side of a wire."""

    def __init__(self, wire: Wire) -> None:
        super().__init__()
        self._wire = wire

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """What comes next."""
        return self._wire.recv_into(buffer)


def _addresses(host: str, port: int, within_s: float) -> list[Any]:
    """What the host's name stands for; one look-up at a time, as nothing can end it."""
    before = _lookups.get((host, port))
    if before is not None and before.is_alive():
        raise TimeoutError(f"the name {host} is still being looked up")
    found: list[Any] = []

    def look() -> None:
        try:
            found.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            found.append(error)

    if is_address(host):
        look()
    else:
        thread = threading.Thread(target=look, name="conch-lookup", daemon=True)
        _lookups[host, port] = thread
        thread.start()
        thread.join(within_s)
    if not found:
        raise TimeoutError(f"the name {host} was not found in time")
    if isinstance(found[0], Exception):
        raise found[0]
    return list(found[0])


def is_address(host: str) -> bool:
    """Whether it is an IP address and no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def split(proxy: str) -> SplitResult:
    """The proxy's parts; people leave the scheme out."""
    return urlsplit(proxy if "://" in proxy else f"http://{proxy}")


def password(proxy: SplitResult) -> dict[str, str]:
    """The header that a proxy with a password wants."""
    if proxy.username is None:
        return {}
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}".encode()
    return {"Proxy-Authorization": f"Basic {base64.b64encode(pair).decode()}"}
