"""What Conch's settings carry on this machine, against Triton's default: found, held, not worse.

Theory of operation. Three configurations of one real model are compared by the greatest Poisson
rate that meets the SLO: the reference and the exported variant as a user gets them without tuning
(one instance, no dynamic batching, the backend's default threads), and the exported variant with
the settings that ``conch control run`` found by itself, from a cold start under a load that the
default does not carry. Their probes take turns, so that the noise of a shared machine hits all
alike. Last, stationary loads are played to the default, the controller and the default again.
Each finished piece is a file in a folder: a second start goes on from there.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from conch.errors import ConfigError, LoadError
from control.act.knobs import settings_of, with_settings
from control.core.policy import Policy
from control.core.types import Settings
from control.journal import codec
from control.policy_file import ModelPolicy
from perf import slo, traces
from perf.bench import tuned_score
from perf.bench.control.real import STATIC, Play, Served, play
from perf.bench.control.run import ControlRun
from perf.bench.tuned_probe import probe
from perf.bench.tuned_score import Tried
from perf.bench.tuned_summary import (
    CONCH,
    DEFAULT,
    REFERENCE,
    Piece,
    changes_of,
    line_of,
    summary,
)
from perf.inputs import make_inputs
from perf.replay import ReplayTarget
from serving import model_config
from serving.client import TritonClient
from serving.model_config import ModelConfig
from serving.repository import Repository
from serving.runtime.supervisor import TritonServer

ROUGH_S, ROUGH_PRECISION = 4.0, 0.15
WARM_UP_S = 5.0
PROBES = 16
LAGGED = "fell behind"


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """What is played, and for how long.

    Attributes:
        rounds: of everything.
        window_s: of a probe of the capacity.
        cold_s: of a cold start; what is held is what comes after its first minute.
        cold_ratio: its load as a multiple of what the default carries.
        stationary_s: of one stationary run.
        shares: the stationary loads, of what the default carries.
    """

    rounds: int = 3
    window_s: float = 15.0
    cold_s: float = 120.0
    cold_ratio: float = 1.5
    stationary_s: float = 60.0
    shares: tuple[float, ...] = (0.25, 0.5, 0.75, 0.9)


QUICK = Extent(rounds=1, window_s=8.0, cold_s=90.0, stationary_s=30.0, shares=(0.5, 0.9))


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is compared.

    Attributes:
        source: the repository of both models; its files stay as they are.
        reference, model: their names.
        shapes: of the requests.
        slo_s: on p99 latency.
    """

    source: Repository
    reference: str
    model: str
    shapes: Mapping[str, tuple[int, ...]]
    slo_s: float

    def default(self, name: str) -> ModelConfig:
        """Its config as Triton's defaults would have it."""
        return model_config.static_default(self.source.read_config(name))

    def policy(self, cores: int) -> Policy:
        """What a user gets who gives nothing but the SLO."""
        config = self.source.read_config(self.model)
        wanted = ModelPolicy(slo=self.slo_s, max_batch_size=max(1, config.max_batch_size))
        return wanted.typed(cores=cores)


