"""Inputs for a load test, made from a model's config, and requests as ready bytes.

Integers are 1 to 1000 (inside every vocabulary that we know), masks are all ones, token types all
zeros, floats standard normal, strings a short sentence, booleans true.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping

import numpy as np
from tritonclient.grpc import model_config_pb2, service_pb2
from tritonclient.utils import (
    np_to_triton_dtype,
    serialize_byte_tensor,
    triton_to_np_dtype,
)

from conch.errors import ConfigError

EVERY_VARIABLE = "sequence"  # the name that stands for every variable dimension
INTEGER_RANGE = (1, 1000)
SENTENCE = b"The conch calms the waves."


def parse_shapes(texts: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Sizes from ``NAME=SIZE[,SIZE...]``; NAME is an input, or ``sequence`` for all of them.

    Raises:
        ConfigError: when a text is not of that form.

    Example:
        >>> parse_shapes(("sequence=32", "image=3,224,224"))
        {'sequence': (32,), 'image': (3, 224, 224)}
    """
    shapes = {}
    for text in texts:
        name, _, sizes = text.partition("=")
        numbers = sizes.replace("x", ",").split(",")
        if not name or not all(number.isdigit() and int(number) > 0 for number in numbers):
            raise ConfigError(
                f"shape: {text!r}, must be NAME=SIZE[,SIZE...] with whole sizes above 0.",
                hint="Example: --shape sequence=32",
            )
        shapes[name] = tuple(int(number) for number in numbers)
    return shapes


def input_shapes(
    config: model_config_pb2.ModelConfig,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> dict[str, tuple[int, ...]]:
    """The dimensions of every required input, without the batch axis.

    Args:
        config: the model's config.
        shapes: by input name, either all of its dimensions or only its variable ones (-1), in
            order; ``sequence`` gives the size of every variable dimension not named otherwise.
            Without either, the sizes of the config's first warm-up sample are taken.

    Raises:
        ConfigError: on an unknown name, a size that contradicts the config, or a variable
            dimension without a size.
    """
    shapes = dict(shapes or {})
    known = [item.name for item in config.input]
    for name in shapes:
        if name not in known and name != EVERY_VARIABLE:
            close = difflib.get_close_matches(name, [*known, EVERY_VARIABLE], n=1)
            hint = f"Did you mean '{close[0]}'?" if close else f"Inputs: {', '.join(known)}."
            raise ConfigError(f"shape: {name!r}, model {config.name} has no such input.", hint=hint)
    warm_up = {
        name: tuple(entry.dims)
        for sample in config.model_warmup[:1]
        for name, entry in sample.inputs.items()
    }
    if EVERY_VARIABLE not in shapes:
        shapes = {**warm_up, **shapes}
    return {
        item.name: _dimensions(config.name, item, shapes)
        for item in config.input
        if not item.optional
    }


def make_inputs(
    config: model_config_pb2.ModelConfig,
    *,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    batch: int = 1,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Arrays for one request of ``batch`` items (1 when the model has no batch axis).

    Raises:
        ConfigError: as ``input_shapes``, or when ``batch`` is not within 1 to max_batch_size.
    """
    limit = max(1, config.max_batch_size)
    if not 1 <= batch <= limit:
        raise ConfigError(
            f"batch: {batch}, model {config.name} takes 1 to {limit}.",
            hint="Lower --batch, or raise max_batch_size.",
        )
    rng = np.random.default_rng(seed)
    lead = (batch,) if config.max_batch_size > 0 else ()
    kinds = {item.name: item.data_type for item in config.input}
    return {
        name: _values(name, kinds[name], (*lead, *dims), rng)
        for name, dims in input_shapes(config, shapes).items()
    }


def infer_request(model: str, inputs: Mapping[str, np.ndarray]) -> bytes:
    """A ModelInferRequest with these inputs, serialised once so that it can be sent many times.

    Source: ``raw_input_contents`` of Triton's grpc_service.proto.
    """
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, array in inputs.items():
        tensor = request.inputs.add()
        tensor.name = name
        tensor.datatype = np_to_triton_dtype(array.dtype)
        tensor.shape.extend(array.shape)
        if tensor.datatype == "BYTES":
            packed = serialize_byte_tensor(array)
            request.raw_input_contents.append(packed.item() if packed.size else b"")
        else:
            request.raw_input_contents.append(np.ascontiguousarray(array).tobytes())
    return bytes(request.SerializeToString())


def _dimensions(
    model: str, item: model_config_pb2.ModelInput, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[int, ...]:
    """One input's dimensions with every variable one filled in."""
    dims = list(item.dims)
    variable = [index for index, size in enumerate(dims) if size < 0]
    given = shapes.get(item.name)
    if given is None and EVERY_VARIABLE in shapes:
        given = shapes[EVERY_VARIABLE] * len(variable)
    if given is None and variable:
        raise ConfigError(
            f"model {model}: input {item.name} has shape {dims}, every -1 needs a size.",
            hint=f"Add --shape {EVERY_VARIABLE}=32 or --shape {item.name}=32.",
        )
    given = given or ()
    if len(given) == len(dims) and all(
        fixed in (-1, size) for fixed, size in zip(dims, given, strict=True)
    ):
        return tuple(given)
    if len(given) != len(variable):
        raise ConfigError(
            f"shape: {item.name}={','.join(map(str, given))}, must fit the config's {dims}.",
            hint="Give a size for each -1, in order, or all dimensions.",
        )
    for index, size in zip(variable, given, strict=True):
        dims[index] = size
    return tuple(dims)


def _values(
    name: str, data_type: int, shape: tuple[int, ...], rng: np.random.Generator
) -> np.ndarray:
    """An array of the Triton type that no model should choke on."""
    label = model_config_pb2.DataType.Name(data_type).removeprefix("TYPE_")
    if label == "STRING":
        return np.full(shape, SENTENCE, dtype=np.object_)
    dtype = triton_to_np_dtype(label)
    if dtype is None or label == "BF16":
        raise ConfigError(
            f"input {name}: type {label}, no such values can be made here.",
            hint="Choose a model whose inputs numpy can hold.",
        )
    kind = np.dtype(dtype).kind
    if kind == "b" or "mask" in name.lower():
        return np.ones(shape, dtype=dtype)
    if "token_type" in name.lower():
        return np.zeros(shape, dtype=dtype)
    if kind in "iu":
        low, high = INTEGER_RANGE
        high = min(high, int(np.iinfo(dtype).max))
        return np.asarray(rng.integers(low, high, size=shape, endpoint=True), dtype=dtype)
    return np.asarray(rng.standard_normal(shape), dtype=dtype)
