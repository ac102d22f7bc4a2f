"""The models of the comparison, written as people write them: their config is the baseline.

Each has a load that its own config carries, so that nobody in control is a fair opponent: whoever
changes something can only lose.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from perf.bench.never_worse import sources
from serving.repository import CONFIG


class Kind(enum.Enum):
    """What a model does with its time, and so what cores say about it."""

    WAITS = "waits"
    BURNS = "burns"


SHARES: Mapping[Kind, tuple[float, float]] = {Kind.WAITS: (0.6, 0.78), Kind.BURNS: (0.5, 0.7)}
"""Of the capacity, before and after the step in the middle. What burns gets less: its capacity is
measured, on a machine that others share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One model.

    Attributes:
        name: of the model.
        kind: whether it waits or burns CPU.
        what: in words, for the report.
        slo_s: the objective on p99, the one thing that the user of ``--slo`` says.
        capacity_rps: what its config carries, by its service time; None is measured.
        config: its ``config.pbtxt``.
        files: by name, what its version folder holds; writes the file that it is given.
    """

    name: str
    kind: Kind
    what: str
    slo_s: float
    config: str
    capacity_rps: float | None = None
    files: Mapping[str, Callable[[Path], None]] = field(default_factory=dict, repr=False)

    def publish(self, root: Path) -> None:
        """Write the model's folder below ``root``."""
        version = root / self.name / "1"
        version.mkdir(parents=True)
        for name, write in self.files.items():
            write(version / name)
        (root / self.name / CONFIG).write_text(self.config, encoding="utf-8")


def _python(source: str) -> Mapping[str, Callable[[Path], None]]:
    """The files of a model of the Python backend."""
    return {"model.py": lambda path: _write(path, source)}


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _config(name: str, rest: str, *, width: int = 1, backend: str = "python") -> str:
    return (
        f'name: "{name}"\nbackend: "{backend}"\n'
        f'input [ {{ name: "x" data_type: TYPE_FP32 dims: [ {width} ] }} ]\n'
        f'output [ {{ name: "y" data_type: TYPE_FP32 dims: [ {width} ] }} ]\n{rest}\n'
    )


def _cpu(count: int) -> str:
    return f"instance_group [ {{ count: {count} kind: KIND_CPU }} ]"


def _waits(
    name: str, what: str, rest: str, source: str, *, capacity_rps: float, slo_s: float
) -> Subject:
    return Subject(
        name=name,
        kind=Kind.WAITS,
        what=what,
        slo_s=slo_s,
        capacity_rps=capacity_rps,
        config=_config(name, rest),
        files=_python(source),
    )


def _burns(name: str, what: str, count: int, *, slo_s: float) -> Subject:
    return Subject(
        name=name,
        kind=Kind.BURNS,
        what=what,
        slo_s=slo_s,
        config=_config(name, f"max_batch_size: 1\n{_cpu(count)}"),
        files=_python(sources.burning(cpu_s=0.010)),
    )


SUBJECTS: tuple[Subject, ...] = (
    _waits(
        "sleep6",
        "waits 30 ms a request, 6 instances",
        f"max_batch_size: 1\n{_cpu(6)}",
        sources.waiting(flat_s=0.030),
        capacity_rps=6 / 0.030,
        slo_s=0.15,
    ),
    _waits(
        "sleep_batch",
        "waits 20 ms + 2 ms a row, batches of 8, 2 instances",
        f"max_batch_size: 8\n{_cpu(2)}\ndynamic_batching {{ }}",
        sources.waiting(flat_s=0.020, row_s=0.002),
        capacity_rps=2 * 8 / 0.036,
        slo_s=0.15,
    ),
    _waits(
        "shallow_raises",
        "buffers of 4 rows, raises beyond; 1 instance",
        f"max_batch_size: 4\n{_cpu(1)}\ndynamic_batching {{ }}",
        sources.waiting(flat_s=0.040, row_s=0.002, rows=4, beyond="raises"),
        capacity_rps=4 / 0.048,
        slo_s=0.4,
    ),
    _waits(
        "shallow_errors",
        "buffers of 4 rows, error responses beyond; 1 instance",
        f"max_batch_size: 4\n{_cpu(1)}\ndynamic_batching {{ }}",
        sources.waiting(flat_s=0.040, row_s=0.002, rows=4, beyond="answers"),
        capacity_rps=4 / 0.048,
        slo_s=0.4,
    ),
    _waits(
        "shallow_dies",
        "buffers of 4 rows, takes the server down beyond; 1 instance",
        f"max_batch_size: 4\n{_cpu(1)}\ndynamic_batching {{ }}",
        sources.waiting(flat_s=0.040, row_s=0.002, rows=4, beyond="dies"),
        capacity_rps=4 / 0.048,
        slo_s=0.4,
    ),
    _burns("burn1", "burns 10 ms of CPU a request, 1 instance", 1, slo_s=0.2),
    _burns("burn_over", "burns 10 ms of CPU a request, 6 instances", 6, slo_s=0.3),
    _waits(
        "two_groups",
        "waits 25 ms, two groups of 1 and 2 instances",
        "max_batch_size: 1\n"
        'instance_group [ { count: 1 kind: KIND_CPU }, { name: "extra" count: 2 kind: KIND_CPU } ]',
        sources.waiting(flat_s=0.025),
        capacity_rps=3 / 0.025,
        slo_s=0.2,
    ),
    _waits(
        "slow_loader",
        "waits 15 ms, loads in 8 s, 2 instances",
        f"max_batch_size: 1\n{_cpu(2)}",
        sources.waiting(flat_s=0.015, load_s=8.0),
        capacity_rps=2 / 0.015,
        slo_s=0.15,
    ),
    _waits(
        "big_batch_refused",
        "waits 30 ms + 1 ms a row, does not load above batches of 8",
        f"max_batch_size: 8\n{_cpu(1)}\ndynamic_batching {{ }}",
        sources.waiting(flat_s=0.030, row_s=0.001, loads_up_to=8),
        capacity_rps=8 / 0.038,
        slo_s=0.2,
    ),
    _waits(
        "flat_gpu_like",
        "waits 40 ms whatever the batch, up to 8; 1 instance",
        f"max_batch_size: 8\n{_cpu(1)}\ndynamic_batching {{ }}",
        sources.waiting(flat_s=0.040),
        capacity_rps=8 / 0.040,
        slo_s=0.2,
    ),
    Subject(
        name="onnx_small",
        kind=Kind.BURNS,
        what="ONNX, 3 layers of 1024 to 4096, default threads",
        slo_s=0.2,
        config=_config(
            "onnx_small",
            f"max_batch_size: 8\n{_cpu(1)}\ndynamic_batching {{ }}",
            width=sources.MLP_WIDTH,
            backend="onnxruntime",
        ),
        files={"model.onnx": sources.write_mlp},
    ),
)
