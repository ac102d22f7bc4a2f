"""``conch perf bench actuator``: resizes and reloads under load, and what they cost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.options import json_option
from cli.output import echo, to_json
from conch.errors import ThresholdMissed
from control import session
from control.action import Action
from control.lease import sole_writer
from serving.client import TritonClient
from serving.repository import Repository
from serving.runtime import endpoint as endpoints
from serving.runtime.endpoint import Endpoint

if TYPE_CHECKING:
    from perf.bench.actuator import ActuatorBench


@click.command()
@click.argument("model", default="minilm_int8")
@click.option(
    "--resizes",
    type=click.IntRange(0),
    default=100,
    show_default=True,
    help="In-place changes of the instance count.",
)
@click.option(
    "--reloads", type=click.IntRange(0), default=10, show_default=True, help="Full reloads."
)
@click.option(
    "--rate",
    type=click.FloatRange(1),
    default=50.0,
    show_default=True,
    help="Load beside them, req/s.",
)
@click.option("--shape", "shapes", multiple=True, help="NAME=SIZE, as for `perf run`.")
@click.option(
    "--repository",
    type=click.Path(path_type=Path, file_okay=False),
    help="The model repository that the server reads. [default: the local server's]",
)
@click.option("--url", metavar="HOST:PORT", help="Triton's gRPC address, or a local server's name.")
@json_option
def actuator(
    model: str,
    resizes: int,
    reloads: int,
    rate: float,
    shapes: tuple[str, ...],
    repository: Path | None,
    url: str | None,
    as_json: bool,
) -> None:
    """Resize and reload MODEL under load; exits with 5 when a request failed because of it.

    Uses the local server; where none runs, it starts one on the repository.

    \b
    Example:
      conch perf bench actuator --json
      conch perf bench actuator minilm_int8 --resizes 10 --reloads 2 --rate 100
    """
    with ExitStack() as stack:
        endpoint = stack.enter_context(_served(url, repository, model))
        repo = session.repository_of(endpoint, repository)
        stack.enter_context(sole_writer(repo))
        found = _measured(
            endpoint, repo, model, shapes, resizes=resizes, reloads=reloads, rate_rps=rate
        )
    data = found.as_json()
    if as_json:
        echo(to_json(data))
    else:
        echo(
            f"{data['requests']} requests at {rate:g} req/s, {data['failed']} failed, "
            f"p99 {data['p99_ms']} ms, slowest {data['slowest_ms']} ms"
        )
        for kind, took in data["actions"].items():
            echo(
                f"{took['count']} × {kind}: median {took['median_s']} s, slowest {took['max_s']} s"
            )
    if found.failed or found.rolled_back:
        raise ThresholdMissed(
            f"actuator: {found.failed} failed requests and {found.rolled_back} rolled back, "
            "must be 0.",
            hint="See the server's log.",
        )


@contextmanager
def _served(url: str | None, repository: Path | None, model: str) -> Iterator[Endpoint]:
    """The server that is asked for, the local one, or one started for this."""
    if url or endpoints.running():
        yield endpoints.resolve(url)
        return
    from serving.runtime.supervisor import TritonServer

    root = Repository(repository or Path("model_repository"))
    root.config_path(model)
    echo("No local server runs: starting one.", err=True)
    with TritonServer(root.root, models=[model], name="bench") as server:
        yield server.endpoint


def _measured(
    endpoint: Endpoint,
    repository: Repository,
    model: str,
    shapes: tuple[str, ...],
    *,
    resizes: int,
    reloads: int,
    rate_rps: float,
) -> ActuatorBench:
    """The benchmark with a line of progress every ten actions."""
    from perf.bench.actuator import bench_actuator
    from perf.inputs import make_inputs, parse_shapes
    from perf.replay import ReplayTarget

    done = 0

    def told(_: Action) -> None:
        nonlocal done
        done += 1
        if done % 10 == 0:
            echo(f"{done}/{resizes + reloads} actions", err=True)

    with TritonClient(endpoint.grpc_url, admin_key=endpoint.admin_key) as client:
        inputs = make_inputs(client.config(model), shapes=parse_shapes(shapes))
        return bench_actuator(
            client,
            repository,
            ReplayTarget(grpc_url=endpoint.grpc_url, model=model, inputs=inputs),
            resizes=resizes,
            reloads=reloads,
            rate_rps=rate_rps,
            on_action=told,
        )
