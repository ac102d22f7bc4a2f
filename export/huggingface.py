"""A Hugging Face folder on disk as a plain module: tensors in, one tensor out. No network."""

from __future__ import annotations

import inspect
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from conch.errors import ConfigError
from export.optional import require
from export.positional import MOST_INPUTS, Positional

if TYPE_CHECKING:
    from collections.abc import Sequence

    from export.recipe import Model
    from export.source_spec import HuggingFace

KEY = "model.huggingface"


class HuggingFaceModule(Positional):
    """The network, called by the recipe's input names, then pooled and scaled."""

    def __init__(self, network: nn.Module, names: Sequence[str], options: HuggingFace) -> None:
        """Wrap a loaded network whose ``forward`` has arguments of these names."""
        super().__init__()
        self.network = network
        self.names = tuple(names)
        self.output = options.output
        self.pooling = options.pooling
        self.normalize = options.normalize

    def compute(self, *given: Tensor) -> Tensor:
        """Inputs ``[batch, ...]`` → the chosen output; ``[batch, hidden]`` when pooled.

        Source of mean pooling: N. Reimers, I. Gurevych, "Sentence-BERT", 2019, section 3.
        """
        arguments = dict(zip(self.names, given, strict=True))
        values: Tensor = getattr(self.network(**arguments, return_dict=True), self.output)
        if self.pooling == "cls":
            values = values[:, 0]
        elif self.pooling == "mean":
            weights = arguments["attention_mask"].unsqueeze(-1).to(values.dtype)
            values = (values * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-9)
        return nn.functional.normalize(values, dim=-1) if self.normalize else values


def load(folder: Path, model: Model, options: HuggingFace) -> nn.Module:
    """The module in evaluation mode, in float32, on the CPU.

    Attention is the plain one ("eager"): the fused kinds do not export to every target.

    Raises:
        ConfigError: when the folder is not such a model, weights that it needs are missing, or the
            recipe names inputs or an output that the network does not have.
    """
    network, loading = _pretrained(folder, options)
    missing = [
        name
        for name in sorted(loading["missing_keys"])
        # AutoModel builds a pooler for encoders that were saved without one.
        if options.output == "pooler_output" or "pooler" not in name.split(".")
    ]
    if missing:
        raise ConfigError(
            f"{KEY}: {folder} has no weights for {len(missing)} tensors of {options.auto_class}, "
            f"such as {missing[0]}; they would be random.",
            hint="Name the class that the folder was saved from: see architectures in config.json.",
        )
    names = [tensor.name for tensor in model.inputs]
    _check_inputs(network, names, options)
    return HuggingFaceModule(network, names, options).eval().cpu()


def _pretrained(folder: Path, options: HuggingFace) -> tuple[nn.Module, dict[str, Any]]:
    """The network and what transformers tells of its loading."""
    import torch

    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    transformers = require("transformers", extra="huggingface", purpose=KEY)
    require("safetensors", extra="huggingface", purpose=KEY)
    transformers.utils.logging.set_verbosity(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    auto_class = getattr(transformers, options.auto_class, None)
    if auto_class is None:
        raise ConfigError(
            f"{KEY}.class: {options.auto_class}, transformers {transformers.__version__} has no "
            "such class.",
            hint="The usual one for vectors is AutoModel.",
        )
    try:
        return auto_class.from_pretrained(  # type: ignore[no-any-return]
            folder,
            local_files_only=True,
            weights_only=True,
            trust_remote_code=False,
            dtype=torch.float32,
            attn_implementation="eager",
            output_loading_info=True,
        )
    except Exception as error:  # transformers has no error class of its own
        lines = [line for line in str(error).splitlines() if line.strip()] or [""]
        raise ConfigError(
            f"{KEY}: {options.auto_class} cannot be read from {folder} "
            f"({type(error).__name__}: {lines[0].rstrip('.')}).",
            hint="The folder needs config.json and model.safetensors (or pytorch_model.bin with "
            "plain tensors), as save_pretrained writes them; code in the folder is never run.",
        ) from error


def _check_inputs(network: nn.Module, names: Sequence[str], options: HuggingFace) -> None:
    """The recipe's input names against the arguments of ``forward``."""
    known = list(inspect.signature(network.forward).parameters)
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(
            f"{KEY}: {type(network).__name__} has no input {', '.join(unknown)}; "
            f"it has {', '.join(name for name in known if name != 'kwargs')}.",
            hint="Name model.inputs as the arguments of its forward.",
        )
    if len(names) > MOST_INPUTS:
        raise ConfigError(
            f"{KEY}: {len(names)} inputs, at most {MOST_INPUTS} are supported.",
            hint="Write a factory with a module of your own.",
        )
    if options.pooling == "mean" and "attention_mask" not in names:
        raise ConfigError(
            f"{KEY}.pooling: mean, but model.inputs has no attention_mask to tell padding apart.",
            hint="Add attention_mask to model.inputs.",
        )
