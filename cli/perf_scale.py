"""``conch perf bench budget`` and ``conch perf bench scale``: many models, in the simulator."""

from __future__ import annotations

from dataclasses import asdict

import click

from cli.options import json_option
from cli.output import echo, to_json


@click.command()
@click.option("--seeds", type=click.IntRange(1, 50), default=5, show_default=True, help="Runs.")
@click.option(
    "--overload",
    type=click.FloatRange(0.1, 10),
    default=1.3,
    show_default=True,
    help="Load as a ratio of what the proportional split carries within the SLO.",
)
@json_option
def budget(seeds: int, overload: float, as_json: bool) -> None:
    """Three models under one budget in the simulator: Conch against a proportional split.

    Weights 3, 2 and 1; 12 instances of the emulated accelerator in all; 5 minutes of overload. The
    split is fixed, in proportion to the offered work. All figures are from the simulator.

    \b
    Example:
      conch perf bench budget --json
      conch perf bench budget --seeds 2 --overload 1.5
    """
    from perf.bench.control import many

    pairs = [
        (
            many.run(seed=seed, overload=overload),
            many.run(seed=seed, overload=overload, conch=False),
        )
        for seed in range(seeds)
    ]
    if as_json:
        runs = [{"conch": asdict(ours), "split": asdict(split)} for ours, split in pairs]
        echo(to_json({"simulated": True, "overload": overload, "runs": runs}, indent=None))
        return
    from perf.bench.control.score import spread

    echo(f"simulated, {seeds} seeds, load {overload:g} times what the split carries")
    for label, at in (("conch", 0), ("proportional split", 1)):
        seen = spread([pair[at].weighted_attainment for pair in pairs])
        echo(
            f"{label:20} weighted attainment {seen.median:6.1%} ({seen.low:.1%} to {seen.high:.1%})"
        )
    gains = spread([ours.weighted_attainment - split.weighted_attainment for ours, split in pairs])
    echo(
        f"{'difference':20} {100 * gains.median:+.1f} points "
        f"({100 * gains.low:+.1f} to {100 * gains.high:+.1f})"
    )
    for name in pairs[0][0].members:
        ends = [pair[0].members[name] for pair in pairs]
        attained = spread([end.attainment for end in ends])
        echo(
            f"  {name:18} attainment {attained.median:6.1%}, answered at least "
            f"{min(end.answered_fraction for end in ends):.1%}, never below "
            f"{min(end.least_instances for end in ends)} instance(s)"
        )
    echo(
        f"most instances at once {max(ours.peak_instances for ours, _ in pairs)} "
        f"of {many.INSTANCES}"
    )


@click.command()
@click.option(
    "--models",
    type=click.IntRange(1, 2000),
    help="Models under control; default: 200, or 5 with --live.",
)
@click.option(
    "--servers",
    type=click.IntRange(1, 2000),
    default=50,
    show_default=True,
    help="Servers that they are on; not with --live.",
)
@click.option(
    "--ticks",
    type=click.IntRange(10),
    default=300,
    show_default=True,
    help="Looks at each model that count; not with --live.",
)
@click.option("--live", is_flag=True, help="The whole `conch control run` beside a real Triton.")
@click.option(
    "--seconds",
    type=click.FloatRange(1, 600),
    default=30.0,
    show_default=True,
    help="Length of the measurement with --live.",
)
@json_option
def scale(
    models: int | None, servers: int, ticks: int, live: bool, seconds: float, as_json: bool
) -> None:
    """What deciding for many models costs, on one core, by synthetic looks at a tick of 1 s.

    Each model is on one of the servers; the models of a server share a budget. A tenth of the
    models is measured first, for the cost per model. With --live it is the CPU time of `conch
    control run` itself, with emulated models under a light load on a Triton of its own.

    \b
    Example:
      conch perf bench scale
      conch perf bench scale --models 20 --servers 5 --json
      conch perf bench scale --live
    """
    if live:
        _live(models or 5, seconds, as_json)
        return
    from perf.bench import scale as bench

    models = models or 200
    few = bench.run(models=max(1, models // 10), servers=max(1, servers // 10), ticks=ticks)
    many = bench.run(models=models, servers=servers, ticks=ticks)
    ratio = many.per_model_s / few.per_model_s
    if as_json:
        result = {"few": asdict(few), "many": asdict(many), "per_model_ratio": ratio}
        echo(to_json({"simulated": True, **result}, indent=None))
        return
    for each in (few, many):
        echo(
            f"{each.models} models on {each.servers} servers, {each.ticks} ticks: "
            f"tick p50 {1e3 * each.tick_p50_s:.0f} ms, p99 {1e3 * each.tick_p99_s:.0f} ms "
            f"(longest {1e3 * each.tick_max_s:.0f} ms; of the first {each.warm_up_ticks} "
            f"{1e3 * each.first_ticks_max_s:.0f} ms), {1e3 * each.per_model_s:.2f} ms a model, "
            f"+{each.memory_mib:.0f} MiB, {each.changes} changes"
        )
    echo(f"cost per model, {many.models} against {few.models}: {ratio:.2f}")


def _live(models: int, seconds: float, as_json: bool) -> None:
    """Measure the controller's process, and say what it used."""
    from perf.bench import live as bench

    found = bench.run(models=models, seconds=seconds)
    if as_json:
        result = {**asdict(found), "core_fraction": found.core_fraction}
        echo(to_json({"simulated": False, **result}, indent=None))
        return
    echo(
        f"{found.models} models on a real Triton, a look each {found.tick_s:g} s: "
        f"{found.core_fraction:.1%} of a core over {found.seconds:.0f} s "
        f"({found.ticks} looks, {found.answered} requests answered)"
    )
