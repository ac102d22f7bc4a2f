"""Content keys: a stage whose key is known has the result that the key names.

A key is the hash of all that decides a result: the recipe's own files, the step's options, the
versions of the tools, and the keys of what it starts from. Times, paths and hosts are no part.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from export.hashing import file_sha256
from export.recipe import Recipe
from export.source_files import distributions, file_labels
from export.steps import StepSpec

BASE_PACKAGES = (
    "conch-serving", "torch", "onnx", "onnxscript", "onnxruntime", "numpy",
    "transformers", "tokenizers", "safetensors",
)  # fmt: skip
"""Packages that every stage may depend on."""

_DECIDES_NO_FILE = {
    "engine", "graph", "manifest", "pareto", "pipeline", "planning", "progress", "publisher",
    "reference", "report", "report_figures", "report_html", "report_table", "results", "search",
    "store", "worker",
}  # fmt: skip
"""Modules that order, judge and show; what is published is tried on Triton each time it changes."""


def digest(*parts: Any) -> str:
    """Hash of JSON values; equal values give equal hashes, whatever the order of mappings.

    Example:
        >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
        True
    """
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def files_sha256(paths: Iterable[Path]) -> str:
    """One hash of several files' names and contents, in any order; a missing one is absent."""
    return digest(*sorted((p.name, file_sha256(p) if p.is_file() else "") for p in paths))


def versions(packages: Sequence[str] = BASE_PACKAGES) -> dict[str, str]:
    """Version of Python and of each of these packages that is installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        if version := _version(package):
            found[package] = version
    return found


def root(recipe: Recipe, files: Sequence[Path], folder: Path) -> str:
    """The key of the original and its data; a recipe that moves with its files keeps it.

    Args:
        recipe: of it, what decides the original, its data and its largest batch.
        files: all files whose content decides them, see ``source_files``.
        folder: the recipe's.
    """
    labels = file_labels(files, folder)
    contents = sorted((labels[path], file_sha256(path)) for path in files)
    return digest(
        "root",
        recipe.model.model_dump(mode="json"),
        recipe.data.model_dump(mode="json"),
        recipe.seed,
        recipe.serving.max_batch_size,
        {name: os.environ.get(name) for name in recipe.data.environment},
        contents,
        versions((*BASE_PACKAGES, *distributions(recipe.references))),
    )


def step(parent: str, spec: StepSpec, recipe: Recipe) -> str:
    """The key of what the step makes of ``parent``."""
    one = spec.step
    options = [one.model_dump(mode="json"), dict(one.recipe_inputs(recipe))]
    return digest("step", parent, one.name, options, versions(one.packages), code())


def machine() -> dict[str, Any]:
    """What latency depends on and may differ between two machines with one work folder."""
    return {"cpu": cpu_model(), "cores": len(os.sched_getaffinity(0)), "node": platform.node()}


def cpu_model() -> str:
    """The processor's name, as the kernel tells it."""
    for line in _cpuinfo():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cpu_flags() -> list[str]:
    """The processor's features that decide how fast INT8 is, of those it has."""
    wanted = {"avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "avx512_bf16", "asimddp"}
    for line in _cpuinfo():
        if line.startswith(("flags", "Features")):
            return sorted(wanted & set(line.partition(":")[2].split()))
    return []


@functools.cache
def _cpuinfo() -> list[str]:
    """The kernel's description of the processors."""
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.is_file() else []


@functools.cache
def _version(package: str) -> str:
    """The package's version; empty when it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


@functools.cache
def code() -> str:
    """Hash of all of Conch's own code that can decide a result: an improved step is another step.

    Its version would do for those who install it; this is for those who change it.
    """
    folder = Path(__file__).parent
    texts = {
        str(path.relative_to(folder)): file_sha256(path)
        for path in sorted(folder.rglob("*.py"))
        if path.relative_to(folder).parts[0].removesuffix(".py") not in _DECIDES_NO_FILE
    }
    return digest(texts)
