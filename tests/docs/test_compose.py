"""docker-compose.yml, the control plane's image and its list of packages, without an engine."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
PROFILES = ("cpu", "gpu")
BINARY = Path(sys.executable).with_name("docker-compose")
KEY = "0123456789abcdef"


def compose(
    *arguments: str, file: Path = COMPOSE, key: str | None = KEY
) -> subprocess.CompletedProcess[str]:
    """docker-compose with nothing of the caller's own settings."""
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    if key is not None:
        environment["TRITON_ADMIN_KEY"] = key
    return subprocess.run(
        [str(BINARY), "--env-file", os.devnull, "-f", str(file), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=file.parent,
        env=environment,
    )


@pytest.fixture(scope="module", params=PROFILES)
def services(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The services of one profile, resolved."""
    done = compose("--profile", request.param, "config", "--format", "json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["services"]
    return found


def triton(services: dict[str, Any]) -> dict[str, Any]:
    """The one Triton of a profile."""
    found = [service for name, service in services.items() if name.startswith("triton")]
    assert len(found) == 1
    return dict(found[0])


@pytest.mark.parametrize("profile", PROFILES)
def test_compose_is_valid_with_a_key(profile: str):
    """Both profiles pass Compose's own check."""
    done = compose("--profile", profile, "config", "-q")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("key", [None, ""])
def test_compose_is_refused_without_a_key(key: str | None):
    """The admin APIs must never be open because somebody forgot a variable."""
    done = compose("--profile", "cpu", "config", "-q", key=key)
    assert done.returncode != 0
    assert "TRITON_ADMIN_KEY" in done.stderr


def test_compose_is_refused_when_a_key_is_misspelt(tmp_path: Path):
    """The check above can fail: Compose knows every key."""
    broken = tmp_path / "docker-compose.yml"
    broken.write_text(COMPOSE.read_text(encoding="utf-8").replace("shm_size:", "shm_sise:"))
    done = compose("--profile", "cpu", "config", "-q", file=broken)
    assert done.returncode != 0
    assert "shm_sise" in done.stderr


def test_compose_publishes_on_loopback_only(services: dict[str, Any]):
    """Nothing can be reached from another host; Triton's metrics not even from this one."""
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert {port["host_ip"] for port in ports} == {"127.0.0.1"}
    assert {port["target"] for port in triton(services)["ports"]} == {8000, 8001}


def test_compose_mounts_models_read_only_for_triton_alone(services: dict[str, Any]):
    """Only the control plane writes the repository, and both see the same one."""
    (served,) = triton(services)["volumes"]
    (written,) = (
        volume
        for volume in services["control"]["volumes"]
        if volume["target"].endswith("model_repository")
    )
    assert served["read_only"] is True
    assert not written.get("read_only")
    assert served["source"] == written["source"]


def test_compose_guards_every_admin_api_of_triton(services: dict[str, Any]):
    """Whoever may load a model may run code; the key is the control plane's too."""
    apis = {"model-repository", "model-config", "shared-memory", "trace", "logging", "statistics"}
    rules = [
        argument.partition("=")[2]
        for argument in triton(services)["command"]
        if argument.startswith(("--http-restricted-api", "--grpc-restricted-protocol"))
    ]
    assert len(rules) == 2
    for rule in rules:
        names, _, secret = rule.partition(":")
        assert set(names.split(",")) == apis
        assert secret == f"x-admin-key={KEY}"
    assert services["control"]["environment"]["CONCH_ADMIN_KEY"] == KEY


def test_compose_services_run_with_least_rights(services: dict[str, Any]):
    """No service runs as root, keeps a capability, or writes its own image."""
    for name, service in services.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["read_only"] is True, name
        assert not service["user"].startswith(("0:", "root")), name
        assert "healthcheck" in service or "build" in service, name
        assert "stop_grace_period" in service, name


def test_compose_builds_engines_before_triton_starts_and_on_its_gpu_only():
    """One shot, on the GPU that serves, into the repository that Triton reads."""
    resolved = {}
    for profile in PROFILES:
        done = compose("--profile", profile, "config", "--format", "json")
        resolved[profile] = json.loads(done.stdout)["services"]
    assert "build-engines" not in resolved["cpu"]
    builder, server = (resolved["gpu"][name] for name in ("build-engines", "triton-gpu"))
    assert builder["restart"] == "no"
    assert builder["network_mode"] == "none"
    condition = server["depends_on"]["build-engines"]["condition"]
    assert condition == "service_completed_successfully"
    reserved = [s["deploy"]["resources"]["reservations"]["devices"] for s in (builder, server)]
    assert reserved[0] == reserved[1]
    (written,), (served,) = builder["volumes"], server["volumes"]
    assert written["source"] == served["source"]
    assert not written.get("read_only")


def test_compose_builds_engines_by_the_release_that_serves_them():
    """A plan runs only in the TensorRT that built it: both images are of one month."""
    text = COMPOSE.read_text(encoding="utf-8") + (ROOT / ".env.example").read_text(encoding="utf-8")
    text += (ROOT / "deploy/Dockerfile.engines").read_text(encoding="utf-8")
    releases = re.findall(r"nvcr\.io/nvidia/(?:tritonserver|tensorrt):(\d\d\.\d\d)-py3", text)
    assert len(releases) == 5
    assert len(set(releases)) == 1


def test_compose_waits_longer_than_triton_needs_to_stop(services: dict[str, Any]):
    """A shorter grace period would kill running inferences."""
    server = triton(services)
    (timeout,) = (a.partition("=")[2] for a in server["command"] if "--exit-timeout-secs" in a)
    assert int(server["stop_grace_period"].removesuffix("s")) > int(timeout)


def test_prometheus_scrapes_triton_by_its_name_in_the_network(services: dict[str, Any]):
    """The address of the scrape is one that the network knows."""
    path = ROOT / "deploy/prometheus/prometheus.yml"
    jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["scrape_configs"]
    targets = {t for job in jobs for static in job["static_configs"] for t in static["targets"]}
    (alias,) = triton(services)["networks"]["serving"]["aliases"]
    assert f"{alias}:8002" in targets
    assert "serving" in services["prometheus"]["networks"]


def test_env_example_has_every_variable_and_no_other():
    """What can be set is written down, and what is written down can be set."""
    used = set(re.findall(r"\$\{([A-Z_]+)", COMPOSE.read_text(encoding="utf-8")))
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    assert set(re.findall(r"^([A-Z_]+)=", example, flags=re.MULTILINE)) == used - {"CONCH_TAG"}


def requirements() -> list[Requirement]:
    """The image's packages as written."""
    text = (ROOT / "deploy/requirements.txt").read_text(encoding="utf-8")
    return [Requirement(line) for line in text.splitlines() if line and line[0] != "#"]


def closure(wanted: list[Requirement]) -> set[str]:
    """Names of these distributions and of all that they need, from what is installed here."""
    found: set[tuple[str, frozenset[str]]] = set()
    todo = [(canonicalize_name(r.name), frozenset(r.extras)) for r in wanted]
    while todo:
        name, extras = todo.pop()
        if (name, extras) in found:
            continue
        found.add((name, extras))
        for text in importlib.metadata.requires(name) or ():
            below = Requirement(text)
            choices = [{"extra": extra} for extra in (*extras, "")]
            if below.marker is None or any(below.marker.evaluate(choice) for choice in choices):
                todo.append((canonicalize_name(below.name), frozenset(below.extras)))
    return {name for name, _ in found}


def test_image_requirements_are_dependencies_of_conch():
    """The image takes a part of pyproject's list, nothing of its own."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    known = {canonicalize_name(Requirement(text).name) for text in project["dependencies"]}
    assert {canonicalize_name(r.name) for r in requirements()} <= known


def test_image_requirements_are_pinned_with_all_they_need():
    """`-c constraints.txt` pins every package of the image."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {canonicalize_name(line.partition("==")[0]) for line in lines if "==" in line}
    assert closure(requirements()) <= pinned


def test_control_plane_imports_only_what_its_image_has():
    """Every other installed package is hidden, and the commands of the images still start."""
    allowed = closure(requirements())
    hidden = sorted(
        module
        for module, owners in importlib.metadata.packages_distributions().items()
        if not {canonicalize_name(owner) for owner in owners} & {*allowed, "conch-serving"}
    )
    program = f"""
import sys
hidden = set({hidden!r})
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"not in the image: {{name}}", name=name)
sys.meta_path.insert(0, Hide())
import control.session
from cli.main import root
for command in (["control"], ["repo"], ["export", "build-engines"]):
    root.main([*command, "--help"], standalone_mode=False)
import export.tensorrt.builder
print("started")
"""
    assert "torch" in hidden
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert done.stdout.endswith("started\n"), done.stderr
