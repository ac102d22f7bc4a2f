"""The search for the best quantization: which chains to build, and which result to take. Pure.

Candidates are ordinary chains of steps, so each is cached, judged and reported like a variant.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from export.parity import Verdict
from export.steps import StepSpec
from export.steps.quantize import ModelOptQdq, QuantizeMethod, SmoothQuant, StaticQdq
from export.steps.search import Search

__all__ = ["Candidate", "Outcome", "Search", "Selection", "expand", "select"]


WORTH_IT = 0.95
"""Latency ÷ the plain export's below which a candidate counts as faster; nearer is noise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One chain of the search.

    Attributes:
        name: unique in the search, e.g. ``static_s8 entropy -6``.
        steps: from the original on, without ``search``.
    """

    name: str
    steps: tuple[StepSpec, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one candidate.

    Attributes:
        name, steps: the candidate's.
        status: ``skipped`` when a tool is missing, ``failed`` when it could not be built.
        reason: why it was skipped or failed.
        gates: the verdicts on it.
        size_ratio: size ÷ the baseline's.
        latency_ratio: batch size → latency ÷ the baseline's; empty when not measured.
        fidelity: the figure of the fidelity gate, more is better; None when unknown.
    """

    name: str
    steps: tuple[StepSpec, ...] = ()
    status: Literal["built", "skipped", "failed"] = "built"
    reason: str = ""
    gates: tuple[Verdict, ...] = ()
    size_ratio: float | None = None
    latency_ratio: Mapping[int, float] = field(default_factory=dict)
    fidelity: float | None = None

    @property
    def passed(self) -> bool:
        """Whether it exists and keeps every gate."""
        return self.status == "built" and all(verdict.passed for verdict in self.gates)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which candidate becomes the variant.

    Attributes:
        chosen: its name; None when the plain export is kept.
        reason: why, with the figures.
    """

    chosen: str | None
    reason: str


def expand(search: Search, prefix: Sequence[StepSpec]) -> tuple[Candidate, ...]:
    """The chains that the search stands for, in the order of its lists.

    Args:
        search: the options.
        prefix: the variant's steps before ``search``; they end in ONNX form.
    """
    found: list[Candidate] = []
    for options in search.candidates:
        for keep in search.exclude_sensitive:
            for spec in _variations(options, search, keep):
                steps = (*prefix, *_around(spec, search))
                if all(one.steps != steps for one in found):
                    name = _unused(spec.step.label.removeprefix("quantize "), found)
                    found.append(Candidate(name=name, steps=steps))
    return tuple(found)


def select(search: Search, outcomes: Sequence[Outcome]) -> Selection:
    """The best of the candidates that pass, or the plain export.

    Latency is the geometric mean of the ratios over the measured batch sizes.
    A candidate that is slower than the plain export on the CPU is not taken for its latency or its
    fidelity, only where size is asked for.
    """
    passed = [one for one in outcomes if one.passed]
    if not passed:
        return Selection(chosen=None, reason=_none_passed(outcomes))
    by_latency = search.target == "cpu" and search.prefer != "size"
    faster = [one for one in passed if not by_latency or _latency(one) < WORTH_IT]
    if not faster:
        best = min(passed, key=lambda one: (_latency(one), one.name))
        return Selection(chosen=None, reason=f"{_slower(best)}: kept the plain export")
    best = min(faster, key=lambda one: (*_rank(one, search), one.name))
    if len(outcomes) == 1:
        why = ""
    elif len(passed) == 1:
        why = f", the only one of {len(outcomes)} that passes"
    else:
        why = f", the {_ADJECTIVES[_preferred(search)]} of {len(passed)} that pass"
    return Selection(chosen=best.name, reason=f"{best.name}{why}: {_figures(best)}")


_ADJECTIVES = {"latency": "fastest", "size": "smallest", "fidelity": "truest"}


def _variations(options: str | QuantizeMethod, search: Search, keep: int) -> Iterator[StepSpec]:
    """The quantize (or to_fp16) steps that one entry of ``candidates`` stands for."""
    if options == "fp16":
        yield StepSpec.model_validate("to_fp16")
        return
    if isinstance(options, QuantizeMethod):
        own = options.model_dump(exclude_unset=True)
        yield _quantize({**own, "exclude_sensitive": keep or options.exclude_sensitive}, search)
        return
    for calibration in search.calibrations:
        if (given := _named(options, calibration)) is not None:
            yield _quantize({**given, "exclude_sensitive": keep}, search)


def _unused(label: str, taken: Sequence[Candidate]) -> str:
    """The label, with a number when another candidate has it: labels do not tell all options."""
    names = {one.name for one in taken}
    numbered = (f"{label} ({number})" for number in itertools.count(2))
    return next(name for name in itertools.chain([label], numbered) if name not in names)


def _named(name: str, calibration: str) -> dict[str, Any] | None:
    """Options of a candidate that is given by name; None when it has no such calibration."""
    if name.startswith("static_"):
        kind = name.removeprefix("static_")
        return {"method": "static_qdq", "activations": kind, "calibration": calibration}
    if name == "modelopt":
        own = {"minmax": "max", "entropy": "entropy"}.get(calibration)
        return None if own is None else {"method": name, "calibration": own}
    return {"method": name}


def _quantize(options: Mapping[str, Any], search: Search) -> StepSpec:
    """The step with these options, as the target needs it."""
    given = {key: value for key, value in options.items() if value or key != "exclude_sensitive"}
    spec = StepSpec.model_validate({"quantize": given})
    if search.target == "tensorrt" and isinstance(spec.quantize, StaticQdq):
        given["quantize_bias"] = False
        spec = StepSpec.model_validate({"quantize": given})
    return spec


def _around(spec: StepSpec, search: Search) -> list[StepSpec]:
    """The step with what must come before and after it."""
    steps = [spec]
    if spec.quantize is not None and spec.quantize.exclude_sensitive:
        steps.insert(0, StepSpec.model_validate("rank_layers"))
    if search.target == "tensorrt":
        steps.append(StepSpec.model_validate("to_tensorrt"))
    elif spec.quantize is not None and _is_signed(spec.quantize):
        steps.append(StepSpec.model_validate("reencode"))
    return steps


def _is_signed(options: QuantizeMethod) -> bool:
    """Whether the method gives S8 activations, slow on a CPU."""
    if isinstance(options, StaticQdq):
        return options.activations == "s8"
    return isinstance(options, ModelOptQdq | SmoothQuant)


def _preferred(search: Search) -> str:
    """What decides: latency on TensorRT cannot be measured here, so bytes stand for it."""
    return "size" if (search.target, search.prefer) == ("tensorrt", "latency") else search.prefer


def _rank(one: Outcome, search: Search) -> tuple[float, ...]:
    """What decides first, then the others; less is better."""
    size = math.inf if one.size_ratio is None else one.size_ratio
    fidelity = -math.inf if one.fidelity is None else one.fidelity
    figures = {"latency": _latency(one), "size": size, "fidelity": -fidelity}
    first = _preferred(search)
    rest = [value for key, value in figures.items() if key != first]
    return (figures[first], *(rest if search.target == "cpu" else rest[1:]))


def _latency(one: Outcome) -> float:
    """Geometric mean of the ratios over batch sizes; infinite when not measured.

    Example:
        >>> _latency(Outcome(name="a", latency_ratio={1: 0.5, 8: 2.0}))
        1.0
    """
    ratios = list(one.latency_ratio.values())
    return statistics.geometric_mean(ratios) if ratios else math.inf


def _figures(one: Outcome) -> str:
    """Fidelity, size and latency in words."""
    parts = []
    if one.fidelity is not None:
        parts.append(f"fidelity {one.fidelity:.4f}")
    if one.size_ratio:
        larger = one.size_ratio > 1
        parts.append(f"{one.size_ratio if larger else 1 / one.size_ratio:.1f}x "
                     f"{'larger' if larger else 'smaller'}")  # fmt: skip
    parts += [f"{_times(ratio)} at batch {batch}" for batch, ratio in one.latency_ratio.items()]
    return ", ".join(parts) or "nothing was measured"


def _times(ratio: float) -> str:
    """A latency ratio in words.

    Example:
        >>> _times(0.5), _times(4.0)
        ('2.0x faster', '4.0x slower')
    """
    return f"{1 / ratio:.1f}x faster" if ratio <= 1 else f"{ratio:.1f}x slower"


def _slower(best: Outcome) -> str:
    """Why no candidate is worth its loss."""
    if not best.latency_ratio:
        return f"{best.name} passes its gates, but its latency was not measured"
    told = ", ".join(f"{r:.2f} at batch {batch}" for batch, r in best.latency_ratio.items())
    gains = "is slower" if _latency(best) > 1 else "gains next to nothing"
    return f"INT8 {gains} here ({best.name}, the fastest that passes: {told} of float's latency)"


def _none_passed(outcomes: Sequence[Outcome]) -> str:
    """What each candidate missed."""
    told = []
    for one in outcomes:
        failed = [str(verdict) for verdict in one.gates if not verdict.passed]
        told.append(f"{one.name}: {one.reason or '; '.join(failed)}".rstrip(". "))
    return f"no candidate passes, kept the plain export ({' | '.join(told)})"
