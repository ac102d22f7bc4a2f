"""Where a Triton answers, and how a command finds the one that runs on this machine.

``conch serve`` leaves a small file per server in the user's cache home (mode 0600: it holds the
admin key); every other command reads it. A file whose process is gone is ignored.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from conch import paths
from conch.errors import ConfigError, TritonUnavailable

ENV_URL = "CONCH_TRITON_URL"
ENV_METRICS_URL = "CONCH_METRICS_URL"
ENV_ADMIN_KEY = "CONCH_ADMIN_KEY"

DEFAULT_REPOSITORY = Path("model_repository")
"""Where commands look when they are told of no repository, in the folder they are called in."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_HOST_PORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:]+\]|[A-Za-z0-9._-]+):(?P<port>[0-9]{1,5})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One Triton: its ports, its admin key, and, when it is ours, its process and repository.

    Attributes:
        slots: executions at once on each device; None where it has no limit, or nobody knows one:
            a server cannot be asked.
    """

    name: str
    host: str
    http_port: int
    grpc_port: int
    metrics_port: int
    admin_key: str | None = None
    pid: int | None = None
    repository: Path | None = None
    slots: int | None = None
    explicit_metrics_url: str | None = None

    @property
    def grpc_url(self) -> str:
        """``host:port``, as tritonclient.grpc and perf_analyzer take it."""
        return f"{self.host}:{self.grpc_port}"

    @property
    def http_url(self) -> str:
        """``http://host:port``."""
        return f"http://{self.host}:{self.http_port}"

    @property
    def metrics_url(self) -> str:
        """``http://host:port/metrics``."""
        return self.explicit_metrics_url or f"http://{self.host}:{self.metrics_port}/metrics"


def run_dir() -> Path:
    """The folder of the files that describe running servers; it may not exist yet."""
    return paths.cache_dir() / "run"


def check_name(name: str) -> str:
    """The name, when it is fit for a file name.

    Raises:
        ConfigError: on anything but letters, digits, ``_`` and ``-`` (64 at most).
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"server name: {name!r}, allowed are letters, digits, '_' and '-' (64 at most).",
            hint="Choose another --name.",
        )
    return name


def save(endpoint: Endpoint) -> Path:
    """Write the endpoint's file (0600, atomically) and return its path."""
    folder = run_dir()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    data = asdict(endpoint)
    data["repository"] = str(endpoint.repository) if endpoint.repository else None
    data["pid_created_s"] = _created_s(endpoint.pid)
    path = folder / f"{check_name(endpoint.name)}.json"
    descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=".")  # mkstemp's mode is 0600
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(data, file, indent=1)
    Path(temporary).replace(path)
    return path


def remove(name: str) -> None:
    """Forget the server; it is no error when there is no file."""
    (run_dir() / f"{check_name(name)}.json").unlink(missing_ok=True)


def running() -> list[Endpoint]:
    """The local servers whose process lives, by name."""
    found = (_read(path) for path in sorted(run_dir().glob("*.json")))
    return [endpoint for endpoint in found if endpoint is not None]


def resolve(
    url: str | None = None,
    metrics_url: str | None = None,
    admin_key: str | None = None,
    *,
    repository: Path | None = None,
) -> Endpoint:
    """The server a command talks to: flag, else environment, else the one local server.

    Of several local servers it is the one that serves the repository that the command is about.

    An address that belongs to a local server brings that server's metrics address and key.
    For any other address the HTTP and metrics ports are taken as the gRPC port - 1 and + 1, as
    Triton's defaults are (8000, 8001, 8002), unless ``metrics_url`` says otherwise.

    Args:
        url: gRPC ``host:port``, or the name of a server that ``conch serve`` runs.
        metrics_url: ``http://host:port/metrics``.
        admin_key: for servers whose admin APIs are restricted.
        repository: what the command is about; by default `model_repository` in this folder.

    Raises:
        TritonUnavailable: when nothing is given and no local server runs, or several do of which
            not exactly one serves the repository.
        ConfigError: when an address cannot be read.
    """
    url = url or os.environ.get(ENV_URL) or None
    metrics_url = metrics_url or os.environ.get(ENV_METRICS_URL) or None
    admin_key = admin_key or os.environ.get(ENV_ADMIN_KEY) or None
    local = running()
    found = _by_url(url, local) if url else _only(local, repository)
    if metrics_url:
        found = replace(found, explicit_metrics_url=_metrics_url(metrics_url))
    return replace(found, admin_key=admin_key) if admin_key else found


def _by_url(url: str, local: list[Endpoint]) -> Endpoint:
    """The local server of that name or address, else a remote one."""
    for endpoint in local:
        if url in (endpoint.name, endpoint.grpc_url, f"localhost:{endpoint.grpc_port}"):
            return endpoint
    host, port = _host_port(url)
    return Endpoint(
        name="remote",
        host=host,
        grpc_port=port,
        http_port=port - 1,
        metrics_port=port + 1,
    )


def serving(repository: Path, local: Sequence[Endpoint]) -> list[Endpoint]:
    """Those of the local servers that serve this repository."""
    wanted = repository.resolve()
    return [one for one in local if one.repository and one.repository.resolve() == wanted]


def _only(local: list[Endpoint], repository: Path | None) -> Endpoint:
    """The one local server, or the one that serves the repository."""
    if len(local) == 1:
        return local[0]
    if not local:
        raise TritonUnavailable(
            "Triton: no address given and no local server runs.",
            hint="Start one with `conch serve`, or give its gRPC address with --url HOST:PORT.",
        )
    wanted = repository or DEFAULT_REPOSITORY
    fitting = serving(wanted, local)
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(f"{one.name} on {one.repository}" for one in local)
    count = f"{len(fitting)} of them serve" if fitting else "none of them serves"
    raise TritonUnavailable(
        f"Triton: {len(local)} local servers run ({names}), {count} {wanted.resolve()}.",
        hint=f"Say which one is meant: --url {' or --url '.join(o.name for o in fitting or local)}",
    )


def _host_port(url: str) -> tuple[str, int]:
    """The parts of ``host:port``."""
    match = _HOST_PORT.fullmatch(url.removeprefix("grpc://"))
    if not match or not 1 < int(match["port"]) < 65535:
        raise ConfigError(
            f"Triton address: {url!r}, must be the gRPC HOST:PORT or a local server's name.",
            hint="Example: --url 127.0.0.1:8001",
        )
    return match["host"], int(match["port"])


def _metrics_url(url: str) -> str:
    """The URL, when it is one; a missing path is taken as /metrics."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ConfigError(
            f"metrics address: {url!r}, must be http://HOST:PORT/metrics.",
            hint="Example: --metrics-url http://127.0.0.1:8002/metrics",
        )
    return url if parts.path.strip("/") else f"{url.rstrip('/')}/metrics"


def _read(path: Path) -> Endpoint | None:
    """The endpoint in a file; None when it is unreadable or its process is gone."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        created_s = data.pop("pid_created_s")
        data["repository"] = Path(data["repository"]) if data["repository"] else None
        endpoint = Endpoint(**data)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if endpoint.pid is None or created_s is None or _created_s(endpoint.pid) != created_s:
        return None
    return endpoint


def _created_s(pid: int | None) -> float | None:
    """When the process started; None when there is none. It tells a reused pid apart."""
    try:
        process = psutil.Process(pid) if pid else None
        return (
            process.create_time() if process and process.status() != psutil.STATUS_ZOMBIE else None
        )
    except psutil.Error:
        return None
