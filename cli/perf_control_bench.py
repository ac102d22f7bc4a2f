"""``conch perf bench control``: controllers compared on a real Triton, over the same arrivals."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import psutil

from cli.options import json_option
from cli.output import print_json, print_table
from conch.errors import ConfigError, LoadError, ThresholdMissed
from conch.names import model_name
from conch.units import DURATION

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
    help="Four traces, two seeds: about two hours one after the other. [default]",
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
@click.option("--slo", type=DURATION, help="p99 objective. [default: 400ms; 100ms with --model]")
@click.option("--max-instances", type=click.IntRange(1), help="[default: 16; cores with --model]")
@click.option(
    "--headroom", type=click.FloatRange(1, 10), default=1.0, help="The policy's headroom preset."
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
    headroom: float,
    load: float,
    load_time: float | None,
    out: Path,
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
        click.echo("No GPU: nvidia-smi finds none here. The comparison on one is skipped.")
        return
    served, policy, emulated = _subject(
        model, repository, shapes, slo, max_instances, headroom, load_time
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
    if simulate and emulated is None:
        raise ConfigError(
            "--simulate: the simulator is of the emulated accelerator, not of any other model.",
            hint="Leave out --simulate, or --model and --gpu.",
        )
    if dry_run:
        _print_plan(plan, side_by_side, as_json=as_json)
        return
    runs, meta = _made(plan, None if simulate else served, out, side_by_side)
    _tell(runs, meta, out, as_json=as_json, fail_below=fail_below)


def _subject(
    model: str | None,
    repository: Path,
    shapes: tuple[str, ...],
    slo_s: float | None,
    max_instances: int | None,
    headroom: float,
    load_s: float | None,
) -> tuple[Served, Any, Any]:
    """What is served, what the rules are held to, and the emulator (None for a real model)."""
    from perf.bench.control import real, scenarios
    from perf.inputs import parse_shapes
    from serving.repository import Repository

    policy = replace(scenarios.POLICY, headroom=headroom)
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
    lengths = {
        name: duration_s or usual.get(name, None if name not in plans.FULL_S else 100.0)
        for name in (traces or tuple(usual))
    }
    return lengths, numbers, before_s if warm_up_s is None else warm_up_s


def _print_plan(plan: Plan, side_by_side: int | None, *, as_json: bool) -> None:
    """What would be run, and for how long."""
    from rich.table import Table

    at_once = side_by_side or 1
    expected_s = plan.expected_s(at_once)
    rows = [
        {
            "trace": item.scenario.trace.name,
            "seed": item.scenario.seed,
            "rule": item.contender.label,
            "duration_s": item.scenario.duration_s,
            "warm_up_s": item.scenario.warm_up_s,
            "requests": item.scenario.trace.count,
            "instances_at_start": item.scenario.instances,
        }
        for item in plan.items
    ]
    if as_json:
        print_json({"simulated": plan.simulated, "expected_s": round(expected_s), "runs": rows})
        return
    table = Table("trace", "seed", "rule", "seconds", "warm-up", "requests", "start")
    for row in rows:
        table.add_row(*(f"{v:g}" if isinstance(v, float) else str(v) for v in row.values()))
    print_table(table)
    how = "on the simulator" if plan.simulated else f"about {expected_s / 60:.0f} minutes"
    click.echo(f"{len(rows)} runs, {how}, {at_once} at a time. Nothing was run.")


def _made(
    plan: Plan, served: Served | None, out: Path, side_by_side: int | None
) -> tuple[tuple[ControlRun, ...], Meta]:
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
                side_by_side=side_by_side,
                stop=stop,
            ).make()
        except KeyboardInterrupt:
            stop.set()
            click.echo(
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
    meta = _meta(plan, served, made.side_by_side, made.failures)
    written = report.write_report(out / "report.html", runs, meta)
    click.echo(f"Wrote {written.html}", err=True)
    return runs, meta


def _meta(plan: Plan, served: Served | None, side_by_side: int, failures: tuple[str, ...]) -> Meta:
    """What the report says about itself."""
    from perf.bench.control.real import emulator
    from perf.bench.control.tables import Meta
    from serving.runtime import find

    label = served.label if served else emulator(plan.model).label if plan.model else ""
    gib = psutil.virtual_memory().total / 2**30
    hardware = f"{_processor()}, {os.cpu_count()} cores, {gib:.0f} GiB"
    if not plan.simulated:
        hardware += f", Triton {find.find().version}"
    notes = [f"The policy's headroom is {plan.policy.headroom:g}."]
    notes += [f"Not finished: {text}" for text in failures]
    return Meta(
        title="Controllers compared" + (" in the simulator" if plan.simulated else ""),
        served=label,
        hardware=hardware,
        date=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        command=shlex.join(["conch", *sys.argv[1:]]),
        side_by_side=side_by_side,
        steps_s={i.scenario.trace.name: i.scenario.steps_s for i in plan.items},
        allowed_s=plan.policy.load_s + 5.0,
        notes=tuple(notes),
    )


def _processor() -> str:
    """The processor's name, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _tell(
    runs: tuple[ControlRun, ...],
    meta: Meta,
    out: Path,
    *,
    as_json: bool,
    fail_below: float | None,
) -> None:
    """The scores on stdout, and the verdict of ``--fail-below``."""
    from rich.table import Table

    from perf.bench.control.report import texts
    from perf.bench.control.tables import as_json as as_data

    data = as_data(runs, meta)
    if as_json:
        print_json(data)
    else:
        table = Table("trace", "rule", "in SLO", "cost", "× static", "changes", "failed")
        for trace, rule, cells in texts(runs, meta):
            names = ("attainment", "cost_instance_s", "x_static_best", "actions", "failed")
            table.add_row(trace, rule, *(cells[name][0] for name in names))
        print_table(table)
        click.echo(f"Next: open {out / 'report.html'}", err=True)
    if fail_below is None:
        return
    for trace, rows in data["traces"].items():
        for row in rows:
            attained = row["attainment"]["median"]
            if row["rule"].split(" (")[0] == "conch" and attained < fail_below:
                raise ThresholdMissed(
                    f"conch on {trace}: attainment {attained:.4f}, must be at least "
                    f"{fail_below:g}.",
                    hint=f"See {out / 'report.html'}.",
                )
