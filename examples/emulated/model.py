"""An emulator of an accelerator's timing: each batch takes ℓ(b) = α·b + β and uses no CPU.

It is no model: the output is the input. The instances, queues and batches around it are Triton's
own. ``config.pbtxt`` has the parameters, each of which may have a value of its own for a version
(``beta_ms.2`` for version 2). A file ``weights.bin`` beside it is held in memory, twice.
"""

from __future__ import annotations

import json
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

LIMIT = 3.0
"""Jitter beyond so many standard deviations is drawn again."""


class TritonPythonModel:
    """One instance."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the parameters and take the time that an instance takes to load."""
        parameters = json.loads(args["model_config"])["parameters"]

        def value(key: str) -> float:
            """The parameter, as this version has it, else as all have it."""
            own = parameters.get(f"{key}.{args['model_version']}", parameters[key])
            return float(own["string_value"])

        self.alpha_s = value("alpha_ms") / 1e3
        self.beta_s = value("beta_ms") / 1e3
        self.jitter = value("jitter")
        self.free_batches = int(value("free_batches")) if "free_batches" in parameters else 0
        weights = Path(__file__).with_name("weights.bin")
        self.memory = weights.read_bytes() * 2 if weights.is_file() else b""
        self.random = np.random.default_rng(zlib.crc32(args["model_instance_name"].encode()))
        _sleep_until(time.monotonic() + value("load_s"))

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer after ℓ(b) seconds, with b the items of all the requests together."""
        start_s = time.monotonic()
        tensors = [pb_utils.get_input_tensor_by_name(r, "x").as_numpy() for r in requests]
        answers = [pb_utils.InferenceResponse([pb_utils.Tensor("y", x)]) for x in tensors]
        if self.free_batches > 0:
            self.free_batches -= 1
            return answers
        items = sum(len(x) for x in tensors)
        _sleep_until(start_s + (self.alpha_s * items + self.beta_s) * self._factor())
        return answers

    def _factor(self) -> float:
        """1, give or take the jitter: normal, cut off at ``LIMIT`` standard deviations."""
        while True:
            deviation = float(self.random.standard_normal())
            if abs(deviation) <= LIMIT:
                return 1.0 + self.jitter * deviation


def _sleep_until(end_s: float) -> None:
    """Sleep till then on the monotonic clock."""
    while (left_s := end_s - time.monotonic()) > 0:
        time.sleep(left_s)
