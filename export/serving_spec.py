"""The ``serving`` section of a recipe: what goes into ``config.pbtxt`` besides the signature.

Imports no torch and no protobuf: ``conch export plan`` must answer at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from conch.config_file import FileModel
from conch.units import Duration
from export.steps.base import NonEmpty

Device = Literal["cpu", "gpu"]


class InstanceGroup(FileModel):
    """Instances on one kind of device."""

    device: Device = Field(description="Where these instances run.")
    count: int = Field(default=1, ge=1, le=256, description="Instances; on GPUs, on each of them.")
    gpus: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        default=(0,), description="Numbers of the GPUs, where the device is `gpu`."
    )

    @model_validator(mode="after")
    def _gpus_fit(self) -> Self:
        if self.device == "gpu" and (not self.gpus or len(set(self.gpus)) != len(self.gpus)):
            raise ValueError(f"gpus is {list(self.gpus)}, must name at least one, each once")
        if self.device == "cpu" and "gpus" in self.model_fields_set:
            raise ValueError("gpus is given for the device cpu, which has none")
        return self


class State(FileModel):
    """A tensor that Triton keeps between the requests of one sequence; zeros at its start."""

    input: str = Field(description="The model's input that takes it; not sent by clients.")
    output: str = Field(description="The model's output that gives its next value; not answered.")


class Sequence(FileModel):
    """Stateful serving: requests of one sequence go, in order, to the instance with its state."""

    state: Annotated[tuple[State, ...], NonEmpty] = Field(
        description="The state's tensors; batch axis first, like every other tensor."
    )
    max_idle: Duration = Field(
        default=60.0,
        gt=0,
        le=86_400,
        description="A sequence without a request for so long is forgotten.",
    )
    max_sequences: int = Field(
        default=32,
        ge=1,
        le=65_536,
        description="Sequences that one instance takes at a time; more wait for one to end.",
    )


class Serving(FileModel):
    """What goes into `config.pbtxt`. The control loop may change instances and batching later."""

    max_batch_size: int = Field(default=32, ge=1, le=4096, description="Triton's max_batch_size.")
    max_queue_delay: Duration = Field(
        default=0.001,
        le=10.0,
        description="How long the batcher may wait for more requests, e.g. `2ms`; at most 10 s.",
    )
    preferred_batch_sizes: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(),
        description="Sizes that the batcher should rather make. Leave it out but for TensorRT "
        "profiles: Triton advises against it, and the control loop drops it.",
    )
    instances: int = Field(default=1, ge=1, le=256, description="Instance count to start with.")
    device: Device = Field(default="cpu", description="Where instances run; `gpu` is GPU 0.")
    instance_groups: tuple[InstanceGroup, ...] = Field(
        default=(),
        description="Instead of `instances` and `device`: a group for each kind of device. "
        "The control loop changes models with one group only.",
    )
    threads: int | None = Field(
        default=None,
        ge=1,
        description="ONNX Runtime threads of one instance. Without it the server decides "
        "(all its cores ÷ instances); instances × threads above the cores is slower.",
    )
    warm_up: bool = Field(
        default=True, description="Run the smallest and the largest batch before serving."
    )
    response_cache: bool = Field(
        default=False,
        description="Answer a request that was seen before from the server's cache, "
        "where it has one (`conch serve --cache 64MiB`). No use for inputs that never repeat.",
    )
    priority_levels: int = Field(
        default=0, ge=0, le=100, description="Levels 1 (first) to this; 0 switches priorities off."
    )
    default_priority_level: int | None = Field(
        default=None,
        ge=1,
        description="Level of requests that name none; the lowest when it is left out.",
    )
    labels: str | None = Field(
        default=None,
        description="A file beside the recipe with the name of each class, one a line; clients "
        "then may ask for classifications.",
    )
    labels_output: str | None = Field(
        default=None, description="The output that `labels` names; needed when there are several."
    )
    sequence: Sequence | None = Field(
        default=None, description="For a model with state; it replaces dynamic batching."
    )
    target_triton: str = Field(
        default="local",
        description="Release of the Triton that is to serve it, e.g. `26.08`: files that its ONNX "
        "Runtime cannot load are refused. `local` is the one that this installation brings.",
    )
    layout: Literal["models", "versions"] = Field(
        default="models",
        description="`models`: each variant is a model `<model>_<variant>`. `versions`: all are "
        "versions of one model `<model>`, the best at the highest number; which of them answers is "
        "changed in place by `version_policy`.",
    )
    served: str | None = Field(
        default=None,
        description="With `layout: versions`, the variant that answers; by default the one that "
        "answers now, at first the first one that is accepted.",
    )

    @property
    def groups(self) -> tuple[InstanceGroup, ...]:
        """The instance groups, from the short form or the long one."""
        return self.instance_groups or (InstanceGroup(device=self.device, count=self.instances),)

    @property
    def default_priority(self) -> int:
        """Level of requests that name none; 0 without priorities."""
        return self.default_priority_level or self.priority_levels

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        both = {"instances", "device"} & self.model_fields_set
        if self.instance_groups and both:
            raise ValueError(f"instance_groups stands in place of {' and '.join(sorted(both))}")
        if too_large := [n for n in self.preferred_batch_sizes if n > self.max_batch_size]:
            raise ValueError(
                f"preferred_batch_sizes has {too_large[0]}, max_batch_size is {self.max_batch_size}"
            )
        if (self.default_priority_level or 0) > self.priority_levels:
            raise ValueError(
                f"default_priority_level is {self.default_priority_level}, "
                f"priority_levels is {self.priority_levels}"
            )
        if self.sequence and (self.preferred_batch_sizes or self.priority_levels):
            raise ValueError("sequence replaces dynamic batching, its sizes and its priorities")
        if self.sequence and self.response_cache:
            raise ValueError("response_cache cannot hold answers that depend on a state")
        if self.served is not None and self.layout != "versions":
            raise ValueError("served is for `layout: versions`, where one of several answers")
        if self.labels_output is not None and self.labels is None:
            raise ValueError("labels_output is given without labels")
        return self

    def check_against(
        self, inputs: Mapping[str, object], outputs: Mapping[str, object], variants: Iterable[str]
    ) -> None:
        """Refuse names that the model does not have.

        Args:
            inputs: the model's inputs, name → (dtype, dims).
            outputs: its outputs, likewise.
            variants: names of the published variants that may be versions of one model.

        Raises:
            ValueError: with the key and what is allowed.
        """
        if self.served is not None and self.served not in variants:
            raise ValueError(f"serving.served is {self.served}, variants are {', '.join(variants)}")
        if self.labels is not None and self.labels_output is None and len(outputs) > 1:
            raise ValueError(f"serving.labels_output must be one of {', '.join(outputs)}")
        if self.labels_output is not None and self.labels_output not in outputs:
            raise ValueError(
                f"serving.labels_output is {self.labels_output}, outputs are {', '.join(outputs)}"
            )
        for state in self.sequence.state if self.sequence else ():
            for kind, name, known in (
                ("input", state.input, inputs),
                ("output", state.output, outputs),
            ):
                if name not in known:
                    raise ValueError(
                        f"serving.sequence.state: {kind} {name} is not in the model, "
                        f"its {kind}s are {', '.join(known)}"
                    )
            if inputs[state.input] != outputs[state.output]:
                raise ValueError(
                    f"serving.sequence.state: {state.input} and {state.output} differ in dtype or "
                    "dims, must be equal"
                )
        if self.sequence and len(self.sequence.state) >= min(len(inputs), len(outputs)):
            raise ValueError("serving.sequence.state leaves no input or no output to clients")
