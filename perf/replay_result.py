"""What an open-loop replay saw: one row per request, and the figures made from the rows."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conch.errors import ConfigError
from perf import slo

LAG_LIMIT_S = 0.010
LAG_LIMIT_SLO_FRACTION = 0.1


class Outcome(IntEnum):
    """What became of a request."""

    OK = 0  # answered without an error before its deadline
    FAILED = 1  # the server or the transport answered with an error
    LATE = 2  # no answer before its deadline: an SLO miss, but nobody's error
    UNSENT = 3  # the replayer never sent it: the run is not valid


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayResult:
    """One run of one trace against one model. Times are seconds from the start of the trace.

    Attributes:
        trace_name: The trace's name.
        description: The trace's description.
        seed: The trace's seed.
        model: Which model was asked.
        duration_s: The trace's duration.
        slo_s: The SLO on latency.
        deadline_s: Seconds after its intended time at which a request was given up.
        processes: How many sender processes shared the trace.
        epoch_monotonic_s: The machine's monotonic clock at time 0: puts other events of this
            machine on the same axis.
        client_cpu_s: CPU seconds that the senders used.
        intended_s: float64 [n], ascending: when each request was meant to be sent.
        sent_s: float64 [n]: when it was handed to the transport; nan when never.
        done_s: float64 [n]: when its answer, error or deadline came; nan when none did.
        outcome: int8 [n], an ``Outcome``.
        error_index: int16 [n], into ``errors``; -1 where there was none.
        errors: The distinct error texts.
        trouble: What else spoils the run, such as a sender that died; empty when nothing did.
    """

    trace_name: str
    description: str
    seed: int | None
    model: str
    duration_s: float
    slo_s: float
    deadline_s: float
    processes: int
    epoch_monotonic_s: float
    client_cpu_s: float
    intended_s: NDArray[np.float64] = field(repr=False)
    sent_s: NDArray[np.float64] = field(repr=False)
    done_s: NDArray[np.float64] = field(repr=False)
    outcome: NDArray[np.int8] = field(repr=False)
    error_index: NDArray[np.int16] = field(repr=False)
    errors: tuple[str, ...] = ()
    trouble: str = ""

    @property
    def count(self) -> int:
        """Requests in the trace."""
        return int(self.intended_s.size)

    @property
    def latency_s(self) -> NDArray[np.float64]:
        """Seconds from the intended time to the answer; inf unless the outcome is OK."""
        return np.where(self.outcome == Outcome.OK, self.done_s - self.intended_s, np.inf)

    @property
    def lag_s(self) -> NDArray[np.float64]:
        """Seconds that the replayer itself was behind, for the requests that it sent."""
        lag = self.sent_s - self.intended_s
        return np.asarray(lag[~np.isnan(lag)], dtype=np.float64)

    @property
    def lag_limit_s(self) -> float:
        """The greatest p99 lag of a valid run: 10 ms, or a tenth of the SLO if that is more."""
        return max(LAG_LIMIT_S, LAG_LIMIT_SLO_FRACTION * self.slo_s)

    @property
    def invalid_reason(self) -> str:
        """Why the run says nothing about the server; empty when it is valid."""
        if self.trouble:
            return self.trouble
        if unsent := self.number_of(Outcome.UNSENT):
            return f"{unsent} of {self.count} requests were never sent"
        if not self.count:
            return "the trace has no requests"
        lag_s = slo.percentile_s(self.lag_s, 99)
        if lag_s > self.lag_limit_s:
            return (
                f"the replayer fell behind: p99 lag {lag_s * 1e3:.1f} ms, "
                f"allowed are {self.lag_limit_s * 1e3:.1f} ms"
            )
        return ""

    @property
    def valid(self) -> bool:
        """Whether the figures describe the server and not the replayer."""
        return not self.invalid_reason

    def number_of(self, outcome: Outcome) -> int:
        """How many requests ended so."""
        return int(np.count_nonzero(self.outcome == outcome))

    def error_counts(self) -> dict[str, int]:
        """How often each error text occurred, most frequent first."""
        counts = {
            text: int(np.count_nonzero(self.error_index == index))
            for index, text in enumerate(self.errors)
        }
        return dict(sorted(counts.items(), key=lambda item: -item[1]))

    def windows(self, window_s: float = 1.0) -> slo.Windows:
        """The run in aligned windows, up to the end of the trace."""
        return slo.windows(
            self.intended_s,
            self.latency_s,
            slo_s=self.slo_s,
            until_s=self.duration_s,
            window_s=window_s,
        )

    def summary(self) -> dict[str, Any]:
        """The figures as JSON values; milliseconds, requests a second, fractions; None for inf."""
        latency_s, lag_s = self.latency_s, self.lag_s
        in_time = np.isfinite(latency_s) & (self.done_s <= self.duration_s)
        seen = self.windows()
        cpu_us = self.client_cpu_s / max(1, lag_s.size) * 1e6
        return {
            "model": self.model,
            "trace": self.trace_name,
            "description": self.description,
            "seed": self.seed,
            "duration_s": round(self.duration_s, 3),
            "slo_ms": _ms(self.slo_s),
            "slo_attainment": _finite(slo.slo_attainment(latency_s, self.slo_s), 5),
            "good_seconds_fraction": _finite(slo.good_windows_fraction(seen), 4),
            "longest_miss_s": slo.longest_miss_s(seen),
            "requests": self.count,
            **{item.name.lower(): self.number_of(item) for item in Outcome},
            "offered_rps": round(self.count / self.duration_s, 2),
            "throughput_rps": round(float(in_time.sum()) / self.duration_s, 2),
            "goodput_rps": round(slo.goodput_rps(latency_s, self.slo_s, self.duration_s), 2),
            **{
                f"p{str(percent).replace('.', '')}_ms": _ms(slo.percentile_s(latency_s, percent))
                for percent in (50, 90, 95, 99, 99.9)
            },
            "max_ms": _ms(slo.percentile_s(latency_s, 100)),
            "errors": self.error_counts(),
            "valid": self.valid,
            "invalid_reason": self.invalid_reason,
            "lag_p50_ms": _ms(slo.percentile_s(lag_s, 50)),
            "lag_p99_ms": _ms(slo.percentile_s(lag_s, 99)),
            "lag_max_ms": _ms(slo.percentile_s(lag_s, 100)),
            "deadline_s": self.deadline_s,
            "processes": self.processes,
            "client_cpu_us_per_request": round(cpu_us, 1),
        }

    def save(self, folder: Path) -> Path:
        """Write ``requests.npz`` (every row) and ``summary.json``; return the summary's path."""
        folder.mkdir(parents=True, exist_ok=True)
        scalars = {
            name: getattr(self, name) for name in self.__dataclass_fields__ if name not in _ARRAYS
        }
        arrays = {name: getattr(self, name) for name in _ARRAYS}
        np.savez_compressed(
            folder / "requests.npz", scalars=np.array(json.dumps(scalars)), **arrays
        )
        path = folder / "summary.json"
        path.write_text(json.dumps(self.summary(), indent=2) + "\n", encoding="utf-8")
        return path

    @classmethod
    def load(cls, folder: Path) -> ReplayResult:
        """The result that ``save`` wrote there.

        Raises:
            ConfigError: when there is none, or it is damaged.
        """
        path = folder / "requests.npz"
        try:
            with np.load(path, allow_pickle=False) as data:
                scalars = json.loads(str(data["scalars"]))
                arrays = {name: data[name] for name in _ARRAYS}
            return cls(**{**scalars, "errors": tuple(scalars["errors"])}, **arrays)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{path}: no result of a replay ({error}).",
                hint="Give the folder that `conch perf replay --out` wrote.",
            ) from error


_ARRAYS = ("intended_s", "sent_s", "done_s", "outcome", "error_index")


def _ms(seconds: float) -> float | None:
    return _finite(seconds * 1e3, 3)


def _finite(value: float, digits: int) -> float | None:
    return round(value, digits) if np.isfinite(value) else None
