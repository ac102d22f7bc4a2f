"""The files that decide what the original is: where they are, and their hashes. Imports no torch.

``onnx`` is imported only for an ONNX source, to find its data files.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from conch.errors import ConfigError
from export.external_data import external_files
from export.source_spec import PACKAGE

if TYPE_CHECKING:
    from export.recipe import Recipe

_NO_CODE = {"__pycache__", "node_modules", "runs", "model_repository"}
"""Folders beside a recipe that hold what Conch and other tools write, besides hidden ones."""


_LONGEST = 100
"""Characters of a path that a message quotes."""


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
    inside = reference
    if reference.startswith(PACKAGE):
        name, _, inside = reference.removeprefix(PACKAGE).partition("/")
        folder = _package_folder(name, key)
    try:
        path = folder / Path(inside).expanduser()
        return path.resolve(strict=True)
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(
            f"{key}: {reference}: {path} is not there.",
            hint="Paths in a recipe are relative to the recipe; package:NAME/path is inside an "
            "installed package.",
        ) from None
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: whose home, or a loop
        raise ConfigError(
            f"{key}: {reference[:_LONGEST]}: cannot be looked at "
            f"({getattr(error, 'strerror', None) or error}).",
            hint="Correct the path, or its permissions.",
        ) from None


def source_files(recipe_path: Path, recipe: Recipe) -> list[Path]:
    """Every file whose content decides what the original is, sorted.

    Of code these are:

    - all Python files in the recipe's folder and below it, but for hidden folders, ``runs``,
      ``model_repository`` and virtual environments;
    - of a ``PACKAGE.MODULE`` that the recipe names: all Python files of PACKAGE when it lies
      elsewhere than among installed packages (an editable install, a folder on PYTHONPATH), else
      the module's own file; ``distributions`` tells the versions to go with it.

    Further the program, ONNX file (with its external data) or Hugging Face folder, ``model.files``
    and ``data.files``. Any other file that the recipe's code reads is not among them, nor is code
    that PACKAGE imports from other packages.

    Raises:
        ConfigError: when one that the recipe names is missing, or cannot be read.
    """
    try:
        return _source_files(recipe_path, recipe)
    except OSError as error:
        raise ConfigError(
            f"{recipe_path}: a file or folder that it names cannot be read ({error}).",
            hint="Correct the path, or its permissions.",
        ) from error


def _source_files(recipe_path: Path, recipe: Recipe) -> list[Path]:
    """The same; what the file system says against it is raised as it is."""
    model, folder = recipe.model, recipe_path.parent.resolve()
    found = set(python_files(folder))
    found.update(_code_of_packages(recipe.references))
    for key, references in (("model.files", model.files), ("data.files", recipe.data.files)):
        for index, reference in enumerate(references):
            found.update(_files_in(located(reference, folder, key=f"{key}[{index}]")))
    if model.program is not None:
        found.add(located(model.program, folder, key="model.program"))
    if model.onnx is not None:
        path = located(model.onnx, folder, key="model.onnx")
        found.update((path, *external_files(path)))
    if model.huggingface is not None:
        inside = located(model.huggingface.folder, folder, key="model.huggingface.folder")
        found.update(path for path in inside.iterdir() if _is_part_of_model(path))
    return sorted(found)


def python_files(folder: Path) -> list[Path]:
    """The Python files in the folder and below it, sorted; see ``source_files``."""
    found = []
    for root, folders, files in os.walk(folder):
        here = Path(root)
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".")
            and name not in _NO_CODE
            and not (here / name / "pyvenv.cfg").exists()
        ]
        found += [here / name for name in files if name.endswith(".py")]
    return sorted(found)


def distributions(references: Iterable[str]) -> tuple[str, ...]:
    """The distributions of the installed packages that references name, sorted.

    Their versions stand for the rest of their code.
    """
    tops = {top for top in map(_top, references) if top and _is_installed(top)}
    known = importlib.metadata.packages_distributions() if tops else {}
    return tuple(sorted({one for top in tops for one in known.get(top, ())}))


def file_labels(paths: Iterable[Path], folder: Path) -> dict[Path, str]:
    """Names that tell files apart and stay the same when the recipe's folder moves.

    Args:
        paths: as ``source_files`` gives them.
        folder: the recipe's.
    """
    return {path: str(path.relative_to(_base(path, folder.resolve()))) for path in paths}


def _base(path: Path, folder: Path) -> Path:
    """What a file's name is relative to: the recipe's folder, or that of its outermost package."""
    if path.is_relative_to(folder):
        return folder
    base = path.parent
    while (base / "__init__.py").is_file() and base != base.parent:
        base = base.parent
    return base


def _top(reference: str) -> str:
    """The outermost package that a reference names; empty for a file beside the recipe."""
    where = reference.rpartition(":")[0]
    return "" if where.endswith(".py") else where.partition(".")[0]


def _code_of_packages(references: Iterable[str]) -> Iterator[Path]:
    """The files of the ``PACKAGE.MODULE`` that references name, found without an import."""
    for reference in references:
        top = _top(reference)
        spec = importlib.util.find_spec(top) if top else None
        if spec is None:
            continue  # told by whoever calls the function
        roots = [Path(root).resolve() for root in spec.submodule_search_locations or ()]
        if roots and not _is_installed(top):
            for root in roots:
                yield from python_files(root)
            continue
        rest = reference.rpartition(":")[0].split(".")[1:]
        candidates = [Path(spec.origin)] if spec.origin and not rest else []
        for root in roots:
            stem = root.joinpath(*rest)
            candidates += [stem.with_suffix(".py"), stem / "__init__.py"]
        yield from (path.resolve() for path in candidates if path.is_file())


def _is_installed(top: str) -> bool:
    """Whether the package lies among installed ones, or is Python's own."""
    spec = importlib.util.find_spec(top)
    if spec is None or top in sys.stdlib_module_names:
        return spec is not None
    places = list(spec.submodule_search_locations or filter(None, [spec.origin]))
    return bool(places) and all(
        any(Path(one).resolve().is_relative_to(root) for root in _installed()) for one in places
    )


@functools.cache
def _installed() -> tuple[Path, ...]:
    """The folders that hold installed packages."""
    paths = sysconfig.get_paths()
    known = [paths["purelib"], paths["platlib"], *site.getsitepackages()]
    if site.ENABLE_USER_SITE:
        known.append(site.getusersitepackages())
    return tuple(dict.fromkeys(Path(one).resolve() for one in known))


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
