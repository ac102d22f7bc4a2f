"""Ensembles into publications: configs, a ``model.py`` for each part, and the pipeline itself."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from conch.errors import ConfigError
from export import hashing
from export.config_pbtxt import dims_of, dtype_of
from export.ensemble_spec import (
    LABELS_SUFFIX,
    PIXELS_SUFFIX,
    TOKENS_SUFFIX,
    Ensemble,
    ImageInput,
    LabelOutput,
    TextInput,
)
from export.publish import Publication, check_labels
from export.recipe import Recipe, Tensor
from export.source_files import located
from serving import probe
from serving.model_config import ModelConfig
from serving.repository import VersionFiles

MODELS = Path(__file__).with_name("ensemble_models")
MODEL_PY = "model.py"
SAMPLE_TEXT = "A sentence of usual length, as people write them."
LONG = 24
"""Tokens that the sample surely fits into; where fewer are allowed, health checks send a letter."""
PAD_TOKENS = ("[PAD]", "<pad>", "<PAD>", "<|endoftext|>")


def publications(recipe: Recipe, folder: Path, published: Mapping[str, str]) -> list[Publication]:
    """The models of the recipe's ensembles: parts first, each pipeline after its parts.

    Args:
        recipe: the recipe.
        folder: the recipe's, which its paths are relative to.
        published: variant → name of its model; an ensemble takes the first of its variants that is
            there, and is left out without any.

    Raises:
        ConfigError: when a tokenizer or a labels file is missing or unfit.
    """
    found: list[Publication] = []
    for ensemble in recipe.ensembles:
        variant = next((name for name in ensemble.model if name in published), None)
        if variant is not None:
            chosen = ensemble.model_copy(update={"model": (variant,)})
            found += _publications(chosen, recipe, folder, published[variant])
    return found


def _publications(
    ensemble: Ensemble, recipe: Recipe, folder: Path, model: str
) -> list[Publication]:
    """The parts of one ensemble, then the pipeline."""
    parts = []
    if ensemble.text is not None:
        parts.append(_tokens(ensemble, ensemble.text, recipe, folder))
    if ensemble.image is not None:
        parts.append(_pixels(ensemble, ensemble.image, recipe))
    if ensemble.labels is not None:
        parts.append(_labels(ensemble, ensemble.labels, recipe, folder))
    pipeline = Publication(
        name=ensemble.name,
        config=_pipeline(ensemble, recipe, model, parts),
        versions=(VersionFiles(files={}, lineage=_lineage(ensemble, {})),),
        ensemble=ensemble,
        needs=(*ensemble.parts, model),
    )
    return [*parts, pipeline]


def _tokens(ensemble: Ensemble, text: TextInput, recipe: Recipe, folder: Path) -> Publication:
    """Text to token ids."""
    key = f"ensembles: {ensemble.name}.text.tokenizer"
    tokenizer = located(text.tokenizer, folder, key=key)
    config = _python_model(f"{ensemble.name}_{TOKENS_SUFFIX}", recipe)
    config.input.add(name="text", data_type="TYPE_STRING", dims=[1])
    if text.max_tokens > LONG:
        _add_sample(config, SAMPLE_TEXT.encode())
    _set(config, "max_tokens", text.max_tokens)
    _set(config, "truncate", str(text.truncate).lower())
    _set(config, "pad_to", ",".join(map(str, text.pad_to)))
    _set(config, "pad_id", pad_id(tokenizer, key=key))
    for tensor in recipe.model.inputs:
        config.output.add(name=tensor.name, data_type=dtype_of(tensor), dims=[-1])
        _set(config, f"fill.{tensor.name}", text.inputs[tensor.name])
    return _part(ensemble, config, "tokens.py", {"tokenizer.json": tokenizer})


def _pixels(ensemble: Ensemble, image: ImageInput, recipe: Recipe) -> Publication:
    """Image files to a tensor."""
    tensor = recipe.model.inputs[0]
    config = _python_model(f"{ensemble.name}_{PIXELS_SUFFIX}", recipe)
    config.input.add(name="image", data_type="TYPE_STRING", dims=[1])
    _add_sample(config, blank_png(*dims_of(tensor), layout=image.layout))
    config.output.add(name=tensor.name, data_type=dtype_of(tensor), dims=dims_of(tensor))
    _set(config, "layout", image.layout)
    _set(config, "resize", image.resize)
    _set(config, "scale", image.scale)
    _set(config, "mean", ",".join(map(str, image.mean)))
    _set(config, "std", ",".join(map(str, image.std)))
    _set(config, "max_pixels", image.max_pixels)
    return _part(ensemble, config, "pixels.py", {})


def _labels(ensemble: Ensemble, labels: LabelOutput, recipe: Recipe, folder: Path) -> Publication:
    """Scores to names."""
    tensor = _scores(labels, recipe)
    key = f"ensembles: {ensemble.name}.labels.file"
    path = located(labels.file, folder, key=key)
    check_labels(path, tensor, key=key)
    config = _python_model(f"{ensemble.name}_{LABELS_SUFFIX}", recipe)
    config.input.add(name=tensor.name, data_type=dtype_of(tensor), dims=dims_of(tensor))
    _add_label_outputs(config, labels)
    _set(config, "softmax", str(labels.softmax).lower())
    _set(config, "top", labels.top)
    return _part(ensemble, config, "labels.py", {"labels.txt": path})


def _pipeline(
    ensemble: Ensemble, recipe: Recipe, model: str, parts: list[Publication]
) -> ModelConfig:
    """The ensemble's own config: names of tensors between its steps are the recipe's."""
    config = ModelConfig(
        name=ensemble.name,
        platform="ensemble",
        max_batch_size=recipe.serving.max_batch_size,
    )
    config.version_policy.latest.num_versions = 1
    first = parts[0].config
    config.input.add().CopyFrom(first.input[0])
    sample = f"{probe.PARAMETER}{first.input[0].name}"
    if sample in first.parameters:
        config.parameters[sample].CopyFrom(first.parameters[sample])
    steps = config.ensemble_scheduling.step
    raw = first.input[0].name
    step = steps.add(model_name=parts[0].name, model_version=-1)
    step.input_map[raw] = raw
    for output in first.output:
        step.output_map[output.name] = f"prepared.{output.name}"
    step = steps.add(model_name=model, model_version=-1)
    for tensor in recipe.model.inputs:
        step.input_map[tensor.name] = f"prepared.{tensor.name}"
    if ensemble.labels is None:
        for tensor in recipe.model.outputs:
            step.output_map[tensor.name] = tensor.name
            config.output.add(name=tensor.name, data_type=dtype_of(tensor), dims=dims_of(tensor))
        return config
    scores = _scores(ensemble.labels, recipe).name
    step.output_map[scores] = scores
    step = steps.add(model_name=parts[-1].name, model_version=-1)
    step.input_map[scores] = scores
    _add_label_outputs(config, ensemble.labels)
    for output in config.output:
        step.output_map[output.name] = output.name
    return config


def pad_id(tokenizer: Path, *, key: str) -> int:
    """The id that the tokenizer pads with: from its padding, else that of a usual padding token.

    Raises:
        ConfigError: when the file is no ``tokenizer.json``, or has no such token.
    """
    try:
        content = json.loads(tokenizer.read_text(encoding="utf-8"))
        padding, tokens = content.get("padding"), content["added_tokens"]
        if padding:
            return int(padding["pad_id"])
        known = {str(token["content"]): int(token["id"]) for token in tokens}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{key}: {tokenizer} is no tokenizer.json ({type(error).__name__}: {error}).",
            hint="Give the file that `Tokenizer.save` or `save_pretrained` wrote.",
        ) from error
    for token in PAD_TOKENS:
        if token in known:
            return known[token]
    raise ConfigError(
        f"{key}: {tokenizer} has no padding token ({', '.join(PAD_TOKENS)}).",
        hint="Set one with `Tokenizer.enable_padding` and save it again.",
    )


def _scores(labels: LabelOutput, recipe: Recipe) -> Tensor:
    """The output that holds the scores of the classes."""
    return next(t for t in recipe.model.outputs if labels.output in (None, t.name))


def _add_label_outputs(config: ModelConfig, labels: LabelOutput) -> None:
    """What clients get of an ensemble with labels."""
    config.output.add(name="label", data_type="TYPE_STRING", dims=[labels.top])
    config.output.add(name="score", data_type="TYPE_FP32", dims=[labels.top])


def _python_model(name: str, recipe: Recipe) -> ModelConfig:
    """A model of the Python backend: one instance on the CPU that takes what is waiting."""
    config = ModelConfig(
        name=name,
        backend="python",
        default_model_filename=MODEL_PY,
        max_batch_size=recipe.serving.max_batch_size,
    )
    config.version_policy.latest.num_versions = 1
    config.dynamic_batching.max_queue_delay_microseconds = 0
    config.instance_group.add(count=1, kind="KIND_CPU")
    return config


def blank_png(*dims: int, layout: str) -> bytes:
    """A black PNG for an input of these dims (``[1 or 3, height, width]``, or channels last)."""
    channels, height, width = dims if layout == "chw" else (dims[2], *dims[:2])
    rows = (b"\0" + bytes(width * channels)) * height  # each row starts with its filter: none
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def _add_sample(config: ModelConfig, data: bytes) -> None:
    """What health checks and load generators send."""
    _set(config, f"{probe.PARAMETER}{config.input[0].name}", base64.b64encode(data).decode())


def _set(config: ModelConfig, key: str, value: object) -> None:
    """One parameter."""
    config.parameters[key].string_value = str(value)


def _part(
    ensemble: Ensemble, config: ModelConfig, source: str, files: Mapping[str, Path]
) -> Publication:
    """One part with its ``model.py`` and files."""
    everything = {MODEL_PY: MODELS / source, **files}
    return Publication(
        name=config.name,
        config=config,
        versions=(VersionFiles(files=everything, lineage=_lineage(ensemble, everything)),),
    )


def _lineage(ensemble: Ensemble, files: Mapping[str, Path]) -> dict[str, Any]:
    """Where a part comes from."""
    return {
        "ensemble": ensemble.model_dump(mode="json", exclude_none=True),
        "files": {name: hashing.file_sha256(path) for name, path in files.items()},
    }
