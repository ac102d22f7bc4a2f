"""A way to Triton's metrics page that can lie."""

from __future__ import annotations

import contextlib
import gzip
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import requests

HONEST = "honest"
LIES = (
    "frozen",
    "zeroed",
    "negative",
    "halved",
    "nan",
    "empty",
    "error500",
    "drip",
    "bomb",
    "huge",
    "hang",
)
_VALUE = re.compile(rb"^(nv_[^#\n]*?) (\S+)$", re.MULTILINE)
_LONGEST_S = 30.0
_BOMB_BYTES = 240 * 2**20
_HUGE_BYTES = 150 * 2**20
_WORDS = {"zeroed": b"0", "negative": b"-5", "nan": b"NaN"}


class Proxy:
    """Serves what ``target`` serves, or a lie; ends with ``close``."""

    def __init__(self, target: str) -> None:
        """Listen on a free port."""
        self._target, self._lie, self._kept = target, HONEST, b""
        self._bomb = b""
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with contextlib.suppress(OSError):  # who asked has gone
                    proxy._answer(self)

            def log_message(self, *args: object) -> None:
                """Not on stderr."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True).start()

    @property
    def url(self) -> str:
        """Where the controller is pointed to."""
        return f"http://127.0.0.1:{self._server.server_port}/metrics"

    def lie(self, kind: str) -> None:
        """Begin to lie so; ``HONEST`` ends it."""
        if kind == "frozen":
            self._kept = self._page()
        if kind == "bomb" and not self._bomb:
            self._bomb = gzip.compress(b"#" * _BOMB_BYTES, compresslevel=1)
        self._lie = kind

    def close(self) -> None:
        """Listen no more."""
        self._lie = HONEST
        self._server.shutdown()
        self._server.server_close()

    def _page(self) -> bytes:
        """The true page; empty where there is none."""
        with contextlib.suppress(requests.RequestException):
            return requests.get(self._target, timeout=2).content
        return b""

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        """One page, as the lie of now has it."""
        kind = self._lie
        if kind == "hang":
            self._while(kind, lambda: None)
            return
        page = self._kept if kind == "frozen" else self._told(kind)
        honest_but_gone = kind == HONEST and not page
        handler.send_response(500 if kind == "error500" or honest_but_gone else 200)
        if kind == "bomb":
            handler.send_header("Content-Encoding", "gzip")
        handler.end_headers()
        if kind == "drip":
            self._while(kind, lambda: handler.wfile.write(b"#"))
        elif kind == "huge":
            for _ in range(_HUGE_BYTES // 2**20):
                if self._lie != kind:
                    return
                handler.wfile.write(b"# nothing\n" * (2**20 // 10))
        else:
            handler.wfile.write(self._bomb if kind == "bomb" else page)

    def _told(self, kind: str) -> bytes:
        """The page with its values changed."""
        if kind in ("empty", "error500", "drip", "bomb", "huge"):
            return b""
        page = self._page()
        if kind == "halved":
            return _VALUE.sub(lambda m: b"%s %r" % (m[1], float(m[2]) / 2), page)
        word = _WORDS.get(kind)
        return page if word is None else _VALUE.sub(rb"\1 " + word, page)

    def _while(self, kind: str, do: object) -> None:
        """Do it twice a second as long as the lie is this one, and never for long."""
        until_s = time.monotonic() + _LONGEST_S
        while self._lie == kind and time.monotonic() < until_s:
            do()  # type: ignore[operator]
            time.sleep(0.5)
