"""Real speech: the eight voices of Debian's package ``alsa-utils``, and its noise.

Nobody has marked where they speak: a piece of a voice counts as speech while it is within 40 dB of
that recording's loudest piece. The gaps at the ends, and all of the noise, count as none.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
import wave
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conch import paths
from conch.errors import ConfigError

from .model import CHUNK, CONTEXT, SAMPLE_RATE, load

Batch = dict[str, NDArray[Any]]
Audio = NDArray[np.float32]

SYSTEM_FOLDER = Path("/usr/share/sounds/alsa")
NOISE = "Noise.wav"
SPEECH_DB = -40.0


def evaluation() -> list[Batch]:
    """Each recording as one batch: its pieces of 32 ms with the states that they meet."""
    return [_with_states(pieces(path)) for path in recordings()]


def accuracy(outputs: list[Batch]) -> float:
    """Fraction of pieces that are told right, at a probability of one half."""
    told = np.concatenate([batch["speech"][:, 0] for batch in outputs]) > 0.5
    return float((told == np.concatenate([labels(path) for path in recordings()])).mean())


def labels(path: Path) -> NDArray[np.bool_]:
    """Where there is speech; bool ``[pieces]``."""
    power = (pieces(path).astype(np.float64) ** 2).mean(axis=1) + 1e-12
    loud: NDArray[np.bool_] = 10 * np.log10(power / power.max()) > SPEECH_DB
    return np.zeros_like(loud) if path.name == NOISE else loud


@functools.cache
def pieces(path: Path) -> Audio:
    """A recording at 16 kHz, in pieces of 512 samples; float32 ``[pieces, 512]`` in -1 to 1."""
    from scipy.signal import resample_poly

    with wave.open(str(path)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2") / 32768
        rate = file.getframerate()
    audio = resample_poly(samples, SAMPLE_RATE, rate).astype(np.float32)
    return audio[: len(audio) // CHUNK * CHUNK].reshape(-1, CHUNK)


def recordings() -> list[Path]:
    """The recordings, from the system or fetched with apt into Conch's cache."""
    folder = SYSTEM_FOLDER if SYSTEM_FOLDER.is_dir() else _fetched()
    return sorted(folder.glob("*.wav"))


def _with_states(audio: Audio) -> Batch:
    """The pieces with the context and the state that the original has before each."""
    import torch

    model = load()
    context, state = torch.zeros(1, CONTEXT), torch.zeros(1, 2, 128)
    contexts, states = [], []
    with torch.inference_mode():
        for piece in torch.from_numpy(audio):
            contexts.append(context)
            states.append(state)
            _, context, state = model(piece[None], context, state)
    return {
        "audio": audio,
        "context": torch.cat(contexts).numpy(),
        "state": torch.cat(states).numpy(),
    }


def _fetched() -> Path:
    """The package's sounds, unpacked without installing it."""
    folder = paths.cache_dir() / "examples" / "alsa-utils"
    if not folder.is_dir():
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            raise ConfigError(
                f"speech: {SYSTEM_FOLDER} is not here, and neither is apt-get to fetch it.",
                hint="Install the package alsa-utils.",
            )
        partial = folder.with_name("alsa-utils.part")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            subprocess.run(
                ["apt-get", "download", "-qq", "alsa-utils"],
                cwd=partial, check=True, capture_output=True, timeout=120,
            )  # fmt: skip
            package = next(partial.glob("*.deb"))
            subprocess.run(["dpkg-deb", "-x", str(package), str(partial)], check=True, timeout=60)
        except (subprocess.SubprocessError, StopIteration) as error:
            raise ConfigError(
                f"speech: apt-get cannot fetch alsa-utils ({error}).",
                hint="Run `apt-get update` first, or install the package alsa-utils.",
            ) from error
        (partial / "usr" / "share" / "sounds" / "alsa").rename(folder)
        shutil.rmtree(partial)
    return folder
