"""Whether a loaded model answers as its files do when ONNX Runtime runs them here.

Random inputs of the recipe's shapes serve: quality on real data was judged before; this is about
names, types, shapes, batching, state and the plumbing of ensembles.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from conch.errors import ConchError
from export.ensemble_spec import Ensemble
from export.publish import Publication
from export.recipe import Recipe
from export.session import Session
from export.steps.to_onnx import MODEL_FILE
from serving.client import SequenceStep

Arrays = dict[str, NDArray[Any]]

TOLERANCE = 1e-2
"""Largest ‖difference‖ ÷ ‖reference‖: another ONNX Runtime has other kernels, a wrong answer is
far off."""
STEPS = 3
"""Requests of each of two interleaved sequences."""
SENTENCES = ("A first sentence.", "Another one, and it is longer.")
WORDS = ("x", "y")
"""For models that take a few tokens only."""
FEW_TOKENS = 16
LARGEST_BYTES = 64 * 2**20


class Served(Protocol):
    """Models that answer."""

    def infer(
        self,
        name: str,
        batch: Mapping[str, NDArray[Any]],
        *,
        version: int | None = None,
        step: SequenceStep | None = None,
    ) -> Arrays:
        """The model's outputs for one batch."""


def problem(
    served: Served, publication: Publication, among: Sequence[Publication], recipe: Recipe
) -> str:
    """What is wrong with the model's answers; empty when nothing is.

    Args:
        served: the running server.
        publication: the model.
        among: all models that are served, for what an ensemble is made of.
        recipe: the recipe.
    """
    try:
        if publication.ensemble is not None:
            return _ensemble(served, publication, publication.ensemble, among, recipe)
        if not publication.variants:
            return ""  # a part of an ensemble, asked through it
        for number, version in enumerate(publication.versions, 1):
            session = _session(version.files[MODEL_FILE], recipe)
            check = _sequences if recipe.serving.sequence else _batches
            if found := check(served, publication.name, number, session, recipe):
                return found
    except ConchError as error:
        return error.message
    return ""


def different(reference: Mapping[str, NDArray[Any]], got: Mapping[str, NDArray[Any]]) -> str:
    """How the answers differ; empty when they are equal up to rounding."""
    for name, wanted in reference.items():
        answer = got.get(name)
        if answer is None:
            return f"output {name}: not answered"
        if answer.shape != wanted.shape or answer.dtype != wanted.dtype:
            return (
                f"output {name}: {answer.dtype} {list(answer.shape)}, "
                f"must be {wanted.dtype} {list(wanted.shape)}"
            )
        if wanted.dtype.kind != "f":
            if not np.array_equal(answer, wanted):
                return f"output {name}: other values than ONNX Runtime's"
            continue
        scale = float(np.linalg.norm(wanted.astype(np.float64)))
        error = float(np.linalg.norm((answer - wanted).astype(np.float64)))
        if not error <= TOLERANCE * scale + 1e-6:
            return f"output {name}: differs by {error / max(scale, 1e-12):.3g} of its norm"
    return ""


def unfit(recipe: Recipe, got: Mapping[str, NDArray[Any]]) -> str:
    """Which answer has other sizes than the recipe, and so the config, says; empty when none."""
    for tensor in recipe.model.outputs:
        if tensor.name not in got:
            continue
        shape = list(got[tensor.name].shape)
        fits = len(shape) == 1 + len(tensor.dims) and all(
            isinstance(dim, str) or dim == size
            for dim, size in zip(tensor.dims, shape[1:], strict=True)
        )
        if not fits:
            wanted = ", ".join(map(str, tensor.dims))
            return f"output {tensor.name}: {shape}, must be [batch, {wanted}]"
    return ""


def inputs(recipe: Recipe, batch_size: int, *, seed: int) -> Arrays:
    """Noise for floats, zeros and ones for the rest, at the recipe's example sizes."""
    random = np.random.default_rng(seed)
    arrays: Arrays = {}
    for tensor in recipe.model.inputs:
        shape = (batch_size, *recipe.example_dims(tensor))
        dtype = np.dtype(tensor.dtype)
        noise = random.random(shape) if dtype.kind == "f" else random.integers(2, size=shape)
        if dtype.kind != "f" and len(shape) > 1:
            noise[..., 0] = 1  # a mask without a one has no meaning
        arrays[tensor.name] = noise.astype(dtype)
    return arrays


