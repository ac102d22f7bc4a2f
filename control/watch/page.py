"""One answer over HTTP, whole, within one deadline and one size: for pages of servers that lie.

Theory of operation. A library's timeout is for each read, and begins anew with each byte; what is
unpacked may be a thousand times what was sent. Here each read gets only what is left of the time
for the whole answer, headers included, nothing compressed is asked for or taken, and what is too
large is not read to its end. It is an adapter of ``requests``, which goes on to know proxies,
passwords and certificates. The connection is kept for the next look.
"""

from __future__ import annotations

import contextlib
import http.client
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import SplitResult, urlsplit

import requests
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict
from requests.utils import select_proxy

from conch.loopback import is_loopback
from control.watch.wire import AT_A_TIME, Unusable, Wire, password, split

__all__ = ["MOST_BYTES", "Unusable", "WholeAnswers"]

MOST_BYTES = 16 * 2**20
"""Of an answer. A page of Triton is some 2 kB a model: 225 kB for a hundred of them."""


class WholeAnswers(BaseAdapter):
    """Sends requests and gives answers that came whole and in time; not for several threads."""

    def __init__(self, *, deadline_s: float, most_bytes: int = MOST_BYTES) -> None:
        """Each answer within this time and size."""
        super().__init__()
        self._deadline_s = deadline_s
        self._most_bytes = most_bytes
        self._kept: tuple[tuple[Any, ...], Wire] | None = None

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,  # noqa: ARG002  # the base class's
        timeout: Any = None,  # noqa: ARG002
        verify: bool | str = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """The answer to a request.

        Raises:
            requests.RequestException: when there is none, or not a whole one in time.
        """
        until_s = time.monotonic() + self._deadline_s
        url = urlsplit(request.url or "")
        proxy = None
        if not is_loopback(url.hostname or ""):
            proxy = select_proxy(request.url or "", dict(proxies or {}))
        with _errors(request):
            to = (url.scheme, url.hostname, url.port, proxy, str(verify), str(cert))
            wire = self._take(to)
            if wire is not None:
                with contextlib.suppress(ConnectionError, http.client.BadStatusLine):
                    return self._ask(to, wire, request, url, proxy, until_s)
            # None kept, or the server had closed it just then: once more, in what time is left.
            wire = Wire(url, proxy=proxy, verify=verify, cert=cert, until_s=until_s)
            return self._ask(to, wire, request, url, proxy, until_s)

    def close(self) -> None:
        """Close the connection."""
        if self._kept is not None:
            self._kept[1].close()
            self._kept = None

    def _take(self, to: tuple[Any, ...]) -> Wire | None:
        """The kept connection, where it goes there and is still good."""
        kept, self._kept = self._kept, None
        if kept is None:
            return None
        if kept[0] == to and not kept[1].is_stale():
            return kept[1]
        kept[1].close()
        return None

    def _ask(
        self,
        to: tuple[Any, ...],
        wire: Wire,
        request: requests.PreparedRequest,
        url: SplitResult,
        proxy: str | None,
        until_s: float,
    ) -> requests.Response:
        """Send and read; the connection is kept where it may be."""
        wire.renew(until_s, self._most_bytes)
        try:
            wire.sendall(_head(request, url, proxy) + _body(request))
            answer = http.client.HTTPResponse(wire, method=request.method)  # type: ignore[arg-type]
            answer.begin()
            content = _content(answer, self._most_bytes)
        except BaseException:
            wire.close()
            raise
        if answer.will_close:
            wire.close()
        else:
            self._kept = (to, wire)
        return _response(request, answer, content)


def _head(request: requests.PreparedRequest, url: SplitResult, proxy: str | None) -> bytes:
    """The request line and the headers."""
    here, path = url.netloc.rpartition("@")[2], request.path_url
    headers = CaseInsensitiveDict(request.headers)
    headers.update({"Host": here, "Accept-Encoding": "identity", "Connection": "keep-alive"})
    if proxy is not None and url.scheme == "http":
        path = f"http://{here}{path}"
        headers.update(password(split(proxy)))
    lines = [f"{request.method} {path} HTTP/1.1"]
    for name, value in headers.items():
        text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
        lines.append(f"{name}: {text}")
    if any("\r" in line or "\n" in line for line in lines):
        raise Unusable("a header of the request holds a line end")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _body(request: requests.PreparedRequest) -> bytes:
    """What is sent after the headers."""
    body = request.body or b""
    if not isinstance(body, str | bytes):
        raise Unusable("the body of the request is a stream")
    return body.encode() if isinstance(body, str) else body


def _content(answer: http.client.HTTPResponse, most_bytes: int) -> bytes:
    """The body, whole.

    Raises:
        Unusable: when it is compressed, too large or cut short.
    """
    packed = answer.headers.get("Content-Encoding", "identity").strip().lower()
    if packed not in ("", "identity"):
        raise Unusable(f"the answer is packed ({packed[:20]}), though it was not asked for")
    framed = answer.chunked or answer.length is not None
    if not answer.chunked and answer.headers.get("Transfer-Encoding"):
        raise Unusable("the answer is packed in transfer, though it was not asked for")
    parts, size = [], 0
    while part := answer.read(AT_A_TIME):
        parts.append(part)
        size += len(part)
        if size > most_bytes:
            raise Unusable("the answer is too large")
    content = b"".join(parts)
    if answer.length:
        raise Unusable(f"the answer is cut short by {answer.length} bytes")
    if not framed and not content.endswith((b"\n", b"}")):  # who closed it, and was it all?
        raise Unusable("the answer ends in the middle of a line")
    return content


def _response(
    request: requests.PreparedRequest, answer: http.client.HTTPResponse, content: bytes
) -> requests.Response:
    """The answer as ``requests`` has it."""
    made = requests.Response()
    made.status_code, made.reason = answer.status, answer.reason
    made.headers = CaseInsensitiveDict(answer.headers.items())
    made.url, made.request, made.encoding = request.url or "", request, "utf-8"
    made._content = content
    made._content_consumed = True
    return made


@contextmanager
def _errors(request: requests.PreparedRequest) -> Iterator[None]:
    """What goes wrong on the way becomes an error of ``requests``."""
    try:
        yield
    except requests.RequestException:
        raise
    except TimeoutError as error:
        raise requests.Timeout(error, request=request) from error
    except OSError as error:
        raise requests.ConnectionError(error, request=request) from error
    # Lengths and statuses that are no numbers, or too many digits, or more than there is memory.
    except (http.client.HTTPException, ArithmeticError, MemoryError, ValueError) as error:
        raise Unusable(f"{type(error).__name__}: {error}"[:200], request=request) from error
