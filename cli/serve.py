"""``conch serve``: a local Triton in the foreground."""

from __future__ import annotations

import contextlib
import signal
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from cli.options import json_option
from cli.output import echo, to_json
from conch.errors import ConchError
from conch.units import SIZE
from serving import slots as serving_slots
from serving.repository import Repository
from serving.runtime import endpoint as endpoints
from serving.runtime import prometheus
from serving.runtime.endpoint import Endpoint
from serving.runtime.readiness import ModelReadiness
from serving.runtime.supervisor import TritonServer


@click.command()
@click.option(
    "--repository",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("model_repository"),
    show_default=True,
    help="The model repository.",
)
@click.option("--model", "models", multiple=True, help="Load only this one; repeatable.")
@click.option("--name", default="local", show_default=True, help="How other commands call it.")
@click.option("--http-port", default=0, help="Port of HTTP. [default: a free one]")
@click.option("--grpc-port", default=0, help="Port of gRPC. [default: a free one]")
@click.option("--metrics-port", default=0, help="Port of the metrics. [default: a free one]")
@click.option(
    "--cache",
    "cache_bytes",
    type=SIZE,
    default=0,
    help="Size of the response cache, e.g. 64MiB, for models that enable it. [default: none]",
)
@click.option(
    "--slots",
    type=click.IntRange(1, serving_slots.MOST),
    help="Executions at once on each device, shared by the models that ask for a slot "
    "(`conch repo slots`). [default: as many as there are instances]",
)
@click.option("--prometheus", "with_prometheus", is_flag=True, help="Keep a history beside it.")
@json_option
def serve(
    repository: Path,
    models: tuple[str, ...],
    name: str,
    http_port: int,
    grpc_port: int,
    metrics_port: int,
    cache_bytes: int,
    slots: int | None,
    with_prometheus: bool,
    as_json: bool,
) -> None:
    """Run a local Triton on a model repository until Ctrl-C.

    The server answers on loopback only; load, unload and the like need a key made at the start,
    which the other commands find by themselves. A Triton that dies is started again.

    \b
    Example:
      conch serve --repository model_repository
      conch serve --slots 4
      conch serve --model minilm_int8 --http-port 8000 --grpc-port 8001 --metrics-port 8002
    """
    _refuse_second(name)
    server = TritonServer(
        repository,
        models=models or None,
        name=name,
        http_port=http_port,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        cache_bytes=cache_bytes,
        slots=slots,
        on_restart=lambda endpoint: _ignore(endpoints.save(endpoint)),
    )
    echo(f"Starting Triton {server.binary.version} on {repository} ...", err=True)
    with contextlib.ExitStack() as stack:
        stack.enter_context(server)
        stack.callback(endpoints.remove, name)
        endpoints.save(server.endpoint)
        prometheus_url = None
        if with_prometheus:
            targets = {"triton": server.endpoint.metrics_url}
            prometheus_url = stack.enter_context(prometheus.running(targets)).url
        _show(server, prometheus_url, as_json)
        _wait_for_signal()
        echo("Draining and stopping ...", err=True)
    echo("Stopped.", err=True)


def _wait_for_signal() -> None:
    """Return at the first SIGINT or SIGTERM; after that they end the process as they usually do."""
    stop = threading.Event()
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = {kind: signal.signal(kind, lambda *_: stop.set()) for kind in kinds}
    try:
        stop.wait()
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def _refuse_second(name: str) -> None:
    """Two servers may not share a name: commands could not tell them apart."""
    endpoints.check_name(name)
    for other in endpoints.running():
        if other.name == name:
            raise click.UsageError(
                f"a server named {name!r} runs already (pid {other.pid}); stop it, or use --name."
            )


def _show(server: TritonServer, prometheus_url: str | None, as_json: bool) -> None:
    """Where it answers, what it serves, and what to try next."""
    endpoint = server.endpoint
    if as_json:
        echo(to_json(_as_json(server, prometheus_url), indent=None))
        return
    echo(f"HTTP     {endpoint.http_url}")
    echo(f"gRPC     {endpoint.grpc_url}")
    echo(f"metrics  {endpoint.metrics_url}")
    if prometheus_url:
        echo(f"history  {prometheus_url}")
    for model in server.models:
        echo(f"model    {model.name}: {_state(model)}")
    for line in _slot_lines(endpoint, server.models):
        echo(line, err=True)
    if not server.models:
        echo("model    none: publish one with `conch export run RECIPE`", err=True)
    echo(f"Log: {server.log_path}", err=True)
    echo("Next, in another terminal (Ctrl-C here stops the server):", err=True)
    for line in _next_lines(server, endpoint):
        echo(f"  {line}", err=True)


def _state(model: ModelReadiness) -> str:
    """What became of a model at the start."""
    if model.probe_s is not None:
        return f"ready, first inference {1000 * model.probe_s:.1f} ms"
    return f"{'left out' if model.left_out else 'NOT READY'}: {model.reason}"


def _slot_lines(endpoint: Endpoint, models: tuple[ModelReadiness, ...]) -> list[str]:
    """How executions are shared, and which models do not take part as is meant."""
    if endpoint.slots is None or endpoint.repository is None:
        return []
    lines = [f"slots    {endpoint.slots} executions at once on each device"]
    repository = Repository(endpoint.repository)
    for model in models:
        if model.ready:
            with contextlib.suppress(ConchError):  # it may be another by now
                config = repository.read_config(model.name)
                if said := serving_slots.remark(config, endpoint.slots):
                    lines.append(f"slots    {model.name} {said}")
    return lines


def _next_lines(server: TritonServer, endpoint: Endpoint) -> list[str]:
    """Commands that work on this very server."""
    name = next((model.name for model in server.models if model.ready), None)
    lines = [f"curl -s {endpoint.http_url}/v2"]
    if name:
        lines += [
            f"curl -s {endpoint.http_url}/v2/models/{name}/config",
            f"conch perf run {name} --rate 50",
        ]
    return lines


def _as_json(server: TritonServer, prometheus_url: str | None) -> dict[str, Any]:
    """The same facts for programs. Without the key: output ends up in logs."""
    endpoint = server.endpoint
    return {
        "name": endpoint.name,
        "pid": endpoint.pid,
        "triton_version": server.binary.version,
        "http_url": endpoint.http_url,
        "grpc_url": endpoint.grpc_url,
        "metrics_url": endpoint.metrics_url,
        "prometheus_url": prometheus_url,
        "repository": str(endpoint.repository),
        "slots": endpoint.slots,
        "log": str(server.log_path),
        "models": [asdict(model) | {"ready": model.ready} for model in server.models],
    }


def _ignore(_: object) -> None:
    """For callbacks that must give nothing back."""
