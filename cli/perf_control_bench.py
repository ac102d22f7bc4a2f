"""``conch perf bench control``: controllers compared on a real Triton, over the same arrivals."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.options import json_option
from cli.output import echo
from cli.perf_control_output import meta_of, print_plan, tell
from conch.errors import ConfigError, LoadError
from conch.names import model_name
from conch.units import DURATION, OBJECTIVE

if TYPE_CHECKING:
    from perf.bench.control.plan import Plan
    from perf.bench.control.real import Served
    from perf.bench.control.run import ControlRun
    from perf.bench.control.tables import Meta


@click.command("control")
@click.option("--quick", "extent", flag_value="quick", help="Two short traces, one seed: < 20 min.")
@click.option(
    "--full",
    "extent",
    flag_value="full",
    default="full",
    help="Four traces, two seeds: about 2.5 h one after the other. [default]",
)
@click.option(
    "--trace",
    "traces",
    multiple=True,
    metavar="NAME|FILE",
    help="stationary, step, bursts, azure or a CSV file; repeatable. [default: by the extent]",
)
@click.option(
    "--policies",
    metavar="NAME[:OPTION=N...],...",
    help="Rules to compare: static-best or any of `conch control rules`. "
    "[default: conch,static-best,hpa-utilisation:target=0.7,inferline]",
)
@click.option("--seeds", metavar="N,...", help="Of the arrivals. [default: by the extent]")
@click.option("--duration", type=DURATION, help="Of each trace. [default: by trace and extent]")
@click.option("--warm-up", type=DURATION, help="Played before each, not scored.")
@click.option(
    "--side-by-side",
    type=click.IntRange(1, 8),
    help="Runs at a time. [default: as many as keep the machine below 60 % busy, by the first run]",
)
@click.option("--simulate", is_flag=True, help="On the simulator instead of a real Triton.")
@click.option(
    "--gpu",
    is_flag=True,
    help="A torch model on the GPU instead of the emulated accelerator; skipped without a GPU.",
)
@click.option(
    "--model",
    help="A model of --repository instead of the emulated accelerator; its files stay as they are.",
)
@click.option(
    "--repository",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("model_repository"),
    show_default=True,
    help="Where --model is.",
)
@click.option("--shape", "shapes", multiple=True, help="NAME=SIZE of --model's inputs.")
@click.option("--slo", type=OBJECTIVE, help="p99 objective. [default: 400ms; 100ms with --model]")
@click.option("--max-instances", type=click.IntRange(1), help="[default: 16; cores with --model]")
@click.option(
    "--idle-cost",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    help="Late requests that an idle instance is worth for each hour; 0 holds what there is.",
)
@click.option(
    "--load",
    type=click.FloatRange(0, 1, min_open=True),
    default=1.0,
    show_default=True,
    help="Share of the traces' requests to keep; their means are about 100 to 150 req/s.",
)
@click.option("--load-time", type=DURATION, help="Of the emulator's instances. [default: 3s]")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs/control-bench"),
    show_default=True,
    help="Report, figures and finished runs; a second start with it resumes.",
)
@click.option(
    "--neighbour",
    type=click.FloatRange(0, 1),
    default=0.0,
    metavar="SHARE",
    help="Somebody else burns this share of the core seconds beside each run, by its seed.",
)
@click.option("--dry-run", is_flag=True, help="Print the plan and how long it takes.")
@click.option(
    "--fail-below",
    type=click.FloatRange(0, 1),
    help="Exit with 5 when conch's median attainment on any trace is lower.",
)
@json_option
def control_bench(
    extent: str,
    traces: tuple[str, ...],
    policies: str | None,
    seeds: str | None,
    duration: float | None,
    warm_up: float | None,
    side_by_side: int | None,
    simulate: bool,
    gpu: bool,
    model: str | None,
    repository: Path,
    shapes: tuple[str, ...],
    slo: float | None,
    max_instances: int | None,
    idle_cost: float,
    load: float,
    load_time: float | None,
    out: Path,
    neighbour: float,
    dry_run: bool,
    fail_below: float | None,
    as_json: bool,
) -> None:
    """Compare controllers: every rule over the same arrivals, each beside a Triton of its own.

    By default the server's model is an emulated accelerator, whose batches sleep instead of
    computing, so that up to 16 real Triton instances run on few cores. Each rule decides in its
    own `conch control run`. Finished runs are kept in --out: after Ctrl-C, start it again.

    \b
    Example:
      conch perf bench control --quick
      conch perf bench control --full --side-by-side 2 --out runs/full
      conch perf bench control --trace step --policies conch,hpa-utilisation:target=0.5 --seeds 1
      conch perf bench control --simulate --policies conch,static-best,inferline,clairvoyant
      conch perf bench control --model minilm_int8 --shape sequence=32 --trace step --load 0.5
    """
    from perf.bench.control import gpu as gpus
    from perf.bench.control import plan as plans

    device = gpus.find_gpu() if gpu else ""
    if gpu and not device:
        echo("No GPU: nvidia-smi finds none here. The comparison on one is skipped.")
        return
    served, policy, emulated = _subject(
        model, repository, shapes, slo, max_instances, idle_cost, load_time
    )
    if device:
        served = gpus.served(gpus.TorchModel(), device)
        policy = replace(policy, slo_s=slo or 0.1, max_instances=max_instances or 8, cores=8)
        emulated = None
    lengths, numbers, warm_up_s = _extent(extent, traces, seeds, duration, warm_up, simulate)
    plan = plans.made(
        lengths,
        plans.contenders(policies or ",".join(plans.SHOWN)),
        numbers,
        warm_up_s=warm_up_s,
        simulated=simulate,
        policy=policy,
        model=emulated,
        load=load,
    )
    plan = replace(
        plan,
        items=tuple(
            replace(item, scenario=replace(item.scenario, neighbour_fraction=neighbour))
            for item in plan.items
        ),
    )
    if neighbour:  # burners of several runs at a time would add up
        side_by_side = 1
    if simulate and emulated is None:
        raise ConfigError(
            "--simulate: the simulator is of the emulated accelerator, not of any other model.",
            hint="Leave out --simulate, or --model and --gpu.",
        )
    if dry_run:
        print_plan(plan, side_by_side, as_json=as_json)
        return
    runs, meta, failures = _made(plan, None if simulate else served, out, side_by_side)
    tell(runs, meta, out, as_json=as_json, fail_below=fail_below)
    if failures:
        raise LoadError(
            f"bench control: {len(failures)} of {len(plan.items)} runs did not finish "
            f"({failures[0]}).",
            hint="The same command runs only those again.",
        )


def _subject(
    model: str | None,
    repository: Path,
    shapes: tuple[str, ...],
    slo_s: float | None,
    max_instances: int | None,
    idle_cost: float,
    load_s: float | None,
) -> tuple[Served, Any, Any]:
    """What is served, what the rules are held to, and the emulator (None for a real model)."""
    from perf.bench.control import real, scenarios
    from perf.inputs import parse_shapes
    from serving.repository import Repository

    policy = replace(scenarios.POLICY, idle_cost=idle_cost)
    if model is None:
        emulated = scenarios.EMULATED
        if load_s is not None:
            emulated = replace(emulated, load_s=load_s)
            policy = replace(policy, load_s=load_s)
        policy = replace(
            policy,
            slo_s=slo_s or policy.slo_s,
            max_instances=max_instances or policy.max_instances,
        )
        return real.emulator(emulated), policy, emulated
    cores = os.cpu_count() or 1
    config = Repository(repository).read_config(model_name(model))
    policy = replace(
        policy,
        slo_s=slo_s or 0.1,
        max_instances=max_instances or cores,
        max_batch_size=max(1, config.max_batch_size),
        cores=cores,
        rebatch=True,
    )
    return (
        real.from_repository(Repository(repository), model, parse_shapes(shapes)),
        policy,
        None,
    )


def _extent(
    extent: str,
    traces: tuple[str, ...],
    seeds: str | None,
    duration_s: float | None,
    warm_up_s: float | None,
    simulate: bool,
) -> tuple[Mapping[str, float | None], tuple[int, ...], float]:
    """Traces with their lengths, seeds and warm-up: as given, else by the extent."""
    from perf.bench.control import plan as plans
    from perf.bench.control.scenarios import WARM_UP_S

    quick = extent == "quick"
    usual = plans.QUICK_S if quick else plans.FULL_S
    numbers: tuple[int, ...] = plans.QUICK_SEEDS if quick else plans.FULL_SEEDS
    before_s = plans.QUICK_WARM_UP_S if quick else plans.FULL_WARM_UP_S
    if simulate and not quick:
        usual = dict.fromkeys(plans.FULL_S, plans.SIMULATED_S)
        numbers, before_s = plans.SIMULATED_SEEDS, WARM_UP_S
    if seeds:
        try:
            numbers = tuple(dict.fromkeys(int(part) for part in seeds.split(",")))
        except ValueError:
            raise ConfigError(
                f"seeds: {seeds!r}, must be whole numbers with commas between them.",
                hint="Example: --seeds 1,2",
            ) from None
    lengths = {name: duration_s or usual.get(name) for name in (traces or tuple(usual))}
    return lengths, numbers, before_s if warm_up_s is None else warm_up_s


def _made(
    plan: Plan, served: Served | None, out: Path, side_by_side: int | None
) -> tuple[tuple[ControlRun, ...], Meta, tuple[str, ...]]:
    """Make the runs and write the report; Ctrl-C keeps what finished."""
    from cli.perf_control_progress import progress_of
    from perf.bench.control import campaign, report

    folder = out / "finished"
    stop = threading.Event()
    with progress_of(plan, simulated=plan.simulated) as teller:
        try:
            references = campaign.references(plan, folder)
            made = campaign.Campaign(
                plan=plan,
                served=served,
                folder=folder,
                teller=teller,
                # What computes on this machine's cores or its GPU would disturb its neighbour.
                side_by_side=side_by_side or (1 if plan.model is None else None),
                stop=stop,
            ).make()
        except KeyboardInterrupt:
            stop.set()
            echo(
                f"Stopped. Finished runs are in {folder}; the same command goes on from there.",
                err=True,
            )
            raise click.Abort from None
    if not made.runs:
        raise LoadError(
            f"bench control: no run finished ({'; '.join(made.failures) or 'none was asked for'}).",
            hint="Run it again with --debug.",
        )
    runs = (*made.runs, *references)
    meta = meta_of(plan, served, made.side_by_side, made.failures)
    written = report.write_report(out / "report.html", runs, meta)
    echo(f"Wrote {written.html}", err=True)
    return runs, meta, made.failures
