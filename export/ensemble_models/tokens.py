"""Text to token ids, as a model of Triton's Python backend.

One file on its own: it runs in Triton's stub with the stdlib, numpy and tokenizers. Texts of one
request are padded to the smallest of the lengths ``pad_to`` that holds the longest of them; Triton
then joins requests of equal length for the model that follows.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from tokenizers import Tokenizer

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


class RequestError(Exception):
    """A request that cannot be tokenized; the text goes to its sender."""


class TritonPythonModel:
    """One instance."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the tokenizer beside this file; an error here is the model's load error."""
        config = json.loads(args["model_config"])
        given = {key: value["string_value"] for key, value in config["parameters"].items()}
        self.max_tokens = int(given["max_tokens"])
        self.truncate = given["truncate"] == "true"
        self.lengths = [int(length) for length in given["pad_to"].split(",")]
        self.pad_id = int(given["pad_id"])
        self.outputs = {
            output["name"]: (given[f"fill.{output['name']}"], numpy_type(output["data_type"]))
            for output in config["output"]
        }
        path = Path(args["model_repository"]) / args["model_version"] / "tokenizer.json"
        try:
            self.tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises Exception itself
            raise pb_utils.TritonModelException(f"{path}: not loaded ({error})") from None
        self.tokenizer.no_padding()
        if self.truncate:
            self.tokenizer.enable_truncation(self.max_tokens)
        else:
            self.tokenizer.no_truncation()

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response for each request, in order."""
        return [self._response(request) for request in requests]

    def _response(self, request: Any) -> Any:
        """Ids and masks ``[batch, length]`` of one request's texts ``[batch, 1]``."""
        try:
            encoded = self._encoded(texts_of(request))
        except RequestError as error:
            return pb_utils.InferenceResponse(
                output_tensors=[], error=pb_utils.TritonError(str(error))
            )
        longest = max(len(one.ids) for one in encoded)
        length = next(size for size in self.lengths if size >= longest)
        tensors = []
        for name, (what, dtype) in self.outputs.items():
            array = np.full((len(encoded), length), self.pad_id if what == "ids" else 0, dtype)
            for row, one in zip(array, encoded, strict=True):
                values = {"ids": one.ids, "mask": one.attention_mask, "types": one.type_ids}[what]
                row[: len(values)] = values
            tensors.append(pb_utils.Tensor(name, array))
        return pb_utils.InferenceResponse(output_tensors=tensors)

    def _encoded(self, texts: list[str]) -> list[Any]:
        """The texts' encodings, each at most ``max_tokens`` long."""
        for number, text in enumerate(texts):
            if not text.strip():
                raise RequestError(f"text {number}: empty, must have a word in it")
        encoded = self.tokenizer.encode_batch(texts)
        for number, one in enumerate(encoded):
            if len(one.ids) > self.max_tokens:
                raise RequestError(
                    f"text {number}: {len(one.ids)} tokens, at most {self.max_tokens} are allowed"
                )
        return list(encoded)


def texts_of(request: Any) -> list[str]:
    """The request's texts."""
    array = pb_utils.get_input_tensor_by_name(request, "text").as_numpy().reshape(-1)
    texts = []
    for number, item in enumerate(array):
        try:
            texts.append(item.decode() if isinstance(item, bytes) else str(item))
        except UnicodeDecodeError as error:
            raise RequestError(f"text {number}: not UTF-8 ({error})") from None
    return texts


def numpy_type(triton_type: str) -> Any:
    """The numpy dtype of a type in the config."""
    return pb_utils.triton_string_to_numpy(triton_type)
