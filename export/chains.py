"""Whether the steps of a variant fit together. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from export.steps import Form, Part, StepSpec
from export.steps.prune import needs_recovery


def end_form(steps: Sequence[StepSpec], initial: Form) -> Form:
    """The form in which the chain ends.

    Args:
        steps: in order.
        initial: the form of the original: ``torch``, or ``onnx`` for an ONNX file.

    Raises:
        ValueError: when a step does not take what comes before it, or the end cannot be served.
    """
    form = initial
    for index, spec in enumerate(steps):
        step = spec.step
        if step.name == "to_onnx" and initial is Form.ONNX:
            raise ValueError(
                "an ONNX source has no to_onnx step: leave it out (`steps: []` serves it as it is)"
            )
        if step.takes is not form:
            raise ValueError(
                f"{step.name} takes a model in {step.takes} form, but would get {form}; "
                + _advice(step.takes, form)
            )
        later = {following.step.name for following in steps[index + 1 :]}
        if step.name == "search" and later:
            raise ValueError(f"search must be the last step, but {', '.join(later)} follows")
        form = step.gives
    if form is Form.TORCH:
        raise ValueError("the last step must give a file to serve; end with to_onnx")
    if fault := needs_recovery([spec.step for spec in steps]):
        raise ValueError(fault)
    return form


def parts_used(steps: Sequence[StepSpec]) -> frozenset[Part]:
    """The parts of the data that the steps ask for."""
    return frozenset().union(*(spec.step.uses for spec in steps))


def _advice(wanted: Form, seen: Form) -> str:
    """What to change when a step gets another form than it takes."""
    if seen is Form.TENSORRT:
        return "to_tensorrt must be the last step"
    if wanted is Form.TORCH:
        return "steps on the network itself come before to_onnx, and need a PyTorch source"
    return f"put the step that gives {wanted} before it"
