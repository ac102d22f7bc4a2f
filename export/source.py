"""The user's code: functions that the recipe names, and the module that a factory gives.

A folder with a recipe acts as a package of its own (under a made-up name), so two recipes may both
have a ``model.py``, and files beside the recipe import each other with ``from .data import x``.
The name is made from the content of its Python files, not from its path: stored modules name their
classes by it, and a recipe that is moved or copied with its ``runs`` must find them again.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import random
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from conch.errors import ConchError, ConfigError
from export.hashing import file_sha256
from export.source_files import python_files

if TYPE_CHECKING:
    import torch

    from export.recipe import Model


PACKAGE_PREFIX = "conch_recipe_"


class Source:
    """Functions that a recipe names, looked up beside it or in installed packages."""

    def __init__(self, folder: Path) -> None:
        """Take ``folder`` as the recipe's; modules of an earlier run on it are forgotten.

        So are those of another folder with equal code: one of the two is at work at a time.
        """
        self.folder = folder.resolve()
        self._package = f"{PACKAGE_PREFIX}{_code_digest(self.folder)}"
        for name in [name for name in sys.modules if name.split(".")[0] == self._package]:
            del sys.modules[name]
        package = types.ModuleType(self._package)
        package.__path__ = [str(self.folder)]
        sys.modules[self._package] = package

    def function(self, reference: str, *, key: str) -> Callable[..., Any]:
        """The function that ``FILE.py:FUNCTION`` or ``PACKAGE.MODULE:FUNCTION`` names.

        Args:
            reference: as in the recipe.
            key: the recipe's key, for messages.

        Raises:
            ConfigError: when the file, the module or the function is missing, or its import fails.
        """
        where, _, name = reference.rpartition(":")
        module = self._file(where, key) if where.endswith(".py") else self._installed(where, key)
        function = getattr(module, name, None)
        if not callable(function):
            there = sorted(
                key
                for key, value in vars(module).items()
                if callable(value) and getattr(value, "__module__", "") == module.__name__
            )
            raise ConfigError(
                f"{key}: {reference}: {where} has no function {name}; "
                f"it has {', '.join(there) or 'none'}.",
                hint="Correct the recipe or add the function.",
            )
        return function  # type: ignore[no-any-return]

    def call(self, reference: str, *arguments: Any, key: str, seed: int) -> Any:
        """What the function gives, with every source of randomness seeded first.

        Raises:
            ConfigError: when it cannot be found or raises.
        """
        function = self.function(reference, key=key)
        seed_everything(seed)
        try:
            return function(*arguments)
        except ConchError:
            raise
        except Exception as error:
            raise ConfigError(
                f"{key}: {reference} raised {type(error).__name__}: {error}.",
                hint="Mend the function; --debug shows its traceback.",
            ) from error

    def files(self, references: Iterable[str]) -> list[Path]:
        """The files beside the recipe that these references name, sorted."""
        names = {reference.rpartition(":")[0] for reference in references}
        return sorted(self.folder / name for name in names if name.endswith(".py"))

    def _file(self, where: str, key: str) -> types.ModuleType:
        """The module in a file beside the recipe."""
        path = (self.folder / where).resolve()
        if not path.is_file():
            raise ConfigError(
                f"{key}: {path} is not there.",
                hint="Paths in a recipe are relative to the recipe.",
            )
        if path.parent != self.folder or not path.stem.isidentifier():
            raise ConfigError(
                f"{key}: {where}, must be a Python file in the recipe's own folder.",
                hint="Move it there, or install it and write PACKAGE.MODULE:FUNCTION.",
            )
        return self._import(f"{self._package}.{path.stem}", where, key)

    def _installed(self, where: str, key: str) -> types.ModuleType:
        """An installed module."""
        return self._import(where, where, key)

    def _import(self, module: str, where: str, key: str) -> types.ModuleType:
        """The module, with a clear error when it is missing or fails."""
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as error:
            missing = error.name or module
            beside = (self.folder / f"{missing}.py").is_file()
            raise ConfigError(
                f"{key}: {where} needs the module {missing}, which is not installed.",
                hint=f"Files beside a recipe are imported as `from .{missing} import ...`."
                if beside
                else "Install it; the examples need `pip install 'conch-serving[examples]'`.",
            ) from error
        except Exception as error:
            raise ConfigError(
                f"{key}: import of {where} raised {type(error).__name__}: {error}.",
                hint="Mend the file; --debug shows its traceback.",
            ) from error


def _code_digest(folder: Path) -> str:
    """Hash of the Python files in the folder and below it, and of their places in it."""
    found = hashlib.sha256()
    for path in python_files(folder):
        found.update(f"{path.relative_to(folder)}\0{file_sha256(path)}\n".encode())
    return found.hexdigest()[:12]


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch."""
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def load_module(source: Source, model: Model, *, seed: int) -> torch.nn.Module:
    """The module that the recipe's factory gives, in evaluation mode on the CPU.

    Raises:
        ConfigError: when the factory is missing, raises, or gives something else.
    """
    import torch

    if model.factory is None:
        raise AssertionError(f"the source of {model.name} is {model.kind}, not a factory")
    module = source.call(model.factory, key="model.factory", seed=seed)
    if not isinstance(module, torch.nn.Module):
        raise ConfigError(
            f"model.factory: {model.factory} gave a {type(module).__name__}, "
            "must give a torch.nn.Module.",
            hint="Return the module itself.",
        )
    return module.eval().cpu()


def call(
    module: torch.nn.Module, batch: Mapping[str, NDArray[Any]], model: Model
) -> dict[str, NDArray[Any]]:
    """The module's outputs for one batch, by the recipe's names.

    Raises:
        ConfigError: when the module raises, or gives another number of outputs.
    """
    import torch

    arguments = [torch.from_numpy(np.ascontiguousarray(batch[t.name])) for t in model.inputs]
    try:
        with torch.inference_mode():
            result = module(*arguments)
    except Exception as error:
        shapes = {tensor.name: list(batch[tensor.name].shape) for tensor in model.inputs}
        first = next(iter(str(error).strip().splitlines()), "")
        raise ConfigError(
            f"model {model.name}: forward fails on inputs {shapes} "
            f"({type(error).__name__}: {first.rstrip('.')}).",
            hint="It must take every batch size from 1 to serving.max_batch_size, and the inputs "
            "in the recipe's order, dtype and dims.",
        ) from error
    tensors = [result] if isinstance(result, torch.Tensor) else list(_tensors(result))
    if len(tensors) != len(model.outputs):
        raise ConfigError(
            f"model {model.name}: forward gives {len(tensors)} outputs, "
            f"the recipe names {len(model.outputs)}.",
            hint="Name each output in model.outputs, in order.",
        )
    return {
        tensor.name: value.numpy() for tensor, value in zip(model.outputs, tensors, strict=True)
    }


def _tensors(result: Any) -> list[torch.Tensor]:
    """The tensors of a tuple, a list, or a mapping in its order."""
    import torch

    values = list(result.values()) if isinstance(result, Mapping) else result
    if not isinstance(values, list | tuple) or not all(
        isinstance(value, torch.Tensor) for value in values
    ):
        raise ConfigError(
            f"model output: {type(result).__name__}, must be a tensor or a flat sequence of them.",
            hint="Wrap the model in a module whose forward gives plain tensors.",
        )
    return list(values)
