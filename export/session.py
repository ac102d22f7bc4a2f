"""An ONNX file as a function of named arrays, through ONNX Runtime on the CPU."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conch.errors import ParityError


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def check_finite(outputs: Sequence[Mapping[str, NDArray[Any]]], variant: str) -> None:
    """Refuse NaN and infinity, whatever the gates say.

    Raises:
        ParityError: naming the output.
    """
    for batch in outputs:
        for name, array in batch.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ParityError(
                    f"{variant}: output {name} holds NaN or infinity on the evaluation data.",
                    hint="A scale overflowed: try another method, or exclude the nodes at fault.",
                )


class Session:
    """One loaded ONNX model.

    Args:
        path: the file.
        threads: threads of one operator; all cores when None.
        outputs: those to give, where the file has more than a recipe names; all when empty.
    """

    def __init__(
        self, path: Path, *, threads: int | None = None, outputs: Collection[str] = ()
    ) -> None:
        """Load the file.

        Raises:
            ParityError: when ONNX Runtime refuses it.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or available_cores()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Where 8-bit sums would saturate (no VNNI) the slower product, which is exact; as served.
        options.add_session_config_entry("session.x64quantprecision", "1")
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its exceptions share no base class but Exception
            raise ParityError(
                f"{path.name}: ONNX Runtime cannot load it ({str(error).splitlines()[0]}).",
                hint="Try another opset, or leave out the step that made it.",
            ) from error
        self.path = path
        has = [output.name for output in self._session.get_outputs()]
        self._outputs = [name for name in has if name in outputs] if outputs else has

    def run(self, batch: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Output name → array for one batch of inputs.

        Raises:
            ParityError: when the model refuses the batch.
        """
        try:
            values = self._session.run(self._outputs, dict(batch))
        except Exception as error:  # as above
            shapes = {name: list(array.shape) for name, array in batch.items()}
            raise ParityError(
                f"{self.path.name}: fails on inputs {shapes} ({str(error).splitlines()[0]}).",
                hint="The file holds for other sizes only: check model.axes and dims.",
            ) from error
        return dict(zip(self._outputs, values, strict=True))
