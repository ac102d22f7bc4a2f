"""``conch perf bench actuator``: resizes and reloads under load, and what they cost."""

from __future__ import annotations

import json
from pathlib import Path

import click

from cli.options import json_option, server_options
from conch.errors import ThresholdMissed
from control import session
from control.actuator import Action
from serving.client import TritonClient
from serving.runtime.endpoint import Endpoint


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
@json_option
@server_options
def actuator(
    model: str,
    resizes: int,
    reloads: int,
    rate: float,
    shapes: tuple[str, ...],
    repository: Path | None,
    as_json: bool,
    endpoint: Endpoint,
) -> None:
    """Resize and reload MODEL under load.

    Exits with 5 when a request failed because of it.

    \b
    Example:
      conch perf bench actuator --json
      conch perf bench actuator minilm_int8 --resizes 10 --reloads 2 --rate 100
    """
    from control.loop import sole_writer
    from perf.bench.actuator import bench_actuator
    from perf.inputs import make_inputs, parse_shapes
    from perf.replay import ReplayTarget

    repo = session.repository_of(endpoint, repository)
    wanted = parse_shapes(shapes or ("sequence=32",))
    done = 0

    def told(_: Action) -> None:
        nonlocal done
        done += 1
        if done % 10 == 0:
            click.echo(f"{done}/{resizes + reloads} actions", err=True)

    with (
        sole_writer(repo),
        TritonClient(endpoint.grpc_url, admin_key=endpoint.admin_key) as client,
    ):
        inputs = make_inputs(client.config(model), shapes=wanted)
        target = ReplayTarget(grpc_url=endpoint.grpc_url, model=model, inputs=inputs)
        found = bench_actuator(
            client,
            repo,
            target,
            resizes=resizes,
            reloads=reloads,
            rate_rps=rate,
            on_action=told,
        )
    data = found.as_json()
    if as_json:
        click.echo(json.dumps(data, indent=2))
    else:
        click.echo(
            f"{data['requests']} requests at {rate:g} req/s, {data['failed']} failed, "
            f"p99 {data['p99_ms']} ms, slowest {data['slowest_ms']} ms"
        )
        for kind, took in data["actions"].items():
            click.echo(
                f"{took['count']} × {kind}: median {took['median_s']} s, slowest {took['max_s']} s"
            )
    if found.failed or found.rolled_back:
        raise ThresholdMissed(
            f"actuator: {found.failed} failed requests and {found.rolled_back} rolled back, "
            "must be 0.",
            hint="See the server's log.",
        )
