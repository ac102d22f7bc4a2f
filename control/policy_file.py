"""The policy that a user writes: one YAML file, defaults and per-model overrides."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import structlog
from pydantic import Field, field_validator, model_validator

from conch import config_file
from conch.config_file import FileModel
from conch.names import model_name
from conch.units import Duration, Objective
from control.core.budget.want import Limit
from control.core.policy import (
    MAX_BATCH_SIZE,
    MAX_INSTANCES,
    MIN_INSTANCES,
    MOST_INSTANCES,
    Policy,
)
from control.core.rules import rule_named
from control.core.rules.rule import Rule

log = structlog.get_logger()

INPUT_FILES = (".npz", ".json")
"""What real inputs for `calibrate` may be given as."""
BOUNDS = (MIN_INSTANCES, MAX_INSTANCES, MAX_BATCH_SIZE)
RETIRED: Mapping[str, str] = MappingProxyType(
    {
        "rebatch_after": "The base configuration is planned as soon as full batches were measured.",
        "quiet": "Instances are no longer given up for quiet; set `idle_cost` where they cost "
        "something.",
        "headroom": "All instances that the policy allows are held; set `idle_cost` where they "
        "cost something.",
    }
)
"""Keys that earlier versions had: what a policy with one of them is told."""


class ModelPolicy(FileModel):
    """What one model is held to. Every key may be left out."""

    slo: Objective = Field(0.1, gt=0, description="p99 latency objective, such as 100ms.")
    min_instances: int | None = Field(
        None,
        ge=1,
        le=MOST_INSTANCES,
        description="Never fewer instances than this; default: as many as its own config has, or "
        "1 where `max_instances` is written.",
    )
    max_instances: int | None = Field(
        None,
        ge=1,
        le=MOST_INSTANCES,
        description="Never more instances than this; default: as many as its own config has, or "
        "the number of cores, whichever is more.",
    )
    cores: int | None = Field(
        None,
        ge=1,
        le=MOST_INSTANCES,
        description="Cores that the instances share; default: those of this machine.",
    )
    max_batch_size: int | None = Field(
        None,
        ge=1,
        description="Largest batch that may be configured; default: what its own config says, "
        "which is then left only for a load that it does not carry.",
    )
    rebatch: bool = Field(True, description="Whether batch size and delay may change (a reload).")
    late: Literal["wait", "refuse"] = Field(
        "wait",
        description="What becomes of a request that would be late anyway: `wait` answers it late, "
        "`refuse` has Triton refuse it once it has waited too long, which keeps an overload from "
        "making all others late. A queue policy of your own is kept.",
    )
    calibrate: bool | str | None = Field(
        None,
        description="Whether full batches may be sent to measure how long they take, as at most "
        "5 % of the device's work; default: where the config has a `model_warmup` to take inputs "
        "from. A path, from this file on, of an `.npz` or `.json` with some real rows by input "
        "name (`[rows, *dims]`): of these, also to Python models. `true`: also of ones, and to "
        "Python models; `false`: never.",
    )
    idle_cost: float = Field(
        0.0,
        ge=0,
        description="Late requests that an idle instance is worth for each hour, where others have "
        "a use for what it takes (a cluster, a power budget); it is given back when holding it has "
        "cost as much as loading it again. 0: instances are held.",
    )
    cooldown: Duration = Field(
        5.0, description="Least time between a change and a scale down or rebatch."
    )
    blocked: Duration = Field(
        600.0,
        description="What failed, was worse or killed the server is not tried again so long.",
    )
    fast_window: Duration = Field(2.0, gt=0, description="Averaging window for scale up.")
    stable_window: Duration = Field(6.0, gt=0, description="Averaging window for the steady load.")
    margin: float = Field(0.1, ge=0, lt=1, description="Share of the SLO kept as a margin.")
    reloads_per_hour: int = Field(
        4, ge=0, description="At most this many reloads an hour for batching, threads or cache."
    )
    copies_per_hour: int = Field(
        20,
        ge=0,
        description="At most this many scale ups an hour of a saturated model by a second copy; "
        "then in place, which can take minutes.",
    )
    target: float = Field(
        0.99, gt=0, lt=1, description="Share of the requests that must meet the objective."
    )
    weight: float = Field(1.0, gt=0, description="Of this model where a budget is shared.")
    versions: list[int] = Field(
        default_factory=list,
        description="Interchangeable versions, best first; a cheaper one serves in an overload.",
    )
    response_cache: bool = Field(
        False, description="Whether Triton's response cache may be switched by what its hits save."
    )
    load_time: Duration = Field(
        2.0, ge=0, description="How long an instance takes to load, until it was measured."
    )
    rule: str = Field("conch", description="Who decides: see `conch control rules`.")
    rule_options: dict[str, float] = Field(
        default_factory=dict, description="Options of the rule, by name."
    )

    @field_validator("calibrate", mode="before")
    @classmethod
    def _inputs(cls, value: Any) -> Any:
        is_file = isinstance(value, str) and value.endswith(INPUT_FILES)
        if value is None or isinstance(value, bool) or is_file:
            return value
        raise ValueError(f"must be true, false or the path of a {' or '.join(INPUT_FILES)} file")

    @model_validator(mode="after")
    def _bounds(self) -> ModelPolicy:
        least, most = self.min_instances, self.max_instances
        if least is not None and most is not None and most < least:
            raise ValueError(
                f"max_instances = {self.max_instances}, must be at least "
                f"min_instances ({self.min_instances})"
            )
        return self

    def _unwritten(self) -> tuple[str, ...]:
        """The bounds that nobody wrote; who writes the most instances lets the count move."""
        open_bounds = (name for name in BOUNDS if getattr(self, name) is None)
        return tuple(
            name for name in open_bounds if name != MIN_INSTANCES or self.max_instances is None
        )

    def typed(self, *, cores: int) -> Policy:
        """The core's policy on a machine with this many cores.

        A bound that is not written is named there: the core takes it from the model's own config.
        """
        cores = self.cores or cores
        least = self.min_instances or 1
        return Policy(
            slo_s=self.slo,
            min_instances=least,
            max_instances=max(least, self.max_instances or cores),
            max_batch_size=self.max_batch_size or 1,
            unwritten=self._unwritten(),
            cores=cores,
            margin_fraction=self.margin,
            fast_window_s=self.fast_window,
            stable_window_s=self.stable_window,
            idle_cost=self.idle_cost,
            cooldown_s=self.cooldown,
            blocked_s=self.blocked,
            rebatch=self.rebatch,
            refuse_late=self.late == "refuse",
            calibrate=True if isinstance(self.calibrate, str) else self.calibrate,
            reloads_per_hour=self.reloads_per_hour,
            copies_per_hour=self.copies_per_hour,
            slo_target_fraction=self.target,
            weight=self.weight,
            versions=tuple(self.versions),
            response_cache=self.response_cache,
            load_s=self.load_time,
        )


class Budget(FileModel):
    """What all models under control may use together. Keys left out set no limit."""

    instances: int | None = Field(None, ge=1, description="Instances of all models together.")
    cores: float | None = Field(None, gt=0, description="Busy cores of all models together.")
    memory_mib: int | None = Field(
        None, ge=1, description="Memory of all instances together, in MiB."
    )

    def typed(self) -> Limit:
        """The core's limit."""
        memory_bytes = None if self.memory_mib is None else self.memory_mib * 2**20
        return Limit(instances=self.instances, cores=self.cores, memory_bytes=memory_bytes)


