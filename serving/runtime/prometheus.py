"""A local Prometheus that scrapes given metrics pages every second, for tests, demo and history."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from conch.errors import ConchError
from serving.runtime.command import LOOPBACK
from serving.runtime.ports import free_ports

ENV_BINARY = "CONCH_PROMETHEUS"
INSTALL_COMMAND = "sudo apt-get install --no-install-recommends prometheus"
_START_S = 20.0
_STOP_S = 10.0


class PrometheusError(ConchError):
    """No Prometheus binary, or it did not start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrometheusServer:
    """A Prometheus that runs: where it answers, its process, its log."""

    url: str
    pid: int
    log_path: Path


def find() -> Path | None:
    """The binary: ``CONCH_PROMETHEUS``, else ``prometheus`` on PATH; None when there is none."""
    found = shutil.which(os.environ.get(ENV_BINARY) or "prometheus")
    return Path(found) if found else None


def scrape_config(targets: Mapping[str, str], *, interval_s: int = 1) -> str:
    """The YAML that scrapes each metrics page.

    Args:
        targets: metrics URL by job name.
        interval_s: between two scrapes, whole seconds.
    """
    jobs = []
    for job, url in targets.items():
        parts = urlsplit(url)
        jobs.append(
            {
                "job_name": job,
                "scheme": parts.scheme,
                "metrics_path": parts.path or "/metrics",
                "static_configs": [{"targets": [parts.netloc]}],
            }
        )
    interval = f"{interval_s}s"
    settings = {"scrape_interval": interval, "scrape_timeout": interval}
    return yaml.safe_dump({"global": settings, "scrape_configs": jobs}, sort_keys=False)


@contextlib.contextmanager
def running(
    targets: Mapping[str, str], *, interval_s: int = 1, folder: Path | None = None
) -> Iterator[PrometheusServer]:
    """A Prometheus on a free loopback port, gone with its data at the end of the block.

    Args:
        targets: metrics URL by job name.
        interval_s: between two scrapes, whole seconds.
        folder: for config, data and log; by default a temporary one.

    Raises:
        PrometheusError: when there is no binary, or it does not get ready.
    """
    binary = find()
    if binary is None:
        raise PrometheusError(
            "Prometheus: not found on PATH.", hint=f"Install it: {INSTALL_COMMAND}"
        )
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="conch-prometheus-"))
            )
        (folder / "prometheus.yml").write_text(scrape_config(targets, interval_s=interval_s))
        (port,) = free_ports([0])
        process = _spawn(binary, folder, port)
        stack.callback(_stop, process)
        server = PrometheusServer(
            url=f"http://{LOOPBACK}:{port}", pid=process.pid, log_path=folder / "prometheus.log"
        )
        _wait_ready(server, process)
        yield server


def _spawn(binary: Path, folder: Path, port: int) -> subprocess.Popen[bytes]:
    """The process, its output in the folder's log."""
    with (folder / "prometheus.log").open("ab") as log:
        return subprocess.Popen(
            [
                str(binary),
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={LOOPBACK}:{port}",
                "--storage.tsdb.retention.time=1d",
                "--log.level=warn",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _wait_ready(server: PrometheusServer, process: subprocess.Popen[bytes]) -> None:
    """Return when it says it is ready."""
    until_s = time.monotonic() + _START_S
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is on this machine
    while time.monotonic() < until_s and process.poll() is None:
        with (
            contextlib.suppress(urllib.error.URLError, OSError),
            direct.open(f"{server.url}/-/ready", timeout=1.0) as answer,
        ):
            if answer.status == 200:
                return
        time.sleep(0.05)
    lines = server.log_path.read_text(errors="replace").strip().splitlines() or ["no output"]
    raise PrometheusError(
        f"Prometheus: did not get ready ({lines[-1]}).", hint=f"Its log: {server.log_path}"
    )


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end, and see to it."""
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
