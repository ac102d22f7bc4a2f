"""Inputs that an owner gives for measuring a model: an ``.npz`` or ``.json`` file of real rows.

Either holds, by the input's name, some rows: an array of shape ``[rows, *dims]``, or such a list.
They stay in memory, so that a file that is changed later changes no measurement.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc.model_config_pb2 import DataType
from tritonclient.utils import triton_to_np_dtype

from conch.errors import ConfigError
from serving.model_config import ModelConfig

MOST_BYTES = 64 * 2**20
"""Of the file: some rows are enough."""

Inputs = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenInputs:
    """What an owner gave.

    Attributes:
        path: of the file, for messages.
        rows: by input name, as they are in the file.
    """

    path: Path
    rows: Inputs = field(repr=False)

    def fitting(self, config: ModelConfig) -> Inputs:
        """The rows as Triton takes them: of the config's inputs, types and shapes.

        Args:
            config: of a model with a batch axis.

        Raises:
            ConfigError: for an input that is missing or not known, or rows that do not fit it.
        """
        known = [tensor.name for tensor in config.input]
        if unknown := sorted(self.rows.keys() - known):
            said = f"input {unknown[0]!r}, {config.name} has {', '.join(known)}"
            raise _wrong(self.path, said)
        made: Inputs = {}
        for tensor in config.input:
            if tensor.name in self.rows:
                where = f"{config.name}, input {tensor.name!r}"
                made[tensor.name] = self._fitting(tensor, where)
            elif not tensor.optional:
                raise _wrong(self.path, f"no rows of {tensor.name!r}, an input of {config.name}")
        counts = {name: len(array) for name, array in made.items()}
        if len(set(counts.values())) != 1:
            each = ", ".join(f"{count} of {name}" for name, count in counts.items()) or "none"
            raise _wrong(self.path, f"rows: {each}, must be as many of each input")
        return made

    def _fitting(self, tensor: Any, where: str) -> NDArray[Any]:
        """One input's rows, of the type and shape that its config asks for."""
        array, dims = self.rows[tensor.name], [int(dim) for dim in tensor.dims]
        fits = array.ndim == 1 + len(dims) and all(
            dim in (-1, size) for dim, size in zip(dims, array.shape[1:], strict=True)
        )
        if not fits or len(array) < 1:
            wanted = ", ".join(["rows", *map(str, dims)])
            raise _wrong(self.path, f"{where}: shape {list(array.shape)}, must be [{wanted}]")
        label = DataType.Name(tensor.data_type).removeprefix("TYPE_")
        if label == "STRING":
            if array.dtype.kind not in "SU":
                raise _wrong(self.path, f"{where}: {array.dtype}, must be texts")
            texts = np.char.encode(array, "utf-8") if array.dtype.kind == "U" else array
            return texts.astype(np.object_)
        dtype = np.dtype(triton_to_np_dtype(label))
        if array.dtype == dtype:
            return array
        # JSON knows no other types than these.
        becomes = {"b": "b", "i": "iuf", "f": "f"}.get(array.dtype.kind, "")
        if self.path.suffix != ".json" or dtype.kind not in becomes:
            raise _wrong(self.path, f"{where}: {array.dtype}, must be {dtype}")
        cast = array.astype(dtype)
        if dtype.kind in "iu" and not np.array_equal(cast, array):
            said = f"{array.min()} to {array.max()}, must fit into {dtype}"
            raise _wrong(self.path, f"{where}: {said}")
        return cast


def read(path: Path) -> GivenInputs:
    """The rows of a file.

    Raises:
        ConfigError: when there is no such file, or it holds something else.
    """
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise _wrong(path, f"{size} bytes, at most {MOST_BYTES}")
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                rows = {name: np.asarray(arrays[name]) for name in arrays.files}
        else:
            lists = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(lists, dict):
                raise _wrong(path, f"{type(lists).__name__}, must be an object, by input name")
            rows = {name: np.asarray(each) for name, each in lists.items()}
    except OSError as error:
        raise _wrong(path, f"cannot be read ({error.strerror or error})") from error
    except (zipfile.BadZipFile, AttributeError, RecursionError, TypeError, ValueError) as error:
        raise _wrong(path, f"no {path.suffix} file of rows ({error})") from error
    return GivenInputs(path=path, rows=rows)


def batch_of(rows: Inputs, size: int) -> Inputs:
    """So many rows: those that are there, from the first on again and again.

    Example:
        >>> batch_of({"x": np.array([[1], [2]])}, 3)["x"].tolist()
        [[1], [2], [1]]
    """
    return {name: array[np.arange(size) % len(array)] for name, array in rows.items()}


def _wrong(path: Path, said: str) -> ConfigError:
    return ConfigError(
        f"calibrate: {path}: {said}.",
        hint="Give rows by input name, [rows, *dims]: np.savez(PATH, NAME=rows), or JSON.",
    )
