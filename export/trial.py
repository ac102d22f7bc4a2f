"""A throwaway Triton: what is to be published is loaded and asked first, on a copy.

One server for all models of a run, on free ports of loopback, from a temporary repository that is
gone afterwards. What counts as a right answer is ``export.load_test``'s to say.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from conch.errors import ApplyRejected
from export import load_test
from export.publish import Publication
from export.recipe import Recipe
from serving import model_config
from serving.client import SequenceStep, TritonClient
from serving.model_config import ModelConfig
from serving.repository import CONFIG
from serving.runtime import find
from serving.runtime.find import TritonBinary
from serving.runtime.supervisor import TritonServer

Arrays = dict[str, NDArray[Any]]

CACHE_BYTES = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """One model of the trial.

    Attributes:
        config: its config, complete.
        files: the files of version 1; the first is the one that the config names.
        versions: instead of ``files``, the files of versions 1, 2, ... by their names there.
        model_files: files beside the config.
    """

    config: ModelConfig
    files: Sequence[Path] = ()
    versions: Sequence[Mapping[str, Path]] = ()
    model_files: Mapping[str, Path] = field(default_factory=dict)

    @property
    def layout(self) -> list[Mapping[str, Path]]:
        """File name → file, for each version in order."""
        if self.versions:
            return list(self.versions)
        first, *others = self.files
        name = self.config.default_model_filename or first.name
        return [{name: first, **{path.name: path for path in others}}]


class Trial:
    """The running server."""

    def __init__(self, server: TritonServer, client: TritonClient) -> None:
        """Of a started server."""
        self._server = server
        self._client = client
        self._folder = server.endpoint.repository
        self._readiness = {model.name: model for model in server.models}

    @property
    def version(self) -> str:
        """Triton's version."""
        return self._client.server_version()

    def ready(self, name: str) -> bool:
        """Whether the model loaded and answered an inference."""
        return name in self._readiness and self._readiness[name].ready

    def reason(self, name: str) -> str:
        """Why it is not ready; empty when it is."""
        if name not in self._readiness:
            return "Triton did not try to load it"
        first = self._readiness[name].reason.partition("\n")[0]  # Python models add a traceback
        return first.rpartition("TritonModelException: ")[2].replace(f"{self._folder}/", "")

    def infer(
        self,
        name: str,
        batch: Mapping[str, NDArray[Any]],
        *,
        version: int | None = None,
        step: SequenceStep | None = None,
    ) -> Arrays:
        """The model's outputs for one batch.

        Raises:
            ApplyRejected: when the model did not load.
            InferenceFailed: when it answers with an error.
        """
        if not self.ready(name) and self.reason(name):
            raise ApplyRejected(
                f"{name}: Triton {self.version} cannot serve it ({self.reason(name)}).",
                hint="Nothing was published.",
            )
        return self._client.infer(name, batch, version=version, step=step, deadline_s=60.0)


@contextlib.contextmanager
def serving(models: Mapping[str, Model] | Sequence[Publication]) -> Iterator[Trial]:
    """Serve these models for as long as the context lasts; about 3 s to start, 1 s to stop.

    All versions of a model are served, whatever its policy. Groups on GPUs are served on the CPU
    where there is no GPU, or this Triton has no backend for it.

    Example:
        >>> with serving({"m": Model(config=config, files=[path])}) as trial:  # doctest: +SKIP
        ...     trial.infer("m", {"x": batch})

    Raises:
        TritonUnavailable: when no Triton is at hand, or it does not start.
    """
    given = models if isinstance(models, Mapping) else of(models)
    binary = find.find()
    with tempfile.TemporaryDirectory(prefix="conch-trial-") as folder:
        repository = Path(folder) / "models"
        for name, model in given.items():
            _write(repository / name, model, on_cpu=not gpu_at_hand(binary))
        cached = any(model.config.response_cache.enable for model in given.values())
        server = TritonServer(
            repository,
            name=f"trial-{os.getpid()}",
            log_path=Path(folder) / "triton.log",
            binary=binary,
            restart=False,
            exit_timeout_s=1,
            cache_bytes=CACHE_BYTES if cached else 0,
        )
        with server, TritonClient(server.endpoint.grpc_url) as client:
            yield Trial(server, client)


def verify(publications: Sequence[Publication], recipe: Recipe) -> dict[str, str]:
    """Load everything once and compare its answers with ONNX Runtime's on the same files.

    Args:
        publications: all of a run, ensembles last; those that cannot load here are left out.
        recipe: the recipe.

    Returns:
        Name → what is wrong with it; empty when all is well. What needs a model that failed has
        failed with it.

    Raises:
        TritonUnavailable: when no Triton is at hand, or it does not start.
    """
    loadable = [one for one in publications if one.loadable]
    problems: dict[str, str] = {}
    if not loadable:
        return problems
    with serving(loadable) as trial:
        for one in loadable:
            problem = trial.reason(one.name) or load_test.problem(trial, one, loadable, recipe)
            if problem:
                problems[one.name] = f"refused by the load test on Triton: {problem}"
    _spread(loadable, problems)
    return problems


def _spread(publications: Sequence[Publication], problems: dict[str, str]) -> None:
    """An ensemble stands and falls with what it needs, and its parts serve nothing else."""
    for one in publications:
        if one.ensemble is None:
            continue
        broken = next((name for name in one.needs if name in problems), None)
        if broken is not None:
            problems[one.name] = f"needs {broken}: {problems[broken]}"
        for name in one.ensemble.parts if one.name in problems else ():
            problems.setdefault(name, f"is a part of {one.name}: {problems[one.name]}")


def of(publications: Sequence[Publication]) -> dict[str, Model]:
    """The models of a trial, of what is to be published; those that cannot load here left out."""
    return {
        one.name: Model(
            config=_pinned(one, publications),
            versions=[version.files for version in one.versions],
            model_files=one.model_files,
        )
        for one in publications
        if one.loadable
    }


def _pinned(one: Publication, among: Sequence[Publication]) -> ModelConfig:
    """An ensemble with the very version of its variant: here all versions are served."""
    if one.ensemble is None:
        return one.config
    config = ModelConfig()
    config.CopyFrom(one.config)
    middle = load_test.middle(one.ensemble, among)
    for step in config.ensemble_scheduling.step:
        if step.model_name == middle.name:
            step.model_version = load_test.version_of(one.ensemble, middle)
    return config


def gpu_at_hand(binary: TritonBinary) -> bool:
    """Whether a GPU and a Triton that can use it are here; the bundled one runs on the CPU."""
    return binary.origin != "wheel" and Path("/dev/nvidiactl").exists()


def _write(folder: Path, model: Model, *, on_cpu: bool) -> None:
    """The model's folder; its files are links where the filesystem allows."""
    for number, files in enumerate(model.layout, 1):
        (folder / str(number)).mkdir(parents=True)
        for name, source in files.items():
            target = folder / str(number) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            _link_or_copy(source, target)
    for name, source in model.model_files.items():
        _link_or_copy(source, folder / name)
    config = ModelConfig()
    config.CopyFrom(model.config)
    config.version_policy.Clear()
    config.version_policy.all.SetInParent()
    if on_cpu:
        config = model_config.on_cpu(config)
    (folder / CONFIG).write_text(model_config.to_text(config), encoding="utf-8")


def _link_or_copy(source: Path, target: Path) -> None:
    """Take no room where that can be had."""
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
