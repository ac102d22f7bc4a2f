"""A repository of hostile names: nothing of it runs, nothing hangs, the harmless are served."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import tritonclient.grpc as triton
from structlog.testing import capture_logs
from tritonclient.utils import InferenceServerException

from serving import check, hazards
from serving.client import ADMIN_HEADER, TritonClient, channel_options
from serving.repository import Repository
from serving.runtime.supervisor import TritonServer
from tests.integration import scripted
from tests.integration.conftest import StartServer, wait_until
from tests.integration.load import ONES
from tests.integration.onnx_models import publish_double

READ_BY_A_SHELL = [
    "$(touch${IFS}CANARY)",
    "`touch${IFS}CANARY`",
    ";touch CANARY;",
    "&touch CANARY&",
    "|touch CANARY",
    "\ntouch CANARY\n",
    "';touch CANARY;'",
    '";touch CANARY;"',
    " a b",
]
FIELDS = {
    "file": 'default_model_filename: "m{}.py"',
    "gpu_file": 'cc_model_filenames {{ key: "9.0" value: "{}" }}',
    "group": 'instance_group {{ name: "g{}" count: 1 kind: KIND_CPU }}',
    "environment": ('parameters {{ key: "EXECUTION_ENV_PATH" value {{ string_value: "{}" }} }}'),
    "backend": 'backend: "python{}"',
    "runtime": 'runtime: "model{}.py"',
    "platform": 'platform: "python{}"',
}


def canaries(*roots: Path) -> list[str]:
    """The files that a shell would have made."""
    return [str(path) for root in roots for path in root.rglob("CANARY*")]


def quoted(text: str) -> str:
    """As a string of protobuf's text format."""
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def write_hostile(root: Path, folder: Path) -> set[str]:
    """One model for each string in each place; gives the names of their folders."""
    names = set()
    for number, text in enumerate(READ_BY_A_SHELL):
        scripted.publish(root, f"folder{number}{text}")
        names.add(f"folder{number}{text}")
        environment = folder / f"env{text}"
        (environment / "bin").mkdir(parents=True)
        (environment / "bin" / "activate").write_text("touch CANARY")
        for field, form in FIELDS.items():
            name = f"{field}{number}"
            scripted.publish(root, name)
            model = root / name / "1" / "model.py"
            (model.parent / f"m{text}.py").write_text(model.read_text())
            path = root / name / "config.pbtxt"
            kept = "" if field in ("backend", "platform") else 'backend: "python"\n'
            path.write_text(
                path.read_text().replace('backend: "python"\n', kept)
                + form.format(quoted(str(environment) if field == "environment" else text))
            )
            names.add(name)
        scripted.publish_ensemble(root, f"around{number}", f"folder{number}{quoted(text)}")
        names.add(f"around{number}")
    return names


def test_nothing_of_a_hostile_repository_runs(
    tmp_path: Path, start_server: StartServer, connect: Callable[[TritonServer], TritonClient]
) -> None:
    """Each hostile model is left out with a line, `repo check` agrees, the others are served."""
    root, folder = tmp_path / "repository", tmp_path / "other"
    names = write_hostile(root, folder)
    for name in ("tag", "waits", "old"):
        scripted.publish(root, name)
    with (root / "tag" / "config.pbtxt").open("a") as config:
        config.write('metric_tags { key: "no-label" value: "v" }')
    (root / "waits" / "1" / "model.py").unlink()
    (root / "old" / "1").rename(root / "old" / "1_old")
    publish_double(root, "harmless")
    names |= {"tag", "waits", "old"}
    log = folder / "log" / "triton.log"
    server = start_server(root, log_path=log)
    assert {m.name for m in server.models if m.left_out} == names
    assert [m.name for m in server.models if m.ready] == ["harmless"]
    assert canaries(tmp_path, Path.cwd()) == []
    faults = {f.model for f in check.check(Repository(root)) if f.severity == "fault"}
    assert faults >= names - {n for n in names if n.startswith("around")}
    assert "harmless" not in faults
    with capture_logs() as logs:
        os.kill(server.endpoint.pid or 0, 9)
        assert wait_until(lambda: server.restart_count == 1, 60)
    left_out = [e["model"] for e in logs if e["event"] == "model.left_out"]
    assert set(left_out) == names
    assert len(left_out) == len(names)
    assert canaries(tmp_path, Path.cwd()) == []
    assert connect(server).index()["harmless"] == "READY"


def test_a_config_that_becomes_hostile_is_left_out_at_the_next_start(
    tmp_path: Path, start_server: StartServer
) -> None:
    """The watcher's restart looks again."""
    scripted.publish(tmp_path, "edited")
    scripted.publish(tmp_path, "other")
    server = start_server(tmp_path)
    with (tmp_path / "edited" / "config.pbtxt").open("a") as config:
        config.write('default_model_filename: "m$(touch${IFS}CANARY).py"')
    os.kill(server.endpoint.pid or 0, 9)
    assert wait_until(lambda: server.restart_count == 1, 60)
    assert {m.name: m.left_out for m in server.models} == {"edited": True, "other": False}
    assert canaries(tmp_path, server.log_path.parent) == []


@pytest.mark.parametrize(
    ("field", "text", "runs"),
    [
        ("group", "$(touch${IFS}CANARY)", True),
        ("file", "&touch CANARY&", True),
        ("backend", "$(touch${IFS}CANARY)", False),
    ],
)
def test_what_a_shell_reads_on_2_51(tmp_path: Path, field: str, text: str, runs: bool) -> None:
    """Given to Triton past our own check: why there is one. When this fails, it is mended there."""
    root, log = tmp_path / "repository", tmp_path / "log" / "triton.log"
    scripted.publish(root, "harmless")
    with TritonServer(root, log_path=log, restart=False, exit_timeout_s=0) as server:
        scripted.publish(root, "hostile")
        path = root / "hostile" / "config.pbtxt"
        backend = "" if field == "backend" else 'backend: "python"\n'
        config = path.read_text().replace('backend: "python"\n', backend)
        path.write_text(config + FIELDS[field].format(quoted(text)))
        assert "hostile" in hazards.left_out(Repository(root))
        url = server.endpoint.grpc_url
        headers = {f"triton-grpc-protocol-{ADMIN_HEADER}": server.endpoint.admin_key}
        with triton.InferenceServerClient(url, channel_args=channel_options(url)) as client:
            with contextlib.suppress(InferenceServerException):
                client.load_model("hostile", headers=headers, client_timeout=5)
            if runs:
                assert wait_until(lambda: bool(canaries(tmp_path)))
        os.kill(server.endpoint.pid or 0, 9)
    assert bool(canaries(tmp_path)) is runs


def test_serve_starts_where_a_proxy_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An office machine without NO_PROXY: nothing on loopback goes through it."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    scripted.publish(tmp_path / "repository", "m")
    log = tmp_path / "log" / "triton.log"
    with TritonServer(tmp_path / "repository", log_path=log, start_timeout_s=60) as server:
        assert [m.ready for m in server.models] == [True]
        with TritonClient(server.endpoint.grpc_url) as client:
            client.infer("m", {"x": ONES})
