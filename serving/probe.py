"""Synthetic inference: the only health that counts.

After its Python stub died, Triton 2.51 still says live and ready while every inference fails.
"""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc.model_config_pb2 import DataType
from tritonclient.utils import triton_to_np_dtype

from serving import model_config
from serving.client import InferenceFailed, SequenceStep, TritonClient
from serving.model_config import ModelConfig, tensor_bytes

PARAMETER = "probe."
MOST_BYTES = 2**31
"""Of one request: gRPC carries no longer message."""


def probe(
    client: TritonClient, config: ModelConfig, *, rows: int = 1, deadline_s: float = 10.0
) -> float:
    """Run one inference on made inputs; gives its seconds.

    Args:
        client: of the server.
        config: in force.
        rows: of the batch, for a model that has a batch axis.
        deadline_s: for the answer.

    Raises:
        InferenceFailed: when the model answers with an error, or no such inputs can be made.
        TritonUnavailable: when there is no answer in time.
    """
    step = None
    if config.HasField("sequence_batching"):  # a sequence of one request, of an id of its own
        step = SequenceStep(sequence=secrets.randbits(62) + 1, start=True, end=True)
    start_s = time.monotonic()
    try:
        if (size := rows * row_bytes(config)) > MOST_BYTES:
            raise ValueError(f"{size} bytes, at most {MOST_BYTES} fit into a request")
        inputs = synthetic_inputs(config, batch_size=rows)
    except (MemoryError, TypeError, ValueError) as error:
        raise InferenceFailed(
            f"{config.name}: inputs of the shapes in its config cannot be made ({error})."
        ) from None
    client.infer(config.name, inputs, step=step, deadline_s=deadline_s)
    return time.monotonic() - start_s


def row_bytes(config: ModelConfig) -> int:
    """Bytes of one row of the synthetic inputs; a string counts as 8."""
    return sum(tensor_bytes(tensor.data_type, tensor.dims) for tensor in config.input)


def synthetic_inputs(
    config: ModelConfig, *, sizes: Mapping[str, int] | None = None, batch_size: int = 1
) -> dict[str, NDArray[Any]]:
    """Inputs that fit the config: ones, or one string; shape ``[batch, *dims]``.

    The string is ``x``, or what the config's parameter ``probe.<input>`` holds in base64: a model
    that decodes images answers nothing else.

    Args:
        config: the model's config; optional inputs are left out.
        sizes: what a variable dimension (-1) of an input becomes, by input name; 1 where not said.
        batch_size: leading axis, for a model that has one.
    """
    tensors: dict[str, NDArray[Any]] = {}
    for tensor in config.input:
        if tensor.optional:
            continue
        variable = (sizes or {}).get(tensor.name, 1)
        dims = [variable if dim < 0 else int(dim) for dim in tensor.dims]
        shape = [batch_size, *dims] if config.max_batch_size else dims
        kind = DataType.Name(tensor.data_type).removeprefix("TYPE_")
        if kind == "STRING":
            sample = model_config.parameter(config, f"{PARAMETER}{tensor.name}")
            string = b"x" if sample is None else base64.b64decode(sample)
            tensors[tensor.name] = np.full(shape, string, dtype=np.object_)
        else:
            tensors[tensor.name] = np.ones(shape, dtype=triton_to_np_dtype(kind))
    return tensors
