"""Numeric agreement of a variant with the reference model, and verdicts on it. Pure: numpy only.

Rows are samples: each output is ``[batch, ...]`` and is compared as ``[batch, features]``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Outputs = Mapping[str, Array]
Scores = NDArray[np.float64]
_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How close a variant's outputs are to the reference's, over all samples.

    Attributes:
        sample_count: rows compared.
        cosine: mean cosine similarity of a row, -1 to 1.
        cosine_min: that of the worst row.
        top1_agreement: fraction of rows whose largest entry is at the same place.
        sqnr_db: signal-to-quantization-noise ratio in dB; infinite when equal.
        max_abs_diff: largest absolute difference of two entries.
    """

    sample_count: int
    cosine: float
    cosine_min: float
    top1_agreement: float
    sqnr_db: float
    max_abs_diff: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One gate's judgement, with the numbers it rests on.

    Attributes:
        gate: what was judged, e.g. ``fidelity.cosine``.
        value: the figure of the variant.
        limit: the bound that the recipe sets.
        sense: ``at least`` or ``at most``.
        passed: whether the value keeps the bound; a value that is no number never does.
        unit: unit of both figures; empty for ratios.
        note: why it failed, where figures alone do not say it.
    """

    gate: str
    value: float
    limit: float
    sense: str
    passed: bool
    unit: str = ""
    note: str = ""

    def __str__(self) -> str:
        if self.note and not self.passed:
            return f"{self.gate}: {self.note}"
        unit = f" {self.unit}" if self.unit else ""
        value, limit = f"{self.value:.4g}", f"{self.limit:.4g}"
        if value == limit:  # "0.98, must be at least 0.98" would explain nothing
            value, limit = f"{self.value:.12g}", f"{self.limit:.12g}"
        return f"{self.gate} = {value}{unit}, must be {self.sense} {limit}{unit}"


def at_least(gate: str, value: float, limit: float, *, unit: str = "") -> Verdict:
    """The verdict on a figure that must reach ``limit``; NaN fails.

    Example:
        >>> at_least("fidelity.cosine", 0.82, 0.98).passed
        False
    """
    return Verdict(
        gate=gate, value=value, limit=limit, sense="at least", passed=value >= limit, unit=unit
    )


def at_most(gate: str, value: float, limit: float, *, unit: str = "") -> Verdict:
    """The verdict on a figure that must not exceed ``limit``; NaN fails."""
    return Verdict(
        gate=gate, value=value, limit=limit, sense="at most", passed=value <= limit, unit=unit
    )


def cosine(reference: Array, candidate: Array) -> Scores:
    """Cosine similarity of each row; float64 ``[batch]``.

    Two zero rows agree (1.0); a zero row and another do not (0.0); NaN stays NaN. What differs from
    1 by rounding alone is 1, so that equal outputs pass a bound of 1.0.

    Example:
        >>> cosine(np.array([[1.0, 0.0]]), np.array([[1.0, 1.0]])).round(3)
        array([0.707])
    """
    a, b = _rows(reference), _rows(candidate)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    dots = (a * b).sum(axis=1)
    scores = np.divide(dots, lengths, out=np.zeros_like(dots), where=lengths != 0)
    both_zero = ~a.any(axis=1) & ~b.any(axis=1)
    return np.where(both_zero | (np.abs(scores - 1) <= _ROUNDING), 1.0, scores)


def top1_agreement(reference: Array, candidate: Array) -> float:
    """Fraction of rows whose largest entry is at the same place in both; NaN when not finite."""
    a, b = _rows(reference), _rows(candidate)
    if not _finite(a, b):
        return math.nan
    return float((a.argmax(axis=1) == b.argmax(axis=1)).mean())


def sqnr_db(reference: Array, candidate: Array) -> float:
    """10 log10(signal power / noise power) in dB; infinite when the two are equal.

    Example:
        >>> round(sqnr_db(np.array([[10.0]]), np.array([[9.0]])))
        20
    """
    a, b = _rows(reference), _rows(candidate)
    if not _finite(a, b):
        return math.nan
    noise = float(((a - b) ** 2).sum())
    signal = float((a**2).sum())
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def max_abs_diff(reference: Array, candidate: Array) -> float:
    """Largest absolute difference of two entries; NaN when one of them is NaN."""
    a, b = _rows(reference), _rows(candidate)
    return float(np.abs(a - b).max()) if a.size else 0.0


def compare(
    reference: Sequence[Outputs], candidate: Sequence[Outputs], *, output: str | None = None
) -> Agreement:
    """The agreement over batches of outputs; with several outputs, the worst of each figure.

    Args:
        reference: one mapping of output name to array for each batch.
        candidate: the same batches from the variant.
        output: compare only this output; all of them by default.

    Raises:
        ValueError: when the two differ in batches, names or shapes, or there is nothing to compare.
    """
    names = [output] if output else sorted(reference[0]) if reference else []
    found = [_compare_one(list(_pairs(reference, candidate, name))) for name in names]
    if not found:
        raise ValueError("no outputs to compare")
    return Agreement(
        sample_count=found[0].sample_count,
        cosine=_worst([one.cosine for one in found]),
        cosine_min=_worst([one.cosine_min for one in found]),
        top1_agreement=_worst([one.top1_agreement for one in found]),
        sqnr_db=_worst([one.sqnr_db for one in found]),
        max_abs_diff=-_worst([-one.max_abs_diff for one in found]),
    )


def close(reference: Outputs, candidate: Outputs, *, atol: float, rtol: float) -> str:
    """Why the two are not numerically equal; empty when they are.

    The bound is numpy's: ``|candidate - reference| <= atol + rtol * |reference|``.
    """
    for name, expected in reference.items():
        got = candidate.get(name)
        if got is None:
            return f"output {name} is missing"
        if got.shape != expected.shape:
            return f"output {name} has shape {list(got.shape)}, expected {list(expected.shape)}"
        if not np.isfinite(got.astype(np.float64)).all():
            return f"output {name} holds NaN or infinity"
        if not np.allclose(got, expected, atol=atol, rtol=rtol):
            worst = max_abs_diff(expected, got)
            return f"output {name} differs by up to {worst:.3g}"
    return ""


def _compare_one(pairs: list[tuple[Array, Array]]) -> Agreement:
    """The agreement of one output over its batches."""
    scores = np.concatenate([cosine(a, b) for a, b in pairs])
    weights = np.array([a.shape[0] for a, _ in pairs])
    top1 = np.array([top1_agreement(a, b) for a, b in pairs])
    flat_a = np.concatenate([_rows(a).ravel() for a, _ in pairs])[None]
    flat_b = np.concatenate([_rows(b).ravel() for _, b in pairs])[None]
    return Agreement(
        sample_count=len(scores),
        cosine=float(scores.mean()),
        cosine_min=float(scores.min()),
        top1_agreement=float(np.average(top1, weights=weights)),
        sqnr_db=sqnr_db(flat_a, flat_b),
        max_abs_diff=max_abs_diff(flat_a, flat_b),
    )


def _pairs(
    reference: Sequence[Outputs], candidate: Sequence[Outputs], name: str
) -> Iterator[tuple[Array, Array]]:
    """The arrays of one output, batch by batch."""
    if len(reference) != len(candidate):
        raise ValueError(f"{len(candidate)} batches of outputs, expected {len(reference)}")
    for expected, got in zip(reference, candidate, strict=True):
        if name not in got or name not in expected:
            raise ValueError(f"output {name!r} is missing")
        if expected[name].shape != got[name].shape:
            raise ValueError(
                f"output {name} has shape {list(got[name].shape)}, "
                f"expected {list(expected[name].shape)}"
            )
        yield expected[name], got[name]


def _rows(array: Array) -> Scores:
    """The array as float64 ``[batch, features]``."""
    values = np.asarray(array, dtype=np.float64)
    return values.reshape(values.shape[0] if values.ndim else 1, -1)


def _finite(*arrays: Scores) -> bool:
    """Whether no entry is NaN or infinite."""
    return all(bool(np.isfinite(array).all()) for array in arrays)


def _worst(figures: Sequence[float]) -> float:
    """The smallest figure; NaN when one is NaN (Python's ``min`` would depend on the order)."""
    return float(np.min(np.array(figures)))
