"""A variant's ``config.pbtxt``, complete and explicit.

Nothing is left to Triton's auto-complete: it fills in values that later changes contradict.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from conch.names import model_name
from export.recipe import Recipe, Tensor
from export.serving_spec import Sequence, Serving
from export.steps import Form
from export.steps.to_onnx import MODEL_FILE
from serving.model_config import ModelConfig

LABELS_FILE = "labels.txt"
PLAN_FILE = "model.plan"


def triton_config(recipe: Recipe, name: str, *, target: Form = Form.ONNX) -> ModelConfig:
    """The complete config of a variant.

    Source: triton-inference-server/common ``protobuf/model_config.proto``; parameters are those of
    the ONNX Runtime backend.

    Args:
        recipe: gives inputs, outputs and the serving section.
        name: the published name.
        target: the form in which it is served.

    Raises:
        ConfigError: when the name is not safe in a path, a URL and a shell line.
    """
    serving = recipe.serving
    config = ModelConfig(name=model_name(name), max_batch_size=serving.max_batch_size)
    _add_backend(config, target)
    _add_tensors(config, recipe)
    config.version_policy.latest.num_versions = 1
    if serving.sequence is not None:
        _add_sequences(config, recipe, serving.sequence)
    else:
        _add_batching(config, serving)
    _add_instances(config, serving, target)
    if serving.response_cache:
        config.response_cache.enable = True
    if target is Form.ONNX:
        _add_threads(config, serving)
    if serving.warm_up and serving.sequence is None:
        _add_warm_up(config, recipe)
    return config


def _add_backend(config: ModelConfig, target: Form) -> None:
    """Who runs the model, and the name of its file."""
    if target is Form.TENSORRT:
        config.backend, config.default_model_filename = "tensorrt", PLAN_FILE
    else:
        config.backend, config.default_model_filename = "onnxruntime", MODEL_FILE


def _add_tensors(config: ModelConfig, recipe: Recipe) -> None:
    """Inputs and outputs; those of a sequence's state are Triton's own affair."""
    serving = recipe.serving
    state = serving.sequence.state if serving.sequence else ()
    own = {name for entry in state for name in (entry.input, entry.output)}
    for tensor in recipe.model.inputs:
        if tensor.name not in own:
            config.input.add(name=tensor.name, data_type=dtype_of(tensor), dims=dims_of(tensor))
    for tensor in recipe.model.outputs:
        if tensor.name not in own:
            dtype, dims = dtype_of(tensor), dims_of(tensor)
            output = config.output.add(name=tensor.name, data_type=dtype, dims=dims)
            if serving.labels and serving.labels_output in (None, tensor.name):
                output.label_filename = LABELS_FILE


def _add_threads(config: ModelConfig, serving: Serving) -> None:
    """ONNX Runtime's threads, where the recipe says them."""
    if serving.threads is not None:
        for key, value in (
            ("intra_op_thread_count", serving.threads),
            ("inter_op_thread_count", 1),
            ("execution_mode", 0),
        ):
            config.parameters[key].string_value = str(value)


def _add_instances(config: ModelConfig, serving: Serving, target: Form) -> None:
    """Every group with its count, and on GPUs with their numbers; TensorRT has no other device."""
    from tritonclient.grpc import model_config_pb2 as pb

    for group in serving.groups:
        added = config.instance_group.add(count=group.count)
        if group.device == "gpu" or target is Form.TENSORRT:
            added.kind = pb.ModelInstanceGroup.KIND_GPU
            added.gpus.extend(group.gpus)
        else:
            added.kind = pb.ModelInstanceGroup.KIND_CPU


def _add_batching(config: ModelConfig, serving: Serving) -> None:
    """Dynamic batching."""
    batching = config.dynamic_batching
    batching.max_queue_delay_microseconds = round(serving.max_queue_delay * 1e6)
    batching.preferred_batch_size.extend(serving.preferred_batch_sizes)
    if serving.priority_levels:
        batching.priority_levels = serving.priority_levels
        batching.default_priority_level = serving.default_priority


def _add_sequences(config: ModelConfig, recipe: Recipe, sequence: Sequence) -> None:
    """Sequence batching with implicit state that starts as zeros.

    ``oldest`` joins requests of different sequences into a batch, as dynamic batching does. Without
    ``zero_data`` Triton would start a sequence with whatever is in memory.
    """
    batching = config.sequence_batching
    batching.max_sequence_idle_microseconds = round(sequence.max_idle * 1e6)
    batching.oldest.max_candidate_sequences = sequence.max_sequences
    batching.oldest.max_queue_delay_microseconds = round(recipe.serving.max_queue_delay * 1e6)
    tensors = {tensor.name: tensor for tensor in recipe.model.inputs}
    for entry in sequence.state:
        tensor = tensors[entry.input]
        dtype, dims = dtype_of(tensor), dims_of(tensor)
        state = batching.state.add(
            input_name=entry.input, output_name=entry.output, data_type=dtype, dims=dims
        )
        state.initial_state.add(
            name="zeros", data_type=dtype, dims=recipe.example_dims(tensor), zero_data=True
        )


def dtype_of(tensor: Tensor) -> Any:
    """The proto's value for a numpy dtype."""
    from tritonclient.grpc import model_config_pb2 as pb
    from tritonclient.utils import np_to_triton_dtype

    return pb.DataType.Value(f"TYPE_{np_to_triton_dtype(np.dtype(tensor.dtype))}")


def dims_of(tensor: Tensor) -> list[int]:
    """Sizes without the batch axis; -1 for those that vary."""
    return [-1 if isinstance(dim, str) else dim for dim in tensor.dims]


def _add_warm_up(config: ModelConfig, recipe: Recipe) -> None:
    """Warm up with one request of the smallest and one of the largest batch, at example sizes.

    Integers are zeros: random ones are no valid index into an embedding table.
    """
    for batch in sorted({1, recipe.serving.max_batch_size}):
        sample = config.model_warmup.add(name=f"batch_{batch}", batch_size=batch, count=1)
        for tensor in recipe.model.inputs:
            entry = sample.inputs[tensor.name]
            entry.data_type = dtype_of(tensor)
            entry.dims.extend(recipe.example_dims(tensor))
            if np.dtype(tensor.dtype).kind == "f":
                entry.random_data = True
            else:
                entry.zero_data = True
