"""Size and latency of variants.

Latency is *paired*: all variants take turns, round after round, in one process, so that a slow
spell of the machine hits all of them and the ratios stay true.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from export.session import Session
from export.steps.base import Tell

Examples = Callable[[Mapping[str, int]], Mapping[str, NDArray[Any]]]
Clock = Callable[[], float]

# One sample lasts at least this long, so that a model of 0.1 ms is not all clock.
_SAMPLE_S = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Latency of one variant by batch size.

    Attributes:
        ms: batch size → median over rounds, milliseconds for the whole batch.
        ratio: batch size → median over rounds of variant ÷ baseline in the same round.
    """

    ms: dict[int, float]
    ratio: dict[int, float]


def size_bytes(files: Sequence[Path]) -> int:
    """Bytes of a variant's files."""
    return sum(path.stat().st_size for path in files)


def latency(
    paths: Mapping[str, Path],
    *,
    baseline: str,
    batches: Sequence[int],
    axes: Mapping[str, int],
    examples: Examples,
    rounds: int,
    threads: int | None,
    outputs: Collection[str] = (),
    tell: Tell | None = None,
) -> dict[str, Latency]:
    """Paired latencies of ONNX files, in ONNX Runtime on this machine's CPU.

    Args:
        paths: variant → file.
        baseline: the variant that ratios are taken against.
        batches: batch sizes.
        axes: sizes of the symbolic axes.
        examples: gives inputs of the sizes asked for.
        rounds: how often each variant is timed at each batch size.
        threads: ONNX Runtime threads; all cores when None.
        outputs: those that are asked for; all when empty.
        tell: told after each batch size.
    """
    sessions = {
        name: Session(path, threads=threads, outputs=outputs) for name, path in paths.items()
    }
    result = {name: Latency(ms={}, ratio={}) for name in paths}
    for index, batch in enumerate(batches):
        if tell is not None:
            tell(index, len(batches), f"batch {batch}")
        inputs = examples({"batch": batch, **axes})
        calls = {name: partial(session.run, inputs) for name, session in sessions.items()}
        samples = paired(calls, rounds=rounds)
        for name, seconds in samples.items():
            result[name].ms[batch] = statistics.median(seconds) * 1e3
            result[name].ratio[batch] = paired_ratio(seconds, samples[baseline])
    return result


def paired(
    calls: Mapping[str, Callable[[], object]], *, rounds: int, clock: Clock = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of one call, for each name one sample a round.

    Each round starts with another name, so that none always runs after the same neighbour. Two
    untimed calls go before (allocation, caches); the second sets how many calls make a sample.
    """
    repeats = {}
    for name, call in calls.items():
        call()
        repeats[name] = max(1, math.ceil(_SAMPLE_S / max(_timed(call, 1, clock), 1e-6)))
    names = list(calls)
    samples: dict[str, list[float]] = {name: [] for name in names}
    for index in range(rounds):
        turn = index % len(names)
        for name in names[turn:] + names[:turn]:
            samples[name].append(_timed(calls[name], repeats[name], clock))
    return samples


def paired_ratio(seconds: Sequence[float], baseline: Sequence[float]) -> float:
    """Median over rounds of a sample ÷ the baseline's sample of the same round.

    Example:
        >>> paired_ratio([1.0, 2.0, 9.0], [2.0, 4.0, 18.0])
        0.5
    """
    return statistics.median(one / other for one, other in zip(seconds, baseline, strict=True))


def _timed(call: Callable[[], object], repeats: int, clock: Clock) -> float:
    """Mean seconds of one call over ``repeats`` calls."""
    start = clock()
    for _ in range(repeats):
        call()
    return (clock() - start) / repeats