@dataclass(slots=True)
class TunedBench:
    """The pieces in their order.

    Attributes:
        subject, extent: what is played.
        cores: that the controller may use.
        folder: where finished pieces are kept.
        note: called with a line after each piece.
    """

    subject: Subject
    extent: Extent
    cores: int
    folder: Path
    note: Callable[[str], None] = field(repr=False)

    def run(self) -> Piece:
        """Every piece that is not there yet; gives all of them, with ``summary``.

        Raises:
            ConfigError: when the folder holds pieces of another subject or extent.
            ConchError: when a server, a controller or a replay fails.
        """
        self._claim()
        rounds = range(1, self.extent.rounds + 1)
        rough = self._piece("rough", self._rough)
        cold = [
            self._piece(f"cold-{n}", lambda n=n: self._cold(rough[DEFAULT], n))  # type: ignore[misc]
            for n in rounds
        ]
        settings = codec.settings(cold[0]["settings"])
        assert settings is not None  # a plan always has some
        capacities = []
        starts = rough
        for n in rounds:
            found = self._piece(
                f"capacity-{n}",
                lambda n=n, starts=starts: self._capacities(settings, starts, n),  # type: ignore[misc]
            )
            capacities.append(found)
            starts = {label: found[label]["rps"] or rough[label] for label in rough}
        carried = tuned_score.spread([c[DEFAULT]["rps"] for c in capacities]).median
        stationary = {
            f"{share:g}": [
                self._piece(
                    f"stationary-{share:g}-{n}",
                    lambda n=n, share=share: self._stationary(share * carried, n),  # type: ignore[misc]
                )
                for n in rounds
            ]
            for share in self.extent.shares
        }
        data = {"rough": rough, "cold": cold, "capacity": capacities, "stationary": stationary}
        return {**data, "summary": summary(data)}

    def _claim(self) -> None:
        """Make the folder ours."""
        self.folder.mkdir(parents=True, exist_ok=True)
        wanted = {
            "model": self.subject.model,
            "reference": self.subject.reference,
            "shapes": {name: list(dims) for name, dims in self.subject.shapes.items()},
            "slo_s": self.subject.slo_s,
            "cores": self.cores,
            "extent": codec.plain(asdict(self.extent)),
        }
        path = self.folder / "bench.json"
        if path.exists() and json.loads(path.read_text(encoding="utf-8")) != json.loads(
            json.dumps(wanted)
        ):
            raise ConfigError(
                f"{self.folder}: holds the pieces of another bench, must be of this one or empty.",
                hint="Give another --out, or remove it.",
            )
        path.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")

    def _piece(self, name: str, make: Callable[[], Piece]) -> Piece:
        """The kept piece, or a new one."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            made = make()
            part = path.with_suffix(".part")
            part.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
            part.replace(path)
        data: Piece = json.loads(path.read_text(encoding="utf-8"))
        self.note(f"{name}: {line_of(name, data)}")
        return data

    def _rough(self) -> Piece:
        """About what each configuration carries, by short probes; Conch's is not known yet."""
        configs = {
            REFERENCE: (self.subject.reference, self.subject.default(self.subject.reference)),
            DEFAULT: (self.subject.model, self.subject.default(self.subject.model)),
        }
        with self._served(configs) as (targets, client):
            found = {
                label: self._rough_of(client, target, number)
                for number, (label, target) in enumerate(targets.items())
            }
        if not all(found.values()):
            raise LoadError(
                f"bench tuned: no load meets {self.subject.slo_s * 1e3:g} ms ({found}).",
                hint="Give a longer --slo, or end other work on this machine.",
            )
        return {**found, CONCH: self.extent.cold_ratio * found[DEFAULT]}

    def _rough_of(self, client: TritonClient, target: ReplayTarget, number: int) -> float:
        """Up from what one request after the other gives, until a rate is not carried."""
        took_s = []
        for _ in range(20):
            start_s = time.monotonic()
            client.infer(target.model, target.inputs)
            took_s.append(time.monotonic() - start_s)
        start_rps = 0.5 / float(np.median(took_s))
        tried: list[Tried] = []
        while len(tried) < PROBES:
            rate_rps = tuned_score.next_rate(tried, start_rps, precision=ROUGH_PRECISION)
            if rate_rps is None:
                break
            tried.append(self._tried(client, target, rate_rps, number, window_s=ROUGH_S))
        return tuned_score.capacity_rps(tried)

    def _cold(self, default_rps: float, number: int) -> Piece:
        """The controller from a cold start, under a load that the default does not carry."""
        rate_rps = self.extent.cold_ratio * default_rps
        trace = traces.poisson(rate_rps, self.extent.cold_s, seed=number)
        run = self._play(trace, CONCH)
        last = [change.after for change in run.changes if change.ok]
        default = settings_of(self.subject.default(self.subject.model))
        return {
            "rate_rps": rate_rps,
            **tuned_score.cold_start(run),
            "settings": codec.plain(last[-1] if last else default),
            "log": changes_of(run),
        }

    def _capacities(self, settings: Settings, starts: Mapping[str, float], number: int) -> Piece:
        """What each of the three carries, their probes in turn."""
        default = self.subject.default(self.subject.model)
        configs = {
            REFERENCE: (self.subject.reference, self.subject.default(self.subject.reference)),
            DEFAULT: (self.subject.model, default),
            CONCH: (self.subject.model, with_settings(default, settings)),
        }
        tried: dict[str, list[Tried]] = {label: [] for label in configs}
        with self._served(configs) as (targets, client):
            for turn in range(PROBES):
                for label, target in targets.items():
                    rate_rps = tuned_score.next_rate(tried[label], starts[label])
                    if rate_rps is not None:
                        found = self._tried(
                            client,
                            target,
                            rate_rps,
                            1000 * number + turn,
                            window_s=self.extent.window_s,
                        )
                        tried[label].append(found)
        return {
            label: {
                "rps": tuned_score.capacity_rps(probes),
                "probes": [asdict(each) for each in probes],
            }
            for label, probes in tried.items()
        }

    def _tried(
        self,
        client: TritonClient,
        target: ReplayTarget,
        rate_rps: float,
        seed: int,
        *,
        window_s: float,
    ) -> Tried:
        """One probe, told."""
        slo_s = self.subject.slo_s
        found = probe(client, target, slo_s, rate_rps, window_s=window_s, seed=seed)
        self.note(
            f"  {target.model} {rate_rps:.0f} req/s: {found.attainment * 100:.2f} %, "
            f"p99 {found.p99_s * 1e3:.0f} ms"
        )
        return found

    def _stationary(self, rate_rps: float, number: int) -> Piece:
        """Default, controller, default over the same arrivals."""
        trace = traces.poisson(rate_rps, WARM_UP_S + self.extent.stationary_s, seed=100 + number)
        found: Piece = {"rate_rps": rate_rps}
        for key, rule in (("before", STATIC), ("conch", CONCH), ("after", STATIC)):
            run = self._play(trace, rule, warmup_s=WARM_UP_S)
            found[key] = slo.slo_attainment(run.latency_s, run.slo_s)
            found[f"{key}_p99_s"] = slo.percentile_s(run.latency_s, 99)
            if rule == CONCH:
                found["log"] = changes_of(run)
        return found

    def _play(self, trace: traces.Trace, rule: str, *, warmup_s: float = 0.0) -> ControlRun:
        """One run from the default config, on a server of its own.

        A server that takes both cores delays the client on this machine, too. That is part of
        every latency, and the same for all; such a run counts, as what it says is the worst case.

        Raises:
            LoadError: when the run is not valid for another reason.
        """
        subject = self.subject

        def publish(root: Path, _: int) -> None:
            """A copy with the default config, which has one instance."""
            _copy(
                subject.source, subject.model, root, subject.model, subject.default(subject.model)
            )

        served = Served(
            model=subject.model, label=subject.model, publish=publish, shapes=subject.shapes
        )
        asked = Play(
            trace=trace,
            warmup_s=warmup_s,
            rule=rule,
            policy=subject.policy(self.cores),
            instances=1,
        )
        run = play(served, asked)
        if not run.valid and LAGGED not in run.invalid_reason:
            raise LoadError(
                f"bench tuned: {run.invalid_reason}.",
                hint="Start it again: finished pieces are kept.",
            )
        return run

    @contextmanager
    def _served(
        self, configs: Mapping[str, tuple[str, ModelConfig]]
    ) -> Iterator[tuple[dict[str, ReplayTarget], TritonClient]]:
        """One server with a copy of a model for each label; idle ones take no CPU."""
        with tempfile.TemporaryDirectory(prefix="conch-bench-") as folder:
            root = Path(folder) / "repository"
            root.mkdir()
            for label, (model, config) in configs.items():
                _copy(self.subject.source, model, root, label, config)
            with TritonServer(
                root,
                models=list(configs),
                name=f"bench-{folder[-8:]}",
                log_path=Path(folder) / "triton.log",
                exit_timeout_s=2,
                restart=False,
            ) as server:
                url, key = server.endpoint.grpc_url, server.endpoint.admin_key
                with TritonClient(url, admin_key=key, deadline_s=30.0) as client:
                    shapes = dict(self.subject.shapes)
                    yield (
                        {
                            label: ReplayTarget(
                                grpc_url=url, model=label, inputs=make_inputs(config, shapes=shapes)
                            )
                            for label, (_, config) in configs.items()
                        },
                        client,
                    )


def _copy(source: Repository, model: str, root: Path, name: str, config: ModelConfig) -> None:
    """A copy of the model under another name, with this config."""
    shutil.copytree(source.root / model, root / name)
    renamed = model_config.parse(model_config.to_text(config))
    renamed.name = name
    Repository(root).write_config(name, renamed, reason="bench")
