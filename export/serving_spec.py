"""The ``serving`` section of a recipe: what goes into ``config.pbtxt`` besides the signature."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from conch.config_file import FileModel
from conch.units import Duration


class Serving(FileModel):
    """What goes into `config.pbtxt`. The control loop may change instances and batching later."""

    max_batch_size: int = Field(default=32, ge=1, le=4096, description="Triton's max_batch_size.")
    max_queue_delay: Duration = Field(
        default=0.001,
        le=10.0,
        description="How long the batcher may wait for more requests, e.g. `2ms`; at most 10 s.",
    )
    instances: int = Field(default=1, ge=1, le=256, description="Instance count to start with.")
    threads: int | None = Field(
        default=None,
        ge=1,
        description="ONNX Runtime threads of one instance. Without it the server decides "
        "(all its cores ÷ instances); instances × threads above the cores is slower.",
    )
    device: Literal["cpu", "gpu"] = Field(default="cpu", description="Where instances run.")
    warm_up: bool = Field(
        default=True, description="Run the smallest and the largest batch before serving."
    )
