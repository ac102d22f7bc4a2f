"""Scores to the names of the best classes, as a model of Triton's Python backend.

One file on its own: it runs in Triton's stub with the stdlib and numpy.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """One instance."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the names beside this file."""
        config = json.loads(args["model_config"])
        given = {key: value["string_value"] for key, value in config["parameters"].items()}
        self.input = config["input"][0]["name"]
        self.softmax = given["softmax"] == "true"
        self.top = int(given["top"])
        folder = Path(args["model_repository"]) / args["model_version"]
        lines = (folder / "labels.txt").read_text(encoding="utf-8").splitlines()
        self.names = np.array([line.strip().encode() for line in lines], dtype=np.object_)
        classes = int(config["input"][0]["dims"][0])
        if len(self.names) != classes:
            raise pb_utils.TritonModelException(
                f"{folder / 'labels.txt'}: {len(self.names)} names, must have {classes}"
            )

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response for each request, in order."""
        return [self._response(request) for request in requests]

    def _response(self, request: Any) -> Any:
        """Names and scores ``[batch, top]`` of one request's scores ``[batch, classes]``."""
        scores = pb_utils.get_input_tensor_by_name(request, self.input).as_numpy()
        values = scores.astype(np.float32)
        if self.softmax:
            values = np.exp(values - values.max(axis=1, keepdims=True))
            values /= values.sum(axis=1, keepdims=True)
        best = np.argsort(-values, axis=1, kind="stable")[:, : self.top]
        return pb_utils.InferenceResponse(
            output_tensors=[
                pb_utils.Tensor("label", self.names[best]),
                pb_utils.Tensor("score", np.take_along_axis(values, best, axis=1)),
            ]
        )
