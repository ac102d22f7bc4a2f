"""Which runs a comparison is made of: every rule on every trace with every seed. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from conch.errors import ConfigError
from control.core.policy import Policy
from control.core.rules import RULES, rule_named
from perf.bench.control import scenarios
from perf.bench.control.scenarios import KINDS, Scenario
from perf.bench.emulated import EmulatedModel
from perf.trace_files import load_csv
from perf.traces import Times

STATIC_BEST = "static-best"
CLAIRVOYANT = "clairvoyant"
SHOWN = ("conch", "static-max", STATIC_BEST, "hpa-utilisation:target=0.7")
"""The rules that are compared on a real Triton where nobody says otherwise."""
FULL_S: Mapping[str, float] = {"stationary": 120.0, "step": 240.0, "azure": 300.0, "bursts": 300.0}
OTHER_S = 300.0
"""Of a known load that is not among these."""
QUICK_S: Mapping[str, float] = {"step": 80.0, "azure": 100.0}
FULL_WARM_UP_S, QUICK_WARM_UP_S = 25.0, 20.0
LEAST_WARM_UP_S: Mapping[str, float] = {"bursts": 90.0}
"""One slot of it has a burst in any case: a controller that has run for a while has seen one."""
FULL_SEEDS, QUICK_SEEDS = (1, 2), (1,)
SIMULATED_S, SIMULATED_SEEDS = 900.0, (1, 2, 3, 4, 5)
AROUND_S = 15.0
"""What a real run takes beside its trace: server and controller start, and end."""
SHORTEST_S = 10.0
BIN_S = 5.0
"""The rate of a recorded trace is averaged over this long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A rule with its options.

    Attributes:
        rule: as ``control run`` knows it, or ``static-best``.
        options: of the rule.
    """

    rule: str
    options: Mapping[str, float] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """As tables call it: ``hpa-utilisation(target=0.7)``."""
        text = ", ".join(f"{name}={value:g}" for name, value in self.options.items())
        return f"{self.rule}({text})" if text else self.rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One run: a contender on a scenario."""

    contender: Contender
    scenario: Scenario = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A comparison.

    Attributes:
        items: the runs, the seeds of a trace one after the other so that rules alternate.
        simulated: on the simulator instead of a real Triton.
        policy: what every rule is held to.
        model: the emulated accelerator; None for a model of a repository.
    """

    items: tuple[Item, ...]
    simulated: bool
    policy: Policy
    model: EmulatedModel | None

    def expected_s(self, side_by_side: int = 1) -> float:
        """Wall clock seconds on a real Triton; 0 for the simulator, which is done in seconds."""
        if self.simulated:
            return 0.0
        total_s = sum(
            item.scenario.duration_s + item.scenario.warm_up_s + AROUND_S for item in self.items
        )
        longest_s = max(
            (i.scenario.duration_s + i.scenario.warm_up_s for i in self.items), default=0
        )
        return max(total_s / side_by_side, longest_s)


def contender(text: str) -> Contender:
    """The rule that ``NAME[:OPTION=VALUE...]`` means.

    Raises:
        ConfigError: for a rule, an option or a value that is not known.

    Example:
        >>> contender("hpa-utilisation:target=0.7").label
        'hpa-utilisation(target=0.7)'
    """
    name, *parts = text.strip().split(":")
    options = {}
    for part in parts:
        key, _, value = part.partition("=")
        try:
            options[key.strip()] = float(value)
        except ValueError:
            raise ConfigError(
                f"policy {text!r}: {part!r}, must be OPTION=NUMBER.",
                hint="Example: --policies conch,hpa-utilisation:target=0.7",
            ) from None
    if name == STATIC_BEST:
        if options:
            raise ConfigError(
                f"policy {text!r}: {STATIC_BEST} takes no options; its count is searched.",
                hint="Use static:count=3 for a count of your own.",
            )
    elif name in RULES:
        rule_named(name, options)
    else:
        raise ConfigError(
            f"policy {name!r}: not known, must be {STATIC_BEST} or one of "
            f"{', '.join(sorted(RULES))}.",
            hint="`conch control rules` tells what each one does.",
        )
    return Contender(rule=name, options=options)


def contenders(text: str) -> tuple[Contender, ...]:
    """The rules of a comma-separated list, each once.

    Raises:
        ConfigError: for one that is not known, or an empty list.
    """
    found = tuple({c.label: c for c in map(contender, filter(None, text.split(",")))}.values())
    if not found:
        raise ConfigError(
            f"policies: {text!r}, must name at least one.",
            hint=f"Example: --policies {','.join(SHOWN)}",
        )
    return found


def made(
    traces: Mapping[str, float | None],
    rules: Sequence[Contender],
    seeds: Sequence[int],
    *,
    warm_up_s: float,
    simulated: bool,
    policy: Policy = scenarios.POLICY,
    model: EmulatedModel | None = scenarios.EMULATED,
    load: float = 1.0,
) -> Plan:
    """The plan.

    Args:
        traces: kinds of ``scenarios.KINDS`` or paths of CSV files, with their length in seconds;
            None takes the file's own.
        rules: the contenders.
        seeds: of the arrivals.
        warm_up_s: before each, unless the trace needs more.
        simulated: on the simulator.
        policy: what every rule is held to.
        model: the emulated accelerator; None for a model of a repository, which starts with the
            fewest instances.
        load: share of the requests that are kept, drawn at random: 0.5 halves every rate.

    Raises:
        ConfigError: for a trace that is not known or a rule that needs the simulator.
    """
    if not simulated and any(rule.rule == CLAIRVOYANT for rule in rules):
        raise ConfigError(
            f"policy {CLAIRVOYANT}: knows the true rate, which only the simulator can tell it.",
            hint="Add --simulate, or leave it out: its simulated cost is in the report anyway.",
        )
    if not 0 < load <= 1:
        raise ConfigError(
            f"load: {load:g}, must be above 0 and at most 1.", hint="1 keeps every request."
        )
    items = []
    for name, duration_s in traces.items():
        for seed in seeds:
            before_s = max(warm_up_s, LEAST_WARM_UP_S.get(name, 0.0))
            played = _scenario(name, duration_s, seed, before_s, policy, model)
            if load < 1:
                played = _thinned(played, load)
            if model is None:
                played = replace(played, instances=policy.min_instances)
            items += [Item(contender=rule, scenario=played) for rule in rules]
    return Plan(items=tuple(items), simulated=simulated, policy=policy, model=model)


def _scenario(
    name: str,
    duration_s: float | None,
    seed: int,
    warm_up_s: float,
    policy: Policy,
    model: EmulatedModel | None,
) -> Scenario:
    """A kind by name, else a file."""
    served = model or scenarios.EMULATED
    if name in KINDS:
        return scenarios.scenario(
            name,
            duration_s=duration_s or FULL_S.get(name, OTHER_S),
            seed=seed,
            warm_up_s=warm_up_s,
            model=served,
            policy=policy,
        )
    path = Path(name)
    if not path.is_file():
        raise ConfigError(
            f"trace {name!r}: not known, must be one of {', '.join(KINDS)} or a CSV file.",
            hint="Make one with `conch perf trace`.",
        )
    return _from_file(path, duration_s, seed, warm_up_s, policy, served)


def _from_file(
    path: Path,
    duration_s: float | None,
    seed: int,
    warm_up_s: float,
    policy: Policy,
    model: EmulatedModel,
) -> Scenario:
    """A recorded trace; its own first seconds are the warm-up. The seed names the run only."""
    trace = load_csv(path)
    length_s = min(duration_s or trace.duration_s, trace.duration_s - warm_up_s)
    if length_s < SHORTEST_S:
        raise ConfigError(
            f"{path}: {trace.duration_s:g} s with {warm_up_s:g} s of warm-up, must leave at least "
            f"{SHORTEST_S:g} s.",
            hint="Give a longer trace, or a shorter --warm-up.",
        )
    whole_s = warm_up_s + length_s
    arrival_s = trace.arrival_s[trace.arrival_s <= whole_s]
    counts = np.bincount((arrival_s / BIN_S).astype(np.int64), minlength=int(whole_s / BIN_S) + 1)

    def rate(times: Times) -> Times:
        index = (times / BIN_S).astype(np.int64).clip(0, counts.size - 1)
        return np.asarray(counts[index] / BIN_S, dtype=np.float64)

    seconds = np.arange(0.5, max(warm_up_s, 1.0))
    played = replace(trace, arrival_s=arrival_s, duration_s=whole_s, seed=seed, rate=rate)
    return Scenario(
        trace=played,
        warm_up_s=warm_up_s,
        instances=scenarios.instances_for(float(rate(seconds).mean()), model=model, policy=policy),
    )


def _thinned(played: Scenario, load: float) -> Scenario:
    """The scenario with a share of its requests, drawn at random: Poisson stays Poisson."""
    trace = played.trace
    keep = np.random.default_rng((played.seed, 0x10AD)).random(trace.count) < load
    whole = trace.rate

    def rate(times: Times) -> Times:
        assert whole is not None
        return whole(times) * load

    return replace(
        played,
        trace=replace(
            trace,
            arrival_s=trace.arrival_s[keep],
            description=f"{trace.description}; {load:g} of the requests kept",
            rate=rate,
        ),
    )
