"""Runs ModelOpt's quantizer in a process of its own: it replaces functions of ONNX Runtime's
quantizer, which other steps of the same process would then run into.

``python -m export.steps.quantize.modelopt_runner REQUEST.json`` with the arguments of
``modelopt.onnx.quantization.quantize``; ``calibration_data`` names an ``.npz`` file. An error
becomes one line on stdout and exit code 1.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
from pathlib import Path

import numpy as np


def main(request: Path) -> int:
    """Quantize as the request says; the exit code."""
    arguments = json.loads(request.read_text(encoding="utf-8"))
    with np.load(arguments.pop("calibration_data")) as arrays:
        data = {name: arrays[name] for name in arrays.files}
    tool = importlib.import_module("modelopt.onnx.quantization")
    try:
        with (
            Path(os.devnull).open("w", encoding="utf-8") as nowhere,
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
        ):
            tool.quantize(**arguments, calibration_data=data)
    except Exception as error:  # it raises whatever it meets
        text = str(error).strip().splitlines()
        print(f"{type(error).__name__}: {text[0] if text else 'no message'}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
