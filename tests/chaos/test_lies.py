"""The pages that lie do lie, and each in its way."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests

from serving import metrics
from tests.chaos.world.proxy import HONEST, Proxy

SERIES = 'nv_inference_request_success{model="m",version="1"}'
TIMEOUT_S = 20.0


class Page(BaseHTTPRequestHandler):
    """A counter that counts its readers."""

    count = 100

    def do_GET(self) -> None:
        """One more each time."""
        Page.count += 1
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"# TYPE x counter\n{SERIES} {Page.count}\n".encode())

    def log_message(self, *args: object) -> None:
        """Not on stderr."""


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """A proxy before such a page."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    made = Proxy(f"http://127.0.0.1:{server.server_port}/metrics")
    yield made
    made.close()
    server.shutdown()
    server.server_close()


def _seen(proxy: Proxy) -> float:
    text = requests.get(proxy.url, timeout=TIMEOUT_S).text
    return metrics.parse(text).models["m"].success


def test_an_honest_page_counts_on_and_a_frozen_one_does_not(proxy: Proxy) -> None:
    """And it is honest again afterwards."""
    assert _seen(proxy) < _seen(proxy)
    proxy.lie("frozen")
    first = _seen(proxy)
    assert _seen(proxy) == first
    proxy.lie(HONEST)
    assert _seen(proxy) > first


@pytest.mark.parametrize(("lie", "value"), [("zeroed", "0"), ("negative", "-5"), ("nan", "NaN")])
def test_values_are_replaced(proxy: Proxy, lie: str, value: str) -> None:
    """Comments and labels stay."""
    proxy.lie(lie)
    text = requests.get(proxy.url, timeout=TIMEOUT_S).text
    assert text.splitlines() == ["# TYPE x counter", f"{SERIES} {value}"]


def test_a_halved_page_has_half_of_it(proxy: Proxy) -> None:
    """A counter that grows at half its pace."""
    proxy.lie("halved")
    assert _seen(proxy) == Page.count / 2


def test_pages_without_a_page(proxy: Proxy) -> None:
    """Empty, an error, and 240 MiB in a quarter of one."""
    proxy.lie("empty")
    assert requests.get(proxy.url, timeout=TIMEOUT_S).content == b""
    proxy.lie("error500")
    assert requests.get(proxy.url, timeout=TIMEOUT_S).status_code == 500
    proxy.lie("bomb")
    answer = requests.get(proxy.url, timeout=TIMEOUT_S, stream=True)
    assert answer.headers["Content-Encoding"] == "gzip"
    assert len(answer.raw.read(decode_content=False)) < 2**22


@pytest.mark.parametrize("lie", ["drip", "hang"])
def test_a_page_that_never_ends_ends_with_the_lie(proxy: Proxy, lie: str) -> None:
    """Who asks for its whole waits until the lie is over."""
    proxy.lie(lie)
    threading.Timer(1.0, proxy.lie, args=(HONEST,)).start()
    try:
        assert requests.get(proxy.url, timeout=TIMEOUT_S).content.strip(b"#") == b""
    except requests.ConnectionError:
        assert lie == "hang"  # nothing was ever said
