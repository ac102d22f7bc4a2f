"""The search: which chains it stands for, and which of their outcomes is taken."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from export.parity import at_least, at_most
from export.search import Outcome, Search, expand, select
from export.steps import Form, Part, StepSpec

TO_ONNX = StepSpec.model_validate("to_onnx")


def chains(**options):
    """Candidate name → labels of its steps, of a search after ``to_onnx``."""
    found = expand(Search.model_validate(options), [TO_ONNX])
    return {one.name: [spec.step.label for spec in one.steps] for one in found}


def an_outcome(name="dynamic", *, latency=0.5, size=0.25, fidelity=0.99, gate=0.98, **more):
    """One that was built; it passes when its fidelity reaches ``gate``."""
    return Outcome(
        name=name,
        size_ratio=size,
        latency_ratio={8: latency},
        fidelity=fidelity,
        gates=(at_least("fidelity.cosine", fidelity, gate),),
        **more,
    )


def chosen(*outcomes, **options):
    """The name of the selected outcome."""
    return select(Search.model_validate(options), outcomes).chosen


# ------------------------------------------------------------------ expand


def test_symmetric_candidates_are_reencoded_for_the_cpu():
    """U8 and dynamic ones are what the CPU is fast on already."""
    found = chains(candidates=["dynamic", "static_u8", "static_s8", "smoothquant", "modelopt"])
    assert found == {
        "dynamic": ["to_onnx", "quantize dynamic"],
        "static u8": ["to_onnx", "quantize static u8"],
        "static s8": ["to_onnx", "quantize static s8", "reencode u8"],
        "smoothquant": ["to_onnx", "quantize smoothquant", "reencode u8"],
        "modelopt": ["to_onnx", "quantize modelopt", "reencode u8"],
    }


def test_tensorrt_candidates_end_in_to_tensorrt_and_are_not_reencoded():
    """Nor do they have biases in int32, whatever the options said."""
    given = ["static_s8", "fp16", {"method": "static_qdq", "activations": "s8", "op_types": ["Conv"], "quantize_bias": True}]  # fmt: skip  # noqa: E501
    search = Search.model_validate({"target": "tensorrt", "candidates": given})
    found = expand(search, [TO_ONNX])
    assert all(one.steps[-1].step.name == "to_tensorrt" for one in found)
    assert all("reencode" not in [spec.step.name for spec in one.steps] for one in found)
    static = [one.steps[1].quantize for one in found if one.steps[1].quantize]
    assert [one.quantize_bias for one in static] == [False, False]


def test_layers_are_ranked_before_sensitive_ones_are_excluded():
    """Each candidate without and with the exclusion; fp16 has none, so it is there once."""
    found = chains(candidates=["dynamic", "fp16"], exclude_sensitive=[0, 6])
    assert found == {
        "dynamic": ["to_onnx", "quantize dynamic"],
        "dynamic -6": ["to_onnx", "rank layers", "quantize dynamic -6"],
        "to_fp16": ["to_onnx", "to_fp16"],
    }


def test_calibrations_multiply_static_candidates_only():
    """ModelOpt has no percentile; SmoothQuant and dynamic take ranges in one way."""
    found = chains(
        candidates=["static_u8", "modelopt", "smoothquant", "dynamic"],
        calibrations=["minmax", "entropy", "percentile"],
    )
    assert list(found) == [
        "static u8", "static u8 entropy", "static u8 percentile",
        "modelopt", "modelopt entropy", "smoothquant", "dynamic",
    ]  # fmt: skip


def test_full_options_are_a_candidate_of_their_own_name():
    """Two that differ in options that the label does not tell are both tried."""
    options = {"method": "static_qdq", "op_types": ["MatMul"]}
    found = expand(Search.model_validate({"candidates": ["static_u8", options]}), [TO_ONNX])
    assert [one.name for one in found] == ["static u8", "static u8 (2)"]
    assert found[1].steps[1].quantize.op_types == ("MatMul",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "tensorrt", "candidates": ["dynamic"]}, "TensorRT takes no dynamic"),
        ({"target": "tensorrt", "candidates": [{"method": "static_qdq"}]}, "static u8"),
        ({"candidates": ["dynamic", "dynamic"]}, "dynamic is there twice"),
        ({"candidates": []}, "at least 1"),
        ({"candidates": ["int3"]}, "int3|Input should be"),
        ({"exclude_sensitive": [-1]}, "greater than or equal to 0"),
    ],
)
def test_bad_options_are_refused(options, message):
    """Before anything is built."""
    with pytest.raises(ValidationError, match=message):
        Search.model_validate(options)


def test_search_is_a_last_step_with_the_form_and_data_of_its_candidates():
    """What the check of chains asks of it."""
    cpu = Search.model_validate({"candidates": ["dynamic"]})
    assert (cpu.takes, cpu.gives, cpu.uses) == (Form.ONNX, Form.ONNX, frozenset())
    trt = Search.model_validate({"target": "tensorrt", "candidates": ["smoothquant"]})
    assert (trt.gives, trt.uses) == (Form.TENSORRT, {Part.CALIBRATION})
    ranked = Search.model_validate({"candidates": ["dynamic"], "exclude_sensitive": [3]})
    assert ranked.uses == {Part.CALIBRATION}


# ------------------------------------------------------------------ select


def test_the_preference_decides_among_those_that_pass():
    """Fastest, smallest or truest."""
    fast = an_outcome("fast", latency=0.3, size=0.30, fidelity=0.985)
    small = an_outcome("small", latency=0.5, size=0.20, fidelity=0.990)
    true = an_outcome("true", latency=0.4, size=0.25, fidelity=0.999)
    every = (fast, small, true)
    assert chosen(*every) == "fast"
    assert chosen(*every, prefer="size") == "small"
    assert chosen(*every, prefer="fidelity") == "true"


def test_a_candidate_that_misses_a_gate_is_never_taken():
    """However fast it is."""
    assert chosen(an_outcome("wrong", latency=0.1, fidelity=0.8), an_outcome("right")) == "right"


def test_skipped_and_failed_candidates_are_never_taken():
    """They have no verdicts, which is not the same as passing."""
    missing = Outcome(name="smoothquant", status="skipped", reason="needs the package nncf")
    broken = Outcome(name="modelopt", status="failed", reason="it crashed")
    assert chosen(missing, broken, an_outcome("dynamic")) == "dynamic"
    assert chosen(missing, broken) is None


def test_nothing_is_taken_when_nothing_passes_and_each_reason_is_told():
    """The plain export is kept."""
    found = select(
        Search(),
        [
            an_outcome("static s8", fidelity=0.82),
            Outcome(name="smoothquant", status="skipped", reason="needs nncf."),
        ],
    )
    assert found.chosen is None
    assert found.reason == (
        "no candidate passes, kept the plain export "
        "(static s8: fidelity.cosine = 0.82, must be at least 0.98 | smoothquant: needs nncf)"
    )


@pytest.mark.parametrize("prefer", ["latency", "fidelity"])
def test_a_slower_candidate_is_not_taken(prefer):
    """INT8 that is slower than float on its own target is no gain."""
    found = select(Search(prefer=prefer), [an_outcome("static s8", latency=1.3)])
    assert found.chosen is None
    assert found.reason == (
        "INT8 is slower here (static s8, the fastest that passes: 1.30 at batch 8 of float's "
        "latency): kept the plain export"
    )


def test_a_slower_candidate_is_taken_where_size_is_asked_for():
    """A latency gate can still refuse it."""
    slow = an_outcome("slow", latency=1.3)
    assert chosen(slow, prefer="size") == "slow"
    gated = Outcome(name="slow", size_ratio=0.2, gates=(at_most("latency.batch8.ratio", 1.3, 1.0),))
    assert chosen(gated, prefer="size") is None


def test_latency_is_the_geometric_mean_over_batch_sizes():
    """Twice as slow at batch 1 and twice as fast at batch 8 is no gain."""
    even = Outcome(name="even", size_ratio=0.3, latency_ratio={1: 2.0, 8: 0.5})
    assert chosen(even) is None
    assert chosen(Outcome(name="gain", size_ratio=0.3, latency_ratio={1: 1.6, 8: 0.5})) == "gain"


def test_bytes_stand_for_latency_on_tensorrt():
    """No GPU times the candidates, so latencies of a CPU must not count."""
    big = Outcome(name="big", size_ratio=0.5, latency_ratio={8: 0.1})
    small = Outcome(name="small", size_ratio=0.3, latency_ratio={8: 3.0})
    assert chosen(big, small, target="tensorrt", candidates=["smoothquant"]) == "small"


def test_the_reason_tells_the_figures():
    """Those of the chosen one, and how many there were."""
    found = select(Search(), [an_outcome("a", latency=0.4), an_outcome("b", fidelity=0.9)])
    assert found.reason == (
        "a, the only one of 2 that passes: fidelity 0.9900, 4.0x smaller, 2.5x faster at batch 8"
    )


def test_gain_within_the_noise_is_no_gain():
    """The same file must not be taken in one run and left in the next."""
    assert chosen(Outcome(name="even", size_ratio=0.9, latency_ratio={1: 0.97, 8: 0.96})) is None


def test_unknown_candidate_is_told_with_what_was_meant():
    """Not with the innards of the schema."""
    with pytest.raises(
        ValueError, match="'static_uint8' is no candidate; did you mean 'static_u8'"
    ):
        Search.model_validate({"candidates": ["dynamic", "static_uint8"]})
