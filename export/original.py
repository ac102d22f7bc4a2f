"""The unchanged model of a recipe, whatever its source: the reference of every numeric check."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from conch.errors import ConfigError, ParityError
from export.external_data import external_files, external_locations
from export.session import Session
from export.source import Source, call, load_module
from export.source_files import located
from export.source_spec import initial_form
from export.steps.base import Artifact, Batch, Form, Original

if TYPE_CHECKING:
    import torch

    from export.recipe import Model, Recipe

MODULE_FILE = "module.pt"
MODEL_FILE = "model.onnx"

__all__ = ["OnnxOriginal", "TorchOriginal", "initial_form", "keep", "load", "stored"]


class TorchOriginal:
    """A module in evaluation mode on the CPU."""

    def __init__(self, module: torch.nn.Module, model: Model) -> None:
        """Take the module as it is; ``model`` names its inputs and outputs."""
        self.module = module
        self.model = model

    def run(self, batch: Batch) -> dict[str, NDArray[Any]]:
        """Its outputs for one batch, by the recipe's names.

        Raises:
            ConfigError: when the module raises, or gives another number of outputs.
        """
        return call(self.module, batch, self.model)


class OnnxOriginal:
    """An ONNX file as it is, at full precision, in ONNX Runtime on the CPU."""

    def __init__(self, path: Path, model: Model) -> None:
        """Load the file.

        Raises:
            ParityError: when ONNX Runtime refuses it.
        """
        self.path = path
        self.model = model
        self._session = Session(path, outputs=[tensor.name for tensor in model.outputs])

    @property
    def module(self) -> torch.nn.Module:
        """There is none.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            f"model {self.model.name}: the source is an ONNX file, which has no PyTorch module.",
            hint="prune, finetune and distill need a factory, a program or a Hugging Face folder.",
        )

    def run(self, batch: Batch) -> dict[str, NDArray[Any]]:
        """Its outputs for one batch, by the recipe's names.

        Raises:
            ConfigError: when the file refuses the batch.
        """
        wanted = {tensor.name: batch[tensor.name] for tensor in self.model.inputs}
        try:
            outputs = self._session.run(wanted)
        except ParityError as error:
            raise ConfigError(
                f"model {self.model.name}: {error.message}", hint=error.hint
            ) from error
        return {tensor.name: outputs[tensor.name] for tensor in self.model.outputs}


def load(recipe: Recipe, source: Source) -> Original:
    """The original, read from wherever the recipe says.

    Raises:
        ConfigError: when the source is missing, or is not what the recipe says.
        ParityError: when a weight is NaN or infinite; it is named.
    """
    model = recipe.model
    if model.onnx is not None:
        from export import preflight_onnx

        path = located(model.onnx, source.folder, key="model.onnx")
        preflight_onnx.check(path, recipe, triton=recipe.serving.target_triton)
        return OnnxOriginal(path, model)
    module = _module(recipe, source)
    _check_weights(module, model)
    return TorchOriginal(module, model)


def keep(original: Original, folder: Path, facts: Mapping[str, Any]) -> Artifact:
    """The original as files in ``folder``, from which ``stored`` makes it again.

    A module goes whole into ``module.pt``; an ONNX file is copied, with its external data.

    Raises:
        ConfigError: when a module cannot be stored.
        OSError: when the disk refuses.
    """
    if isinstance(original, OnnxOriginal):
        path, extra = _copied(original.path, folder)
        return Artifact(form=Form.ONNX, path=path, extra=extra, facts=facts)
    path = folder / MODULE_FILE
    _save(original.module, path)
    return Artifact(form=Form.TORCH, module=original.module, path=path, facts=facts)


def stored(recipe: Recipe, artifact: Artifact) -> Original:
    """The original that ``keep`` wrote.

    Raises:
        ParityError: when ONNX Runtime refuses the file.
    """
    if artifact.form is Form.ONNX:
        return OnnxOriginal(artifact.file, recipe.model)
    return TorchOriginal(artifact.torch_module, recipe.model)


def _module(recipe: Recipe, source: Source) -> torch.nn.Module:
    """The module of a PyTorch source."""
    model = recipe.model
    if model.program is not None:
        from export import program

        path = located(model.program, source.folder, key="model.program")
        return program.load(path, recipe)
    if model.huggingface is not None:
        from export import huggingface

        options = model.huggingface
        folder = located(options.folder, source.folder, key="model.huggingface.folder")
        return huggingface.load(folder, model, options)
    return load_module(source, model, seed=recipe.seed)


def _copied(source: Path, folder: Path) -> tuple[Path, tuple[Path, ...]]:
    """Copies of an ONNX file and of its data files, all in one folder.

    A data file of a folder below is renamed, for what is published has no folders below.
    """
    path = folder / MODEL_FILE
    names = {
        data: "_".join(data.relative_to(source.parent.resolve()).parts)
        for data in external_files(source)
    }
    if any(data.parent != source.parent.resolve() for data in names):
        import onnx

        proto = onnx.load(source, load_external_data=False)
        for entry in external_locations(proto):
            entry.value = names[(source.parent / entry.value).resolve()]
        onnx.save(proto, path)
    else:
        shutil.copyfile(source, path)
    return path, tuple(Path(shutil.copyfile(data, folder / names[data])) for data in names)


def _check_weights(module: torch.nn.Module, model: Model) -> None:
    """Refuse NaN anywhere, and infinity in parameters: in a buffer it may be a mask."""
    import torch

    bad = [
        name
        for name, tensor in module.named_parameters()
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())
    ]
    bad += [
        name
        for name, tensor in module.named_buffers()
        if tensor.is_floating_point() and bool(torch.isnan(tensor).any())
    ]
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise ParityError(
            f"model {model.name}: {', '.join(bad[:3])}{more} holds NaN or infinity, weights must "
            "be finite.",
            hint="The training diverged or the file is damaged: take an earlier checkpoint.",
        )


def _save(module: torch.nn.Module, path: Path) -> None:
    """Store the whole module."""
    import torch

    try:
        torch.save(module, path)
    except OSError:
        raise
    except Exception as error:  # pickle's errors share no base class
        path.unlink(missing_ok=True)
        line = next(iter(str(error).strip().splitlines()), "")
        raise ConfigError(
            f"model: {type(module).__name__} cannot be stored ({type(error).__name__}: "
            f"{line.rstrip('.')}); steps run in processes of their own and pass it on as a file.",
            hint="Define its classes and functions at the top of a file, and remove weight "
            "parametrizations (torch.nn.utils.parametrize.remove_parametrizations).",
        ) from error
