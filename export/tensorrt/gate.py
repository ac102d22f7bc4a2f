"""Does TensorRT take this ONNX file? Its own parser and builder say so, with or without a GPU.

On a host with a GPU and ``tensorrt`` these are TensorRT's. Elsewhere they are those of
``tensorrt-rtx``, which run on the processor alone: the same parser family and the same rules for
types and Q/DQ, other kernels. Its engine is thrown away; Triton could not load it.
A refusal is a finding, told in ``facts``; ``verdicts`` judges it.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from export.optional import ToolMissing
from export.parity import Verdict
from export.tensorrt import process
from export.tensorrt.build_recipe import BuildRecipe, as_request
from export.tensorrt.process import Outcome

REAL, RTX = "tensorrt", "tensorrt_rtx"
PARSE, BUILD, TYPES = "tensorrt.parse", "tensorrt.build", "tensorrt.types"

# numpy's names of TensorRT's types: what config.pbtxt may say of an engine's tensors.
_NUMPY = {
    "FLOAT": "float32", "HALF": "float16", "INT8": "int8", "INT32": "int32", "INT64": "int64",
    "BOOL": "bool", "UINT8": "uint8",
}  # fmt: skip
_NO_DRIVER = ("cudaError 35", "Cuda Runtime")
_LEADS = (
    re.compile(r"^Assertion failed: [^:]*(?:::[^:]*)*: "),
    re.compile(r"^\[[^\]]*\] "),
    re.compile(r"^\w+(?:::\w+)*: Error Code \d+: "),
    re.compile(r"^[A-Z]\w*(?: \w+)* \((?=.*\)$)"),
    re.compile(r"^\w*Exception: "),
    re.compile(r"^[\w./]+\.(?:cpp|h):\d+: "),
    re.compile(r"^CHECK\(.*?\) failed\. "),
)
_WHERE = re.compile(r"\.? In \w+ at /\S+$|\)+$")


def tool() -> str:
    """The import name of the parser and builder to ask on this host.

    Raises:
        ToolMissing: when there is none; the variant is skipped.
    """
    if _installed(REAL) and "gpu" in process.probe().values:
        return REAL
    if _installed(RTX):
        return RTX
    raise ToolMissing(
        "to_tensorrt: needs a GPU with tensorrt, or the tensorrt-rtx check.",
        hint="pip install 'conch-serving[trtcheck]'",
    )


def ask(onnx: Path, build: BuildRecipe, *, with_tool: str, timeout_s: float) -> dict[str, Any]:
    """What TensorRT says of the file, as JSON values.

    Args:
        onnx: the file.
        build: gives the shapes to build for.
        with_tool: see ``tool``.
        timeout_s: a build that takes longer counts as refused.
    """
    request = {
        "action": "gate",
        "module": with_tool,
        "onnx": str(onnx),
        "build": as_request(build),
        # CUDA reserves address space without end, so only a build without it can be bounded.
        "memory_bytes": process.memory_limit_bytes() if with_tool == RTX else None,
    }
    return summary(process.run(request, timeout_s=timeout_s), with_tool=with_tool)


def summary(outcome: Outcome, *, with_tool: str) -> dict[str, Any]:
    """The gate's facts from what the runner noted and how it ended.

    ``errors`` has one line for each reason, ``unsupported`` the node numbers of each part of the
    graph that the parser cannot take, ``tensors`` the engine's types in numpy's words.
    """
    values = outcome.values
    errors = [clean(error) for error in values.get("errors", ())]
    if outcome.ended:
        errors.append(f"{with_tool} {outcome.ended}")
    return {
        "tool": with_tool.replace("_", "-"),
        "version": values.get("version", ""),
        "parsed": bool(values.get("parsed", False)),
        "built": bool(values.get("built", False)) and not outcome.ended,
        "errors": list(dict.fromkeys(errors)),
        "unsupported": [
            {"first": nodes[0], "last": nodes[-1], "count": len(nodes)}
            for nodes in values.get("unsupported", ())
        ],
        "engine_bytes": values.get("engine_bytes"),
        "tensors": {n: _NUMPY.get(t, t.lower()) for n, t in values.get("tensors", {}).items()},
    }


def clean(error: Mapping[str, str]) -> str:
    """One line for a person from an error of the parser, or of the builder's log.

    Example:
        >>> clean({"code": "UNSUPPORTED_NODE", "operator": "Det", "node": "d", "text": "false"})
        'operator Det (node d) is not supported'
    """
    operator, node = error.get("operator", ""), error.get("node", "")
    named = f"operator {operator} (node {node or 'without a name'})" if operator else ""
    if "Plugin not found" in error["text"]:
        return f"{named} is not known to TensorRT, and no plugin has its name"
    text = _reason(error["text"].splitlines())
    if not text or text == "false":
        return f"{named} is not supported".strip()
    text = text.removeprefix(f"{node}: ")
    return f"{named}: {text}" if named else text


def mismatched(gate: Mapping[str, Any], dtypes: Mapping[str, str]) -> list[str]:
    """Tensors whose type in the engine is not that of the recipe: Triton would refuse to load it.

    Args:
        gate: what ``ask`` gave.
        dtypes: name → numpy dtype, of the recipe's inputs and outputs.
    """
    found = gate["tensors"]
    return [
        f"{name} is {found[name]} in the engine and {dtype} in the recipe"
        for name, dtype in dtypes.items()
        if name in found and found[name] != dtype
    ]


def verdicts(facts: Mapping[str, Any]) -> tuple[Verdict, ...]:
    """The gate's verdicts from an artifact's facts; none when the artifact met no such gate.

    A file that is not parsed is not built either, and has one verdict.
    """
    gate = facts.get("tensorrt", {}).get("gate")
    if gate is None:
        return ()
    reason = "; ".join(gate["errors"][:3])
    if len(gate["errors"]) > 3:
        reason += f"; and {len(gate['errors']) - 3} more"
    note = f"{reason or 'refused without a reason'} [{gate['tool']} {gate['version']}]"
    if not gate["parsed"]:
        return (_verdict(PARSE, False, note),)
    found = [_verdict(PARSE, True, ""), _verdict(BUILD, gate["built"], note)]
    if types := gate.get("mismatched"):
        found.append(_verdict(TYPES, False, "; ".join(types)))
    return tuple(found)


def _verdict(gate: str, passed: bool, note: str) -> Verdict:
    """Yes or no as a figure: 1 is wanted."""
    return Verdict(
        gate=gate,
        value=float(passed),
        limit=1.0,
        sense="at least",
        passed=passed,
        note="" if passed else note,
    )


def _reason(lines: Sequence[str]) -> str:
    """What went wrong, without source files and functions of TensorRT's own."""
    kept = [line.strip() for line in lines if not any(word in line for word in _NO_DRIVER)]
    # The parser puts "Invalid Node - NAME" first and the layer's own words below it.
    kept = [line for line in kept if line and not line.startswith("Invalid Node - ")] or kept
    text = kept[0] if kept else ""
    before = ""
    while text != before:
        before = text
        for lead in _LEADS:
            text = lead.sub("", text, count=1)
    return _first_sentence(_WHERE.sub("", text)).strip().strip('"')


def _first_sentence(text: str) -> str:
    """The text up to its first full stop; advice for other hardware follows it."""
    return re.split(r"\.\s", text, maxsplit=1)[0].rstrip(".")


def _installed(module: str) -> bool:
    """Whether it could be imported; it is not."""
    return importlib.util.find_spec(module) is not None
