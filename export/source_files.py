"""The files that decide what the original is: where they are, and their hashes. Imports no torch.

``onnx`` is imported only for an ONNX source, to find its external data files.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from conch.errors import ConfigError
from export.source_spec import PACKAGE

if TYPE_CHECKING:
    from export.recipe import Recipe


def located(reference: str, folder: Path, *, key: str) -> Path:
    """The file or folder that a path of a recipe means.

    Args:
        reference: relative to the recipe, absolute, or ``package:NAME/path/inside``; the package is
            found, not imported.
        folder: the recipe's.
        key: the recipe's key, for messages.

    Raises:
        ConfigError: when the package is not installed, or nothing is at the path.
    """
    if reference.startswith(PACKAGE):
        name, _, inside = reference.removeprefix(PACKAGE).partition("/")
        path = _package_folder(name, key) / inside
    else:
        path = folder / Path(reference).expanduser()
    if not path.exists():
        raise ConfigError(
            f"{key}: {reference}: {path} is not there.",
            hint="Paths in a recipe are relative to the recipe; package:NAME/path is inside an "
            "installed package.",
        )
    return path.resolve()


def source_files(recipe_path: Path, recipe: Recipe) -> list[Path]:
    """Every file whose content decides what the original is, sorted.

    These are the Python files beside the recipe and in packages there, the installed modules that
    it names, the program, ONNX file (with its external data) or Hugging Face folder, and
    ``model.files``.

    Raises:
        ConfigError: when one that the recipe names is missing.
    """
    model, folder = recipe.model, recipe_path.parent.resolve()
    found = set(_python_files(folder))
    found.update(_installed_modules(recipe.references))
    for index, reference in enumerate(model.files):
        found.update(_files_in(located(reference, folder, key=f"model.files[{index}]")))
    if model.program is not None:
        found.add(located(model.program, folder, key="model.program"))
    if model.onnx is not None:
        path = located(model.onnx, folder, key="model.onnx")
        found.update((path, *external_files(path)))
    if model.huggingface is not None:
        inside = located(model.huggingface.folder, folder, key="model.huggingface.folder")
        found.update(path for path in inside.iterdir() if _is_part_of_model(path))
    return sorted(found)


def external_files(path: Path) -> list[Path]:
    """The files beside an ONNX file that hold its weights, sorted.

    Raises:
        ConfigError: when the file cannot be read, or one of its data files is missing or outside
            its folder.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        proto = onnx.load(path, load_external_data=False)
    except (OSError, DecodeError) as error:
        raise ConfigError(
            f"model.onnx: {path} cannot be read as ONNX ({str(error).splitlines()[0]}).",
            hint="Check the file; a download may be cut short, or be a Git LFS pointer.",
        ) from error
    names = {
        entry.value
        for tensor in proto.graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    files = []
    for name in sorted(names):
        data = (path.parent / name).resolve()
        if not data.is_relative_to(path.parent.resolve()) or not data.is_file():
            raise ConfigError(
                f"model.onnx: {path.name} keeps weights in {name}, which is not beside it.",
                hint=f"Put {name} into {path.parent}, or save the model as one file.",
            )
        files.append(data)
    return files


def file_digest(path: Path) -> str:
    """SHA-256 of the file's content, in hex; about 0.3 s for 90 MB.

    Raises:
        OSError: when it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _python_files(folder: Path) -> Iterator[Path]:
    """Python files in the folder, and in the packages below it."""
    yield from folder.glob("*.py")
    for package in folder.glob("*/__init__.py"):
        yield from _python_files(package.parent)


def _installed_modules(references: Iterable[str]) -> Iterator[Path]:
    """The files of the ``PACKAGE.MODULE`` that references name, found without an import."""
    for reference in references:
        where = reference.rpartition(":")[0]
        if where.endswith(".py"):
            continue
        top, *rest = where.split(".")
        spec = importlib.util.find_spec(top)
        if spec is None:
            continue  # told by whoever calls the function
        roots = [Path(root) for root in spec.submodule_search_locations or ()]
        candidates = [Path(spec.origin)] if spec.origin and not rest else []
        for root in roots:
            stem = root.joinpath(*rest)
            candidates += [stem.with_suffix(".py"), stem / "__init__.py"]
        yield from (path.resolve() for path in candidates if path.is_file())


def _is_part_of_model(path: Path) -> bool:
    """Whether a file of a Hugging Face folder may decide what the model gives."""
    return path.is_file() and not path.name.startswith(".") and path.suffix != ".md"


def _package_folder(name: str, key: str) -> Path:
    """Where an installed package lies."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            f"{key}: the package {name} is not installed.",
            hint="NAME in package:NAME/path is the name that `import` would use; install it.",
        )
    return Path(spec.submodule_search_locations[0])


def _files_in(path: Path) -> list[Path]:
    """The file itself, or all files below a folder but hidden ones and caches."""
    if path.is_file():
        return [path]
    return [
        found
        for found in path.rglob("*")
        if found.is_file()
        and not any(
            part.startswith(".") or part == "__pycache__" for part in found.relative_to(path).parts
        )
    ]
