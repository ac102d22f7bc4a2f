"""Which server a command talks to: flag, environment, the one local server."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from cli.options import server_options
from cli.repository_option import open_repository, repository_option
from conch.errors import ConfigError, TritonUnavailable
from serving.runtime import endpoint as endpoints
from serving.runtime.endpoint import Endpoint, resolve


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No server and no setting of this machine counts."""
    monkeypatch.setenv("CONCH_CACHE", str(tmp_path))
    for name in (endpoints.ENV_URL, endpoints.ENV_METRICS_URL, endpoints.ENV_ADMIN_KEY):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def local(name: str = "local", port: int = 5001) -> Endpoint:
    """A server of ours, whose process is this one."""
    return Endpoint(
        name=name,
        host="127.0.0.1",
        http_port=port - 1,
        grpc_port=port,
        metrics_port=port + 7,
        admin_key="secret",
        pid=os.getpid(),
        repository=Path("/models"),
    )


def test_endpoint_gives_urls_in_the_form_each_tool_takes() -> None:
    """gRPC without a scheme, HTTP with one, metrics with the path."""
    endpoint = local()
    assert endpoint.grpc_url == "127.0.0.1:5001"
    assert endpoint.http_url == "http://127.0.0.1:5000"
    assert endpoint.metrics_url == "http://127.0.0.1:5008/metrics"


def test_save_keeps_everything_and_is_private() -> None:
    """What is saved is what is found, readable by the owner only."""
    path = endpoints.save(replace(local(), slots=4))
    assert path.stat().st_mode & 0o777 == 0o600
    assert endpoints.running() == [replace(local(), slots=4)]
    endpoints.save(local())
    assert resolve() == local()


def test_remove_forgets_the_server_and_is_no_error_twice() -> None:
    """A stop after a stop does no harm."""
    endpoints.save(local())
    endpoints.remove("local")
    endpoints.remove("local")
    assert endpoints.running() == []


def test_running_ignores_a_server_whose_process_is_gone() -> None:
    """The pid is free, or belongs to a process that started at another time."""
    path = endpoints.save(local())
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"pid_created_s": data["pid_created_s"] - 100}))
    assert endpoints.running() == []
    path.write_text(json.dumps(data | {"pid": 2**22 + 1}))
    assert endpoints.running() == []


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"pid_created_s": 1}', "null"])
def test_running_ignores_a_broken_file(own_cache: Path, text: str) -> None:
    """A half-written or foreign file is no server, and no crash."""
    endpoints.save(local())
    (own_cache / "run" / "other.json").write_text(text)
    assert endpoints.running() == [local()]


def test_resolve_prefers_flag_to_environment_to_local(monkeypatch: pytest.MonkeyPatch) -> None:
    """The nearest word counts."""
    endpoints.save(local())
    monkeypatch.setenv(endpoints.ENV_URL, "envhost:6001")
    monkeypatch.setenv(endpoints.ENV_ADMIN_KEY, "envkey")
    assert resolve("flaghost:7001").grpc_url == "flaghost:7001"
    assert resolve().grpc_url == "envhost:6001"
    assert resolve().admin_key == "envkey"
    assert resolve(admin_key="flagkey").admin_key == "flagkey"


def test_resolve_brings_key_and_metrics_of_a_local_server_given_by_address_or_name() -> None:
    """Its own address, with localhost too, and its name are the same server."""
    endpoints.save(local())
    endpoints.save(local("other", 5101))
    for url in ("127.0.0.1:5101", "localhost:5101", "other"):
        assert resolve(url) == local("other", 5101)


def test_resolve_takes_neighbour_ports_for_a_remote_server() -> None:
    """8001 means 8000 and 8002, as Triton's defaults are; the metrics URL may say otherwise."""
    remote = resolve("triton.example:8001")
    assert remote.http_url == "http://triton.example:8000"
    assert remote.metrics_url == "http://triton.example:8002/metrics"
    assert remote.admin_key is None
    other = resolve("triton.example:8001", "http://metrics.example:9000")
    assert other.metrics_url == "http://metrics.example:9000/metrics"
    exact = resolve("triton.example:8001", "https://metrics.example/custom")
    assert exact.metrics_url == "https://metrics.example/custom"