class PolicyFile(FileModel):
    """The whole file."""

    version: int = Field(1, ge=1, le=1, description="Format of this file; 1.")
    tick: Duration = Field(1.0, ge=0.1, description="Time between two looks.")
    prometheus: str | None = Field(
        None, description="Base URL of a Prometheus to read counters from; default: scrape Triton."
    )
    prometheus_instance: str | None = Field(
        None,
        description="The `instance` label of this server, where that Prometheus scrapes several.",
    )
    keep_journal: Duration = Field(
        7 * 86400.0, ge=60, description="Ticks without an action are forgotten after this long."
    )
    arrivals: str | None = Field(
        None,
        description="PromQL of a gateway's running total of requests, with MODEL in place of the "
        "name; needs `prometheus`.",
    )
    budget: Budget = Field(default_factory=Budget, description="What all models together may use.")
    defaults: ModelPolicy = Field(default_factory=ModelPolicy, description="For every model.")
    models: dict[str, ModelPolicy] = Field(
        default_factory=dict,
        description="Per model; keys left out come from defaults. Empty: every loaded model.",
    )

    @model_validator(mode="before")
    @classmethod
    def _inherit(cls, data: Any) -> Any:
        """Each model's section, laid over the defaults."""
        if not isinstance(data, dict):
            return data
        data = _without_retired(data)
        if not isinstance(data.get("models"), dict):
            return data
        base = data.get("defaults") or {}
        if not isinstance(base, dict):
            return data
        merged = {
            name: {**base, **(own or {})} if isinstance(own, dict | None) else own
            for name, own in data["models"].items()
        }
        return {**data, "models": merged}

    @model_validator(mode="after")
    def _sources(self) -> PolicyFile:
        for key in ("arrivals", "prometheus_instance"):
            if getattr(self, key) is not None and self.prometheus is None:
                raise ValueError(f"{key}: needs `prometheus`, the base URL of one")
        return self

    @model_validator(mode="after")
    def _names(self) -> PolicyFile:
        for name in self.models:
            model_name(name)
        return self

    def policy_of(self, name: str, *, cores: int | None = None) -> Policy:
        """The policy of a model on this machine."""
        section = self.models.get(name, self.defaults)
        typed = section.typed(cores=cores or os.cpu_count() or 1)
        return replace(typed, stale_s=max(typed.stale_s, 3 * self.tick))

    def inputs_of(self, name: str) -> Path | None:
        """The file of real inputs that a model is measured with; None where none is named."""
        named = self.models.get(name, self.defaults).calibrate
        return Path(named) if isinstance(named, str) else None

    def rule_of(self, name: str) -> Rule:
        """Who decides for a model.

        Raises:
            ConfigError: for a rule or an option that is not known.
        """
        section = self.models.get(name, self.defaults)
        return rule_named(section.rule, section.rule_options)


