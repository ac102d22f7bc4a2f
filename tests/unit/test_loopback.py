"""Which hosts are this machine, and what the environment says of proxies for them."""

from __future__ import annotations

import os
import urllib.request

import pytest
import requests.utils

from cli import main as cli_main
from conch.loopback import DIRECT, grpc_options, is_loopback, no_proxy_environment
from perf.perf_analyzer_binary import PerfAnalyzer


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.255.0.9", "::1", "[::1]", "localhost", "LOCALHOST.", "a.localhost"]
)
def test_hosts_of_this_machine(host: str) -> None:
    """All of 127.0.0.0/8, the one address of IPv6, and the name."""
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["", "128.0.0.1", "10.0.0.1", "::2", "localhost.evil.example", "127.0.0.1.nip.io", "0"]
)
def test_hosts_elsewhere(host: str) -> None:
    """A name that only looks like it goes its usual way."""
    assert not is_loopback(host)


def test_grpc_options_are_for_loopback_only() -> None:
    """A remote server may well be behind a proxy."""
    for address in ("127.0.0.1:8001", "localhost:8001", "[::1]:8001", "grpc://127.0.0.1:8001"):
        assert grpc_options(address) == (("grpc.enable_http_proxy", 0),)
    assert grpc_options("triton.example:8001") == ()


def test_what_is_excepted_stays_excepted() -> None:
    """Both spellings get the words of both; other variables are untouched."""
    given = {"no_proxy": "a.example, b.example", "NO_PROXY": "c.example", "http_proxy": "x"}
    found = no_proxy_environment(given)
    words = ",".join(["a.example", "b.example", "c.example", *DIRECT])
    assert found == {"no_proxy": words, "NO_PROXY": words, "http_proxy": "x"}
    assert no_proxy_environment(found) == found  # twice is once
    assert no_proxy_environment({"no_grpc_proxy": "d"})["no_grpc_proxy"] == ",".join(["d", *DIRECT])
    assert "no_grpc_proxy" not in no_proxy_environment({})


@pytest.fixture
def office(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxies in every variable."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy"):
        for spelling in (name, name.upper()):
            monkeypatch.setenv(spelling, "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "")  # and so it is restored afterwards
    monkeypatch.setenv("NO_PROXY", "corp.example")


def test_a_command_asks_no_proxy_for_this_machine(
    office: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever library it uses: urllib and requests read the same variables."""
    monkeypatch.setattr(cli_main.root, "main", lambda **_: 0)
    with pytest.raises(SystemExit):
        cli_main.main()
    for host in ("127.0.0.1", "localhost"):
        assert urllib.request.proxy_bypass(f"{host}:8002")
    for host in ("127.0.0.1", "127.0.0.2", "localhost", "[::1]", "corp.example"):
        url = f"http://{host}:8002/metrics"
        assert requests.utils.get_environ_proxies(url) == {}, url
    assert requests.utils.get_environ_proxies("http://triton.example:8002/metrics")


def test_perf_analyzer_s_environment_excepts_this_machine(office: None, tmp_path) -> None:
    """Also where the library is used without the command line."""
    for library in (None, tmp_path):
        found = PerfAnalyzer(path=tmp_path, library_path=library, origin="").environment()
        assert "127.0.0.1" in found["no_proxy"]
        assert "corp.example" in found["no_proxy"]
    assert not os.environ["no_proxy"]
