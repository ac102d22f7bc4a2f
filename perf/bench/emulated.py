"""Publish and serve the emulated accelerator of ``examples/emulated`` with a timing of one's own.

It emulates an accelerator's timing and is no model: a batch sleeps, so that many instances run in
parallel on few cores. Whatever is measured on it must say so.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from conch.errors import ConfigError, LoadError
from conch.names import model_name
from serving import model_config
from serving.model_config import ModelConfig
from serving.repository import CONFIG
from serving.runtime.supervisor import TritonServer

EXAMPLE = Path(__file__).parents[2] / "examples" / "emulated"
BYTECODE = "__pycache__"
WEIGHTS = "weights.bin"
"""What an instance holds in memory twice, where it is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmulatedModel:
    """What the emulated accelerator does.

    Attributes:
        alpha_s, beta_s: a batch of b items takes ``alpha_s``·b + ``beta_s`` seconds.
        jitter_fraction: standard deviation of that time, as a fraction; cut off at three of them.
        max_batch_size: items that Triton may join into one batch.
        load_s: seconds that an instance takes to load, beside the start of its process.
        instances: at the start.
        name: the model's.
        max_queue_delay_s: how long the batcher may wait for more requests.
        free_batches: the first of each instance, which take no time.
        more_versions: (alpha_s, beta_s) of further versions by number, from 2 on; version 1 alone
            is served at first.
        weights: bytes of a file of zeros in each of these versions, which an instance holds twice.
    """

    alpha_s: float
    beta_s: float
    jitter_fraction: float = 0.03
    max_batch_size: int = 8
    load_s: float = 3.0
    instances: int = 1
    name: str = "emulated"
    max_queue_delay_s: float = 0.0
    free_batches: int = 0
    more_versions: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    weights: Mapping[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Reject what no instance could do."""
        model_name(self.name)
        for key in ("alpha_s", "beta_s", "jitter_fraction", "load_s", "max_queue_delay_s"):
            value = getattr(self, key)
            if not 0 <= value < float("inf"):
                raise ConfigError(
                    f"emulated model: {key} = {value:g}, must be finite and at least 0.",
                    hint="Raise it.",
                )
        if not self.jitter_fraction < 1 / 3:
            raise ConfigError(
                f"emulated model: jitter_fraction = {self.jitter_fraction:g}, must be below 1/3.",
                hint="At three standard deviations a batch would take no time.",
            )
        if self.max_batch_size < 1 or self.instances < 1:
            raise ConfigError(
                f"emulated model: max_batch_size = {self.max_batch_size}, "
                f"instances = {self.instances}, must be at least 1.",
                hint="Raise it.",
            )
        if any(number < 2 for number in self.more_versions):
            raise ConfigError(
                f"emulated model: versions {sorted(self.more_versions)}, must be from 2 on.",
                hint="Version 1 is alpha_s and beta_s.",
            )


def config_of(model: EmulatedModel) -> ModelConfig:
    """The complete ``config.pbtxt``: that of the example with the values of ``model``."""
    config = model_config.parse((EXAMPLE / CONFIG).read_text(encoding="utf-8"))
    config.name = model.name
    config.max_batch_size = model.max_batch_size
    config.instance_group[0].count = model.instances
    delay_us = round(model.max_queue_delay_s * 1e6)
    config.dynamic_batching.max_queue_delay_microseconds = delay_us
    values = {
        "alpha_ms": model.alpha_s * 1e3,
        "beta_ms": model.beta_s * 1e3,
        "jitter": model.jitter_fraction,
        "load_s": model.load_s,
    }
    if model.free_batches:
        values["free_batches"] = model.free_batches
    for number, (alpha_s, beta_s) in model.more_versions.items():
        values |= {f"alpha_ms.{number}": alpha_s * 1e3, f"beta_ms.{number}": beta_s * 1e3}
    for key, value in values.items():
        config.parameters[key].string_value = f"{value:.9g}"
    return config


def publish(model: EmulatedModel, repository_root: Path) -> None:
    """Write the model's directory: ``config.pbtxt`` and ``model.py`` in each version.

    Raises:
        ConfigError: when the examples are not there, or the repository has the model already.
    """
    folder = repository_root / model.name
    if not (EXAMPLE / CONFIG).is_file():
        raise ConfigError(
            f"emulated model: {EXAMPLE} is not there; the examples come with the source tree only.",
            hint="Run it in a clone of the project.",
        )
    if folder.exists():
        raise ConfigError(
            f"emulated model: {folder} is there already.",
            hint="Choose another name or repository.",
        )
    for number in (1, *sorted(model.more_versions)):
        version = folder / str(number)
        version.mkdir(parents=True)
        shutil.copyfile(EXAMPLE / "model.py", version / "model.py")
        # A file where Python wants its folder: bytecode written at the first load would be newer
        # than the load, and make the next change of the count a full reload.
        (version / BYTECODE).touch()
        if number in model.weights:
            with (version / WEIGHTS).open("wb") as file:
                file.truncate(model.weights[number])  # takes no room on disk
    (folder / CONFIG).write_text(model_config.to_text(config_of(model)), encoding="utf-8")


@contextmanager
def served(root: Path, folder: Path, *, slots: int | None = None) -> Iterator[TritonServer]:
    """A Triton with the models of a repository, which nobody starts again.

    Args:
        root: the repository.
        folder: a temporary one, for the log; its name tells servers apart.
        slots: as for ``conch serve``.

    Raises:
        LoadError: when a model does not load.
        ConchError: when the server does not start.
    """
    with TritonServer(
        root,
        name=f"bench-{folder.name[-8:].replace('_', '-')}",
        slots=slots,
        log_path=folder / "triton.log",
        exit_timeout_s=2,
        restart=False,
    ) as server:
        if bad := [model for model in server.models if not model.ready]:
            raise LoadError(
                f"{bad[0].name} does not load ({bad[0].reason}).",
                hint="Is there room for so many? Try fewer instances or models.",
            )
        yield server
