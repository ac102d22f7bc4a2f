"""What a Triton release can run: its ONNX Runtime and TensorRT, and the newest ONNX they take.

Sources. ONNX Runtime by release: triton-inference-server/server
``docs/introduction/compatibility.md`` (24.04 to 26.08). Opset and IR by ONNX Runtime: measured on
the PyPI wheels 1.17.3 to 1.31.1 by loading files of too new an opset and IR, whose refusal names
the limit. TensorRT by release: where a project states what NVIDIA's container of that month holds.
Everything else is inferred from its neighbours, and marked so. Pure.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass

from conch.errors import ConfigError

LOCAL = "local"
"""The bundled Triton 2.51.0: its ONNX Runtime is that of this environment, TensorRT it has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A Triton to publish for.

    Attributes:
        release: container release such as ``26.07``, or ``local``.
        onnxruntime: version of its ONNX Runtime backend.
        max_opset: newest opset of the default domain that it takes.
        max_ir: newest IR version that it takes.
        tensorrt: version of its TensorRT, as far as it is known; empty where it has none.
        inferred: whether ONNX Runtime's version is a guess from the release before.
        tensorrt_inferred: the same for TensorRT's.
    """

    release: str
    onnxruntime: str
    max_opset: int
    max_ir: int
    tensorrt: str = ""
    inferred: bool = False
    tensorrt_inferred: bool = False


# ONNX Runtime minor version → (newest opset, newest IR version).
_ONNX: dict[tuple[int, int], tuple[int, int]] = {
    (1, 17): (20, 9),
    (1, 18): (21, 10),
    (1, 19): (21, 10),
    (1, 20): (21, 10),
    (1, 21): (22, 10),
    (1, 22): (22, 10),
    (1, 23): (23, 11),
    (1, 24): (25, 13),
    (1, 27): (26, 13),
    (1, 28): (26, 13),
    (1, 31): (26, 13),
}

# Release → (ONNX Runtime, TensorRT); "~" marks what is inferred.
_RELEASES: dict[str, tuple[str, str]] = {
    "24.04": ("1.17.3", "8.6.3"),
    "24.05": ("1.18.0", "10.0.1"),
    "24.06": ("1.18.0", "~10"),
    "24.07": ("1.18.1", "~10"),
    "24.08": ("1.18.1", "~10"),
    "24.09": ("1.19.2", "~10"),
    "24.10": ("1.19.2", "~10"),
    "24.11": ("1.19.2", "~10"),
    "24.12": ("1.20.1", "~10"),
    "25.01": ("1.20.1", "~10"),
    "25.02": ("1.20.1", "~10"),
    "25.03": ("1.21.0", "~10"),
    "25.04": ("1.21.0", "~10"),
    "25.05": ("1.22.0", "~10"),
    "25.06": ("1.22.0", "~10"),
    "25.07": ("1.22.0", "~10"),
    "25.08": ("1.23.0", "~10"),
    "25.09": ("1.23.0", "~10"),
    "25.10": ("1.23.1", "~10"),
    "25.11": ("1.23.2", "~10"),
    "25.12": ("1.23.2", "~10"),
    "26.01": ("1.23.2", "~10"),
    "26.02": ("1.24.1", "~10"),
    "26.03": ("1.24.2", "~10"),
    "26.04": ("1.24.4", "10.16.1"),
    "26.05": ("1.24.4", "10.16.1"),
    "26.06": ("1.24.4", "~10"),
    "26.07": ("1.27.0", "11.1.0"),
    "26.08": ("1.28.0", "11.2.1"),
    "26.09": ("~1.28.0", "~11"),
    "26.10": ("~1.28.0", "~11"),
}


def _target(release: str, onnxruntime: str, tensorrt: str) -> Target:
    """A row as a value."""
    version = onnxruntime.removeprefix("~")
    opset, ir = onnx_limits(version)
    return Target(
        release=release,
        onnxruntime=version,
        max_opset=opset,
        max_ir=ir,
        tensorrt=tensorrt.removeprefix("~"),
        inferred=onnxruntime.startswith("~"),
        tensorrt_inferred=tensorrt.startswith("~"),
    )


def onnx_limits(onnxruntime: str) -> tuple[int, int]:
    """Newest opset and IR version that this ONNX Runtime takes.

    A version that was not measured has the limits of the newest measured one before it.

    Example:
        >>> onnx_limits("1.26.0")
        (25, 13)
    """
    major, minor = (int(part) for part in onnxruntime.split(".")[:2])
    known = [version for version in _ONNX if version <= (major, minor)]
    return _ONNX[max(known, default=min(_ONNX))]


def releases() -> tuple[str, ...]:
    """Every target's name, newest first; ``local`` comes last."""
    return (*sorted(_RELEASES, reverse=True), LOCAL)


def target(release: str) -> Target:
    """The Triton of this name.

    Raises:
        ConfigError: when the table does not have it.
    """
    if release == LOCAL:
        return _target(LOCAL, importlib.metadata.version("onnxruntime"), "")
    if release not in _RELEASES:
        known = [name for name in releases() if name != LOCAL]
        raise ConfigError(
            f"serving.target_triton: {release!r}, must be {LOCAL} or a release from {known[-1]} "
            f"to {known[0]}.",
            hint="The release is in the tag of the image: tritonserver:26.10-py3 is 26.10.",
        )
    return _target(release, *_RELEASES[release])


def check(opset: Mapping[str, int], ir_version: int, where: Target) -> str:
    """Why the target's ONNX Runtime does not take such a file; empty when it does.

    Args:
        opset: domain → version, as in the file; "ai.onnx" and "" are the default domain.
        ir_version: of the file.
        where: the target.

    Example:
        >>> check({"ai.onnx": 23}, 10, target("25.03"))
        'opset 23, Triton 25.03 (ONNX Runtime 1.21.0) takes opset 22 at most'
    """
    server = f"Triton {where.release} (ONNX Runtime {where.onnxruntime}"
    server += ", inferred)" if where.inferred else ")"
    used = max(opset.get("ai.onnx", 0), opset.get("", 0))
    if used > where.max_opset:
        return f"opset {used}, {server} takes opset {where.max_opset} at most"
    if ir_version > where.max_ir:
        return f"IR version {ir_version}, {server} takes IR version {where.max_ir} at most"
    return ""
