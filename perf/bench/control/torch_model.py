"""A stack of matrix products in PyTorch, as a model of Triton's Python backend.

This file is copied into a model repository and runs inside Triton. On a GPU its instances share the
GPU as those of any model do, so that their interference is real. The weights are random: it is
work, not knowledge.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """One instance."""

    def initialize(self, args: dict[str, str]) -> None:
        """Weights on the instance's device, and one pass so that no request pays for the first."""
        parameters = json.loads(args["model_config"])["parameters"]
        width, layers = (int(parameters[key]["string_value"]) for key in ("width", "layers"))
        self.rounds = int(parameters["rounds"]["string_value"])
        on_gpu = args["model_instance_kind"] == "GPU"
        self.device = torch.device(f"cuda:{args['model_instance_device_id']}" if on_gpu else "cpu")
        if not on_gpu:
            torch.set_num_threads(1)
        generator = torch.Generator().manual_seed(0)
        self.weights = [
            (torch.randn(width, width, generator=generator) / width**0.5).to(self.device)
            for _ in range(layers)
        ]
        self._pass(np.zeros((1, width), dtype=np.float32))

    def execute(self, requests: list[Any]) -> list[Any]:
        """One pass for all the requests together."""
        rows = [pb_utils.get_input_tensor_by_name(r, "x").as_numpy() for r in requests]
        out = np.split(self._pass(np.concatenate(rows)), np.cumsum([len(x) for x in rows])[:-1])
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", y)]) for y in out]

    @torch.inference_mode()
    def _pass(self, x: np.ndarray) -> np.ndarray:
        """float32 [batch, width] through every layer, ``rounds`` times."""
        hidden = torch.from_numpy(x).to(self.device)
        for _ in range(self.rounds):
            for weight in self.weights:
                hidden = torch.tanh(hidden @ weight)
        return np.asarray(hidden.cpu().numpy())
