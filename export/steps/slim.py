"""ONNX → the same function with fewer nodes, by onnxslim: folded constants, merged duplicates."""

from __future__ import annotations

from typing import ClassVar

from export.steps.base import Artifact, Context, Form, Step
from export.steps.quantize.method import running
from export.steps.to_onnx import MODEL_FILE


class Slim(Step):
    """Clean the graph up; outputs stay equal but for rounding."""

    name: ClassVar[str] = "slim"
    takes: ClassVar[Form] = Form.ONNX
    gives: ClassVar[Form] = Form.ONNX
    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxslim")

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """The cleaned file.

        Raises:
            ParityError: when it fails on this graph.
        """
        import onnx
        import onnxslim

        path = context.folder / MODEL_FILE
        proto = onnx.load(artifact.file)
        before = len(proto.graph.node)
        with running(self.name, "onnxslim", hint="Leave slim out."):
            slimmed = onnxslim.slim(proto)
            onnx.save(slimmed, path)
        told = {"nodes_before": before, "nodes_after": len(slimmed.graph.node)}
        return Artifact(form=Form.ONNX, path=path, facts={**artifact.facts, "slim": told})
