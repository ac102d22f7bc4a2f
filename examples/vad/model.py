"""Silero VAD: is there speech in the next 32 ms? Weights from the package ``silero-vad``.

The package's own ONNX file wants its caller to keep two things between calls: the LSTM's state,
with the batch axis second, and the last 64 samples. Here both are inputs and outputs, batch axis
first, so that Triton can keep them for each stream and join streams into batches. The layers are
those of the package's ``tinygrad_model.py``; the weights are those of its ONNX file (the ones in
``silero_vad_16k.safetensors`` are of another training).
Source: https://github.com/snakers4/silero-vad (MIT), release 6.2.3.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

SAMPLE_RATE = 16_000
CHUNK = 512
CONTEXT = 64
WEIGHTS = "silero_vad_16k_op15.onnx"
NAMES = {
    "model.stft.forward_basis_buffer": "stft_conv.weight",
    "model.encoder.0.reparam_conv.": "conv1.",
    "model.encoder.1.reparam_conv.": "conv2.",
    "model.encoder.2.reparam_conv.": "conv3.",
    "model.encoder.3.reparam_conv.": "conv4.",
    "model.decoder.rnn.": "lstm_cell.",
    "model.decoder.decoder.2.": "final_conv.",
}
"""The file's name of each layer → ours."""
BINS = 129
"""Of the short-time Fourier transform over 256 samples."""


class Vad(nn.Module):
    """512 samples at 16 kHz, after what was before them, to the probability of speech."""

    def __init__(self) -> None:
        """Untrained."""
        super().__init__()
        self.stft_conv = nn.Conv1d(1, 2 * BINS, kernel_size=256, stride=128, bias=False)
        self.conv1 = nn.Conv1d(BINS, 128, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(128, 64, kernel_size=3, stride=2, padding=1)
        self.conv3 = nn.Conv1d(64, 64, kernel_size=3, stride=2, padding=1)
        self.conv4 = nn.Conv1d(64, 128, kernel_size=3, padding=1)
        self.lstm_cell = nn.LSTMCell(128, 128)
        self.final_conv = nn.Conv1d(128, 1, kernel_size=1)

    def forward(
        self, audio: Tensor, context: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """``[batch, 512]``, ``[batch, 64]``, ``[batch, 2, 128]`` → ``[batch, 1]``, the next two."""
        samples = torch.cat([context, audio], dim=1)
        padded = functional.pad(samples, (0, CONTEXT), mode="reflect")
        spectrum = self.stft_conv(padded.unsqueeze(1))
        x = torch.sqrt(spectrum[:, :BINS] ** 2 + spectrum[:, BINS:] ** 2)
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = functional.relu(layer(x))
        hidden, cell = self.lstm_cell(x.squeeze(-1), (state[:, 0], state[:, 1]))
        speech = torch.sigmoid(self.final_conv(functional.relu(hidden).unsqueeze(-1)))
        return speech.squeeze(-1), audio[:, -CONTEXT:], torch.stack([hidden, cell], dim=1)


def load() -> nn.Module:
    """The model with its trained weights, read from the installed package; no network."""
    import onnx

    graph = onnx.load(weights_folder() / WEIGHTS).graph
    weights = {}
    for tensor in graph.initializer:
        for theirs, ours in NAMES.items():
            if tensor.name.startswith(theirs):
                array = onnx.numpy_helper.to_array(tensor)
                weights[ours + tensor.name.removeprefix(theirs)] = torch.from_numpy(array.copy())
    model = Vad()
    model.load_state_dict(weights)
    return model.eval()


def weights_folder() -> Path:
    """The package's folder of models; it is found, not imported."""
    found = importlib.util.find_spec("silero_vad")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("the weights are not installed: pip install silero-vad==6.2.3")
    return Path(found.submodule_search_locations[0]) / "data"
