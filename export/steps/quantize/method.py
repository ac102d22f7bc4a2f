"""What all methods of quantization share: excluded nodes, and how a quantizer is run."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from conch.errors import ConchError, ConfigError, ParityError
from export.steps.base import Artifact, Form, Step

if TYPE_CHECKING:
    import onnx

SENSITIVITY = "sensitivity"
"""The fact that ``rank_layers`` leaves: rows with ``node``, most sensitive first."""

QUANTIZED_OPS = frozenset(
    {"QuantizeLinear", "DynamicQuantizeLinear", "DequantizeLinear", "MatMulInteger", "ConvInteger"}
)


class QuantizeMethod(Step):
    """One way to quantize; its subclasses are the methods."""

    name: ClassVar[str] = "quantize"
    takes: ClassVar[Form] = Form.ONNX
    gives: ClassVar[Form] = Form.ONNX
    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxruntime")

    exclude: tuple[str, ...] = Field(
        default=(), description="Names of graph nodes to keep in floating point."
    )
    exclude_sensitive: int = Field(
        default=0,
        ge=0,
        description="Keep this many of the most sensitive nodes in floating point; needs the "
        "step `rank_layers` before.",
    )

    @property
    def suffix(self) -> str:
        """What the label says of excluded nodes."""
        return f" -{self.exclude_sensitive}" if self.exclude_sensitive else ""

    def excluded(self, proto: onnx.ModelProto, facts: Mapping[str, Any]) -> list[str]:
        """The nodes to keep in floating point, by ``exclude`` and by ``exclude_sensitive``.

        Raises:
            ConfigError: for a name that the graph does not have (it would silently do nothing),
                or when there is no table of that length.
        """
        known = {node.name for node in proto.graph.node}
        if unknown := sorted(set(self.exclude) - known):
            raise ConfigError(
                f"quantize.exclude: {', '.join(unknown)} not among the graph's {len(known)} nodes.",
                hint="Take the names from the ONNX file of the unquantized variant.",
            )
        names = dict.fromkeys((*self.exclude, *self._sensitive(facts)))
        return [name for name in names if name in known]

    def _sensitive(self, facts: Mapping[str, Any]) -> list[str]:
        """The most sensitive nodes."""
        if not self.exclude_sensitive:
            return []
        if SENSITIVITY not in facts:
            raise ConfigError(
                f"quantize.exclude_sensitive: {self.exclude_sensitive}, but nothing has ranked "
                "the layers.",
                hint="Put the step rank_layers before quantize.",
            )
        rows = facts[SENSITIVITY]
        if self.exclude_sensitive >= len(rows):
            raise ConfigError(
                f"quantize.exclude_sensitive: {self.exclude_sensitive}, must be less than the "
                f"{len(rows)} layers that can be quantized.",
                hint="Exclude fewer, or leave out quantize.",
            )
        return [str(row["node"]) for row in rows[: self.exclude_sensitive]]

    def finished(
        self, artifact: Artifact, path: Path, *, excluded: Collection[str], **facts: Any
    ) -> Artifact:
        """The artifact of a quantized file, once it is sure that something was quantized.

        Raises:
            ParityError: when nothing was; such a file would pass every fidelity gate.
        """
        import onnx

        kinds = {node.op_type for node in onnx.load(path).graph.node}
        if not kinds & QUANTIZED_OPS:
            raise ParityError(
                f"{self.label}: quantized nothing; the graph has {', '.join(sorted(kinds))}.",
                hint="Name operators of this graph in op_types, or use another method.",
            )
        own = {"quantized": self.label.removeprefix("quantize "), **facts}
        if excluded:
            own["kept_in_float"] = list(excluded)
        return Artifact(form=Form.ONNX, path=path, facts={**artifact.facts, **own})


@contextlib.contextmanager
def running(label: str, tool: str, *, hint: str) -> Iterator[None]:
    """Keep a tool's advice off the terminal; name the step when it fails.

    Args:
        label: the step.
        tool: whose code runs, for the message.
        hint: the next thing to try.

    Raises:
        ParityError: for whatever the tool raises, besides errors of Conch and of the disk.
    """
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            Path(os.devnull).open("w", encoding="utf-8") as nowhere,
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(nowhere),
        ):
            warnings.simplefilter("ignore")
            yield
    except (ConchError, OSError):
        raise
    except Exception as error:  # the quantizers raise whatever they meet
        text = str(error).strip().splitlines()
        raise ParityError(
            f"{label}: {tool} failed ({type(error).__name__}: {text[0] if text else 'no message'})",
            hint=hint,
        ) from error
    finally:
        root.setLevel(level)
