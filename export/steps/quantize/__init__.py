"""ONNX → INT8 ONNX. One class a method; ``method`` tells them apart in a recipe.

Which one pays depends on the model and on the target: dynamic INT8 suits transformers on a CPU,
static QDQ suits convolutions, SmoothQuant suits transformers on both. None is trusted: the gates
judge what comes out.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from export.steps.quantize.dynamic import DynamicInt8
from export.steps.quantize.method import QuantizeMethod
from export.steps.quantize.modelopt import ModelOptQdq
from export.steps.quantize.smoothquant import SmoothQuant
from export.steps.quantize.static_qdq import StaticQdq

__all__ = [
    "DynamicInt8",
    "ModelOptQdq",
    "Quantize",
    "QuantizeMethod",
    "SmoothQuant",
    "StaticQdq",
]

Quantize = Annotated[
    DynamicInt8 | StaticQdq | SmoothQuant | ModelOptQdq, Field(discriminator="method")
]
"""The options of any method."""
