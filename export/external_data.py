"""The files beside an ONNX file that hold its weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conch.errors import ConfigError

if TYPE_CHECKING:
    import onnx


def external_files(path: Path) -> list[Path]:
    """The files beside an ONNX file that hold its weights, sorted.

    Raises:
        ConfigError: when the file cannot be read, or one of its data files is missing or outside
            its folder.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        proto = onnx.load(path, load_external_data=False)
    except (OSError, DecodeError) as error:
        raise ConfigError(
            f"model.onnx: {path} cannot be read as ONNX ({str(error).splitlines()[0]}).",
            hint="Check the file; a download may be cut short, or be a Git LFS pointer.",
        ) from error
    names = {entry.value for entry in external_locations(proto)}
    files = []
    for name in sorted(names):
        data = (path.parent / name).resolve()
        if not data.is_relative_to(path.parent.resolve()) or not data.is_file():
            raise ConfigError(
                f"model.onnx: {path.name} keeps weights in {name}, which is not beside it.",
                hint=f"Put {name} into {path.parent}, or save the model as one file.",
            )
        files.append(data)
    return files


def external_locations(proto: onnx.ModelProto) -> Iterator[onnx.StringStringEntryProto]:
    """The entries of the model that name its data files, each as often as it is named."""
    import onnx

    for tensor in _tensors(proto):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield from (entry for entry in tensor.external_data if entry.key == "location")


def _tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of the file: also of subgraphs, functions and attributes of nodes."""
    yield from _tensors_of(proto.graph)
    for function in proto.functions:
        yield from _tensors_of(function)


def _tensors_of(body: Any) -> Iterator[onnx.TensorProto]:
    """Every tensor of a graph or function."""
    yield from getattr(body, "initializer", ())
    for sparse in getattr(body, "sparse_initializer", ()):
        yield from (sparse.values, sparse.indices)
    for node in body.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for graph in (attribute.g, *attribute.graphs):
                yield from _tensors_of(graph)