def _without_retired(data: dict[Any, Any]) -> dict[Any, Any]:
    """The file without the keys that have no meaning any more, each of which is told once."""
    models = data.get("models")
    sections = list(models.values()) if isinstance(models, dict) else []
    sections.append(data.get("defaults"))
    found = {key for section in sections if isinstance(section, dict) for key in section}
    for key in RETIRED.keys() & found:
        log.warning("policy.key_retired", key=key, hint=RETIRED[key])

    def kept(section: Any) -> Any:
        if not isinstance(section, dict):
            return section
        return {key: value for key, value in section.items() if key not in RETIRED}

    if "defaults" in data:
        data = {**data, "defaults": kept(data["defaults"])}
    if isinstance(models, dict):
        data = {**data, "models": {name: kept(section) for name, section in models.items()}}
    return data


def load(path: Path) -> PolicyFile:
    """The policy in ``path``; files that it names are found from its folder on.

    Raises:
        ConfigError: with every fault, its line and a suggestion.
    """
    policy = config_file.load(path, PolicyFile)

    def found(section: ModelPolicy) -> ModelPolicy:
        if not isinstance(section.calibrate, str):
            return section
        return section.model_copy(update={"calibrate": str(path.parent / section.calibrate)})

    models = {name: found(section) for name, section in policy.models.items()}
    return policy.model_copy(update={"defaults": found(policy.defaults), "models": models})
