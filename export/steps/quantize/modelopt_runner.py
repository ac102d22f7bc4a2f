"""Runs ModelOpt's quantizer in a process of its own: it replaces functions of ONNX Runtime's
quantizer, which other steps of the same process would then run into.

``python -P modelopt_runner.py REQUEST.json RESULT.json`` with the arguments of
``modelopt.onnx.quantization.quantize``; ``calibration_data`` names an ``.npz`` file and ``parent``
the process to end with. An error becomes one line under ``error``. Imports nothing of Conch.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import signal
import sys
from pathlib import Path

import numpy as np

_PR_SET_PDEATHSIG = 1


def main(request: Path, result: Path) -> None:
    """Quantize as the request says."""
    arguments = json.loads(request.read_text(encoding="utf-8"))
    _end_with(arguments.pop("parent"))
    with np.load(arguments.pop("calibration_data")) as arrays:
        data = {name: arrays[name] for name in arrays.files}
    tool = importlib.import_module("modelopt.onnx.quantization")
    found = {}
    try:
        with (
            Path(os.devnull).open("w", encoding="utf-8") as nowhere,
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
        ):
            tool.quantize(**arguments, calibration_data=data)
    except Exception as error:  # it raises whatever it meets
        text = str(error).strip().splitlines()
        found["error"] = f"{type(error).__name__}: {text[0] if text else 'no message'}"
    result.write_text(json.dumps(found), encoding="utf-8")


def _end_with(parent: int) -> None:
    """Have the kernel end this process when its parent ends, however that comes."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a worker ignores it, and we inherit that
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before this was said
        os._exit(1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