def test_resolve_says_what_to_do_when_no_server_runs() -> None:
    """The hint is the command that starts one; the exit code is 4."""
    with pytest.raises(TritonUnavailable, match="no local server runs") as raised:
        resolve()
    assert "conch serve" in raised.value.hint
    assert raised.value.exit_code == 4


def two_servers(folder: Path) -> tuple[Endpoint, Endpoint]:
    """A stranger's, whose name comes first, and ours, on ``model_repository`` in this folder."""
    (folder / "model_repository").mkdir()
    stranger = replace(local("a-stranger", 5101), repository=folder / "elsewhere")
    ours = replace(local("ours"), repository=folder / "model_repository")
    endpoints.save(stranger)
    endpoints.save(ours)
    return stranger, ours


def test_resolve_takes_the_server_of_the_repository_that_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second server on the machine breaks no command; a path is the same by any spelling."""
    stranger, ours = two_servers(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "model_repository")
    assert resolve(repository=tmp_path / "model_repository") == ours
    assert resolve(repository=tmp_path / "x" / ".." / "link") == ours
    assert resolve(repository=tmp_path / "elsewhere") == stranger
    monkeypatch.chdir(tmp_path)
    assert resolve() == ours
    assert resolve("a-stranger") == stranger
    monkeypatch.setenv(endpoints.ENV_URL, "a-stranger")
    assert resolve(repository=tmp_path / "model_repository") == stranger  # said is said


def test_resolve_asks_which_when_no_server_is_the_one_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It never picks one by itself; names come with their repositories, the hint fits."""
    two_servers(tmp_path)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(TritonUnavailable, match=r"2 local servers run .* none of them") as raised:
        resolve()
    assert f"a-stranger on {tmp_path / 'elsewhere'}" in raised.value.message
    assert f"ours on {tmp_path / 'model_repository'}" in raised.value.message
    assert "--url a-stranger or --url ours" in raised.value.hint
    endpoints.save(replace(local("second", 5201), repository=tmp_path / "model_repository"))
    with pytest.raises(TritonUnavailable, match="2 of them serve") as raised:
        resolve(repository=tmp_path / "model_repository")
    assert raised.value.hint.endswith("--url ours or --url second")


def test_commands_find_the_server_of_their_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By ``--repository`` where there is one, else by this folder."""
    _, ours = two_servers(tmp_path)
    monkeypatch.chdir(tmp_path)
    found: list[Endpoint] = []

    @click.command()
    @repository_option
    @server_options
    def with_repository(repository: Path | None, endpoint: Endpoint) -> None:
        found.append(endpoint)

    @click.command()
    @server_options
    def without(endpoint: Endpoint) -> None:
        found.append(endpoint)

    for command, given in (
        (with_repository, []),
        (without, []),
        (with_repository, ["--repository", "model_repository"]),
        (with_repository, ["--repository", str(tmp_path / "elsewhere")]),
    ):
        result = CliRunner().invoke(command, given)
        assert result.exception is None, result.exception
    assert [one.name for one in found] == ["ours", "ours", "ours", "a-stranger"]
    assert open_repository(None).root == ours.repository


@pytest.mark.parametrize("url", ["nothing", "host:", "host:0", "host:99999", "http://h:1", "a b:1"])
def test_resolve_refuses_what_is_no_address(url: str) -> None:
    """A typo is an error of its own, not a time-out later."""
    with pytest.raises(ConfigError, match="Triton address"):
        resolve(url)


@pytest.mark.parametrize("url", ["host:8002", "ftp://host/metrics", "http://"])
def test_resolve_refuses_what_is_no_metrics_url(url: str) -> None:
    """The metrics address is a whole URL."""
    with pytest.raises(ConfigError, match="metrics address"):
        resolve("host:8001", url)


@pytest.mark.parametrize("name", ["", "../evil", "a/b", "a b", "x" * 65, ".hidden"])
def test_server_names_are_fit_for_file_names(name: str) -> None:
    """No path comes out of a name."""
    with pytest.raises(ConfigError, match="server name"):
        endpoints.check_name(name)
