"""Pages that lie, drip, never end or are huge: a sample or TritonUnavailable, in bounded time.

From real local servers, by the sockets that a controller uses.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import resource
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator

import pytest

from conch.errors import ConchError, ConfigError, TritonUnavailable
from control.watch.page import MOST_BYTES
from control.watch.prometheus import PrometheusCounters
from control.watch.sources import Sample, ScrapedCounters
from tests.integration.conftest import wait_until

DEADLINE_S = 1.0
BOUND_S = 8.0
"""The deadline, and what a busy machine adds."""
LINE = b'nv_inference_request_success{model="m",version="1"} 5\n'

Talk = Callable[[socket.socket], None]


@contextlib.contextmanager
def _server(talk: Talk) -> Iterator[str]:
    """Talks so to each that connects, after the request's head; gives its address."""
    listening = socket.create_server(("127.0.0.1", 0))
    listening.settimeout(0.1)
    done = threading.Event()

    def one(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(20)
            data = b""
            while b"\r\n\r\n" not in data:
                got = connection.recv(65536)
                if not got:
                    return
                data += got
            while not done.is_set():
                talk(connection)

    def serve() -> None:
        while not done.is_set():
            with contextlib.suppress(TimeoutError):
                threading.Thread(target=one, args=(listening.accept()[0],), daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        done.set()
        thread.join()
        listening.close()


def _answer(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {size}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def _once(data: bytes, *, close: bool = True) -> Talk:
    def talk(connection: socket.socket) -> None:
        connection.sendall(data)
        if close:
            connection.shutdown(socket.SHUT_WR)
        connection.recv(65536)
        raise OSError

    return talk


def _drip(data: bytes, pause_s: float = 0.2) -> Talk:
    def talk(connection: socket.socket) -> None:
        for byte in data:
            connection.sendall(bytes([byte]))
            time.sleep(pause_s)

    return talk


def _flood(head: bytes, part: bytes) -> Talk:
    def talk(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(part)

    return talk


def _silent(connection: socket.socket) -> None:
    time.sleep(0.1)


def _bomb() -> bytes:
    squeeze = zlib.compressobj(9, zlib.DEFLATED, 31)
    zeros = b"\0" * 2**20
    return b"".join(squeeze.compress(zeros) for _ in range(240)) + squeeze.flush()


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
PLAIN = b"HTTP/1.1 200 OK\r\n\r\n"
BAD: dict[str, Talk] = {
    "silent": _silent,
    "drips its head": _drip(_answer(LINE)),
    "drips its body": _drip(_answer(LINE * 100)[-2000:]),
    "drips chunks": _drip(CHUNKED + b"1\r\nn\r\n" * 1000),
    "head, then nothing": _once(_answer(b"", length=100), close=False),
    "half, then closed": _once(_answer(LINE, length=100)),
    "half a line, closed": _once(PLAIN + LINE[:-3]),
    "half a chunk": _once(CHUNKED + b"100\r\nabc"),
    "gzip": _once(_answer(gzip.compress(LINE), "Content-Encoding: gzip")),
    "gzip bomb": _once(_answer(_bomb(), "Content-Encoding: gzip")),
    "deflate, in transfer": _once(PLAIN[:-2] + b"Transfer-Encoding: gzip\r\n\r\n" + LINE),
    "300 MB": _flood(_answer(b"", length=300 * 2**20), LINE * 1000),
    "never ends": _flood(PLAIN, LINE * 1000),
    "never ends in chunks": _flood(CHUNKED, b"10000\r\n" + b"a" * 65536 + b"\r\n"),
    "never ends its headers": _flood(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 1000),
    "never ends a header": _flood(b"HTTP/1.1 200 OK\r\nX: ", b"y" * 65536),
    "continues for ever": _flood(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    "never ends its trailers": _flood(CHUNKED + b"0\r\n", b"X: y\r\n" * 1000),
    "a length beyond memory": _once(_answer(LINE, length=10**18)),
    "a length of 5000 digits": _once(PLAIN[:-2] + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n"),
    "a chunk beyond memory": _once(CHUNKED + b"f" * 30 + b"\r\nabc"),
    "a chunk that is no number": _once(CHUNKED + b"zz\r\nabc"),
    "no HTTP": _once(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "an odd status": _once(b"HTTP/1.1 abc OK\r\n\r\n"),
    "garbage": _once(os.urandom(4096)),
    "garbage in the body": _once(_answer(os.urandom(4096))),
    "nothing": _once(b""),
    "500": _once(_answer(LINE, status="500 No")),
    "401": _once(_answer(LINE, status="401 No")),
    "to a file": _once(_answer(b"", "Location: file:///etc/passwd", status="302 Found")),
    "to itself": _once(_answer(b"", "Location: /metrics", status="302 Found")),
    "one huge line": _once(_answer(b"nv_x{" + b'a ="b",' * 200_000 + b"} 1\n")),
    "many odd lines": _once(_answer(b'nv_x{a ="b"} 1\n' * 200_000)),
}
GOOD: dict[str, Talk] = {
    "empty": _once(_answer(b"")),
    "many escapes": _once(_answer(b"nv_x{" + b'a="\\\\",' * 200_000 + b"} 1\n" + LINE)),
    "NaN": _once(_answer(b'nv_inference_request_success{model="m"} NaN\n')),
    "Inf": _once(_answer(b'nv_inference_request_success{model="m"} +Inf\n')),
    "closed at its end": _once(PLAIN + LINE),
    "in chunks": _once(CHUNKED + b"%x\r\n%s\r\n0\r\n\r\n" % (len(LINE), LINE)),
    "no UTF-8": _once(_answer(b"# \xff\xfe\n" + LINE)),
}


def _bounded(ask: Callable[[], object]) -> object:
    """The answer or the error, in time; and no thread of ours is left."""
    begun_s, before = time.monotonic(), set(threading.enumerate())
    try:
        return ask()
    except ConchError as error:
        return error
    finally:
        assert time.monotonic() - begun_s < BOUND_S
        ours = [t for t in set(threading.enumerate()) - before if t.name.startswith("conch")]
        assert wait_until(lambda: not any(thread.is_alive() for thread in ours))


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_page_is_no_data(kind: str) -> None:
    """In bounded time and memory, twice in a row."""
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with _server(BAD[kind]) as url:
        source = ScrapedCounters(f"{url}/metrics", deadline_s=DEADLINE_S)
        for _ in range(2):
            assert isinstance(_bounded(lambda: source.sample(["m"])), TritonUnavailable)
    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb
    assert grown_kb < 12 * MOST_BYTES / 1024


@pytest.mark.parametrize("kind", GOOD)
def test_an_odd_page_that_is_whole_is_a_sample(kind: str) -> None:
    """Nothing is refused that can be read."""
    with _server(GOOD[kind]) as url:
        found = _bounded(lambda: ScrapedCounters(f"{url}/metrics").sample(["m"]))
    assert isinstance(found, Sample)
    assert (found.counters("m") is None) == (kind == "empty")


def test_a_connection_is_kept_and_mended() -> None:
    """One for many looks; when the server closes it, the next look makes another."""
    connections, close = [], threading.Event()

    def talk(connection: socket.socket) -> None:
        if connection not in connections:
            connections.append(connection)
        connection.sendall(_answer(LINE))
        if close.is_set():
            close.clear()
            raise OSError
        if not connection.recv(65536):
            raise OSError

    with _server(talk) as url:
        source = ScrapedCounters(f"{url}/metrics", deadline_s=DEADLINE_S)
        for _ in range(3):
            source.snapshot()
        assert len(connections) == 1
        close.set()
        for _ in range(4):  # however the closing and the looks fall
            source.snapshot()
        assert len(connections) == 2


def test_no_proxy_leads_to_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """An office machine has one for all else; there it is used as before."""
    asked = []

    def proxy(connection: socket.socket) -> None:
        asked.append(1)
        _once(_answer(LINE))(connection)

    with _server(_once(_answer(LINE))) as url, _server(proxy) as proxy_url:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy_url)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert ScrapedCounters(f"{url}/metrics").snapshot().models["m"].success == 5
        assert asked == []
        there = ScrapedCounters("http://triton.example:8002/metrics")
        assert there.snapshot().models["m"].success == 5
        assert asked == [1]
        monkeypatch.setenv("no_proxy", "triton.invalid")
        away = ScrapedCounters("http://triton.invalid:8002/metrics", deadline_s=DEADLINE_S)
        with pytest.raises(TritonUnavailable):
            away.snapshot()
        assert asked == [1]


ANSWERS: dict[str, object] = {
    "no object": [],
    "no data": {},
    "data without a result": {"data": {}},
    "a result that is null": {"data": {"result": None}},
    "a result that is text": {"data": {"result": "x"}},
    "series without labels": {"data": {"result": [{"value": [0, "1"]}]}},
    "labels that are numbers": {"data": {"result": [{"metric": {"model": 3}, "value": [0, "1"]}]}},
    "a value that is none": {"data": {"result": [{"metric": {"__name__": "x"}, "value": "y"}]}},
    "a value of text": {
        "data": {"result": [{"metric": {"__name__": "x", "model": "m"}, "value": [0, "z"]}]}
    },
}


@pytest.mark.parametrize("kind", [*BAD, *ANSWERS])
def test_a_bad_prometheus_is_no_data(kind: str) -> None:
    """The same pages and some of its own."""
    talk = BAD[kind] if kind in BAD else _once(_answer(json.dumps(ANSWERS[kind]).encode()))
    with _server(talk) as url:
        source = PrometheusCounters(url, deadline_s=DEADLINE_S / 4)
        found = _bounded(lambda: source.sample(["m"]))
        assert isinstance(found, TritonUnavailable)
        assert not isinstance(found, ConfigError)


def test_a_deep_answer_of_a_prometheus_is_no_data() -> None:
    """Nesting beyond what the parser takes."""
    with _server(_once(_answer(b'{"data":' + b"[" * 100_000))) as url:
        found = _bounded(lambda: PrometheusCounters(url).sample(["m"]))
    assert isinstance(found, TritonUnavailable)
