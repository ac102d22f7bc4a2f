"""Image files to a normalised tensor, as a model of Triton's Python backend.

One file on its own: it runs in Triton's stub with the stdlib, numpy and Pillow.
"""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from PIL import Image, UnidentifiedImageError

FORMATS = ("PNG", "JPEG")


class RequestError(Exception):
    """A request that cannot be decoded; the text goes to its sender."""


class TritonPythonModel:
    """One instance."""

    def initialize(self, args: dict[str, str]) -> None:
        """Read the settings; the size and the number of channels are the output's."""
        config = json.loads(args["model_config"])
        given = {key: value["string_value"] for key, value in config["parameters"].items()}
        output = config["output"][0]
        dims = [int(dim) for dim in output["dims"]]
        self.name = output["name"]
        self.dtype = pb_utils.triton_string_to_numpy(output["data_type"])
        self.channels_first = given["layout"] == "chw"
        channels, *size = dims if self.channels_first else [dims[2], *dims[:2]]
        self.height, self.width = size
        self.mode = {1: "L", 3: "RGB"}[channels]
        self.resize = given["resize"]
        self.scale = np.float32(given["scale"])
        self.mean, self.std = (
            np.array([float(number) for number in given[key].split(",")], np.float32)
            for key in ("mean", "std")
        )
        self.max_pixels = int(given["max_pixels"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response for each request, in order."""
        return [self._response(request) for request in requests]

    def _response(self, request: Any) -> Any:
        """The tensor ``[batch, *dims]`` of one request's files ``[batch, 1]``."""
        files = pb_utils.get_input_tensor_by_name(request, "image").as_numpy().reshape(-1)
        try:
            arrays = [self._pixels(number, data) for number, data in enumerate(files)]
        except RequestError as error:
            return pb_utils.InferenceResponse(
                output_tensors=[], error=pb_utils.TritonError(str(error))
            )
        return pb_utils.InferenceResponse(
            output_tensors=[pb_utils.Tensor(self.name, np.stack(arrays))]
        )

    def _pixels(self, number: int, data: bytes) -> np.ndarray:
        """One decoded image, in the layout and the dtype of the model."""
        try:
            # Pillow reads the header only, up to convert().
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > self.max_pixels:
                    raise RequestError(
                        f"image {number}: {image.width} x {image.height} pixels, "
                        f"at most {self.max_pixels} in all are allowed"
                    )
                fitted = self._fitted(number, image.convert(self.mode))
        except RequestError:
            raise
        except UnidentifiedImageError:
            raise RequestError(f"image {number}: no PNG or JPEG file") from None
        except Exception as error:  # a broken file raises many kinds, OSError to SyntaxError
            reason = str(error) or type(error).__name__
            raise RequestError(f"image {number}: not decoded ({reason})") from None
        array = np.asarray(fitted).reshape(self.height, self.width, -1)
        if self.dtype != np.uint8:
            array = (array.astype(np.float32) * self.scale - self.mean) / self.std
        if self.channels_first:
            array = array.transpose(2, 0, 1)
        return np.ascontiguousarray(array, self.dtype)

    def _fitted(self, number: int, image: Image.Image) -> Image.Image:
        """The image at the model's size."""
        size = (self.width, self.height)
        if image.size == size:
            return image
        if self.resize == "refuse":
            raise RequestError(
                f"image {number}: {image.width} x {image.height} pixels, "
                f"must be {self.width} x {self.height}"
            )
        box = None
        if self.resize == "crop":
            factor = min(image.width / self.width, image.height / self.height)
            wide, high = self.width * factor, self.height * factor
            left, top = (image.width - wide) / 2, (image.height - high) / 2
            box = (left, top, left + wide, top + high)
        return image.resize(size, Image.Resampling.BILINEAR, box=box)