def _session(file: Path, recipe: Recipe) -> Session:
    """What the answers are compared with: the outputs that the recipe declares."""
    return Session(file, threads=recipe.serving.threads, outputs=recipe.output_names)


def largest_batch(recipe: Recipe) -> int:
    """The largest batch that is served, as far as its inputs stay below 64 MiB."""
    row_bytes = sum(array.nbytes for array in inputs(recipe, 1, seed=0).values())
    return min(recipe.serving.max_batch_size, max(1, LARGEST_BYTES // row_bytes))


def _batches(served: Served, name: str, version: int, session: Session, recipe: Recipe) -> str:
    """One row, and the largest batch."""
    for size in sorted({1, largest_batch(recipe)}):
        batch = inputs(recipe, size, seed=size)
        got = served.infer(name, batch, version=version)
        if found := unfit(recipe, got) or different(session.run(batch), got):
            return f"version {version}, batch {size}: {found}"
    return ""


def _sequences(served: Served, name: str, version: int, session: Session, recipe: Recipe) -> str:
    """Two interleaved sequences, each against a loop of its own over the file."""
    entries = recipe.serving.sequence.state if recipe.serving.sequence else ()
    kept = {entry.input for entry in entries}
    given = {entry.output for entry in entries}
    zeros = {key: np.zeros_like(a) for key, a in inputs(recipe, 1, seed=0).items() if key in kept}
    states = {1: dict(zeros), 2: dict(zeros)}
    for index in range(STEPS):
        for sequence, state in states.items():
            batch = inputs(recipe, 1, seed=10 * index + sequence)
            sent = {key: array for key, array in batch.items() if key not in kept}
            step = SequenceStep(sequence=sequence, start=index == 0, end=index == STEPS - 1)
            got = served.infer(name, sent, version=version, step=step)
            reference = session.run({**sent, **state})
            state.update({entry.input: reference[entry.output] for entry in entries})
            answers = {key: array for key, array in reference.items() if key not in given}
            if found := unfit(recipe, got) or different(answers, got):
                return f"version {version}, sequence {sequence}, request {index + 1}: {found}"
    return ""


def _ensemble(
    served: Served,
    publication: Publication,
    ensemble: Ensemble,
    among: Sequence[Publication],
    recipe: Recipe,
) -> str:
    """The whole against its parts: what the first part gives, through the file."""
    model = middle(ensemble, among)
    file = model.versions[version_of(ensemble, model) - 1].files[MODEL_FILE]
    first = ensemble.parts[0]
    raw = _raw(ensemble, recipe)
    reference = _session(file, recipe).run(served.infer(first, raw))
    got = served.infer(publication.name, raw)
    if ensemble.labels is None:
        return different(reference, got)
    scores = reference[ensemble.labels.output or recipe.model.outputs[0].name]
    names = publication_labels(among, ensemble)
    wanted = [names[row.argmax()] for row in scores]
    answered = [bytes(row[0]).decode() for row in got["label"]]
    return "" if wanted == answered else f"labels {answered}, must be {wanted}"


def middle(ensemble: Ensemble, among: Sequence[Publication]) -> Publication:
    """The model that the ensemble is built around."""
    return next(one for one in among if ensemble.model[0] in one.variants)


def version_of(ensemble: Ensemble, model: Publication) -> int:
    """The version that the ensemble's variant has on trial, from 1."""
    return model.variants.index(ensemble.model[0]) + 1


def publication_labels(among: Sequence[Publication], ensemble: Ensemble) -> list[str]:
    """The names that the ensemble's last part gives."""
    part = next(one for one in among if one.name == ensemble.parts[-1])
    lines = part.versions[0].files["labels.txt"].read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines]


def _raw(ensemble: Ensemble, recipe: Recipe) -> Arrays:
    """Two sentences, or two noisy images."""
    if ensemble.text is not None:
        texts = WORDS if ensemble.text.max_tokens < FEW_TOKENS else SENTENCES
        return {"text": np.array([[text.encode()] for text in texts], dtype=np.object_)}
    from PIL import Image

    assert ensemble.image is not None  # noqa: S101 - an ensemble has one of the two
    channels, height, width = recipe.example_dims(recipe.model.inputs[0])
    if ensemble.image.layout == "hwc":
        height, width, channels = channels, height, width
    random = np.random.default_rng(0)
    files = []
    for _ in range(2):
        pixels = random.integers(256, size=(height, width, channels), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels).save(buffer, "PNG")
        files.append([buffer.getvalue()])
    return {"image": np.array(files, dtype=np.object_)}
