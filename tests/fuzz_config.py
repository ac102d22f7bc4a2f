"""A model's config, as people and other programs write it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

from control.act.knobs import settings_of, threads_of
from serving import check, ensembles, model_config, probe
from serving.repository import Repository
from tests.fuzz_mutate import of_bytes
from tests.fuzz_scratch import is_refused, scratch_repository

EXAMPLES = Path(__file__).parents[1] / "examples"
RICH = """
name: "m" backend: "onnxruntime" max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: [ -1, 3 ] } output { name: "y" data_type: TYPE_INT64 }
instance_group { count: 2 kind: KIND_GPU gpus: [ 0, 1 ] }
dynamic_batching { preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 100 }
version_policy { specific { versions: [ 1, 2 ] } } response_cache { enable: true }
parameters { key: "intra_op_thread_count" value { string_value: "2" } }
model_warmup { name: "w" batch_size: 4 inputs { key: "x" value { zero_data: true } } }
"""
STATEFUL = """
name: "m" backend: "python" max_batch_size: 8 default_model_filename: "model.py"
input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ 4 ] label_filename: "labels.txt" }
sequence_batching { oldest { max_candidate_sequences: 4 } state { input_name: "i" output_name: "o"
  data_type: TYPE_FP32 dims: [ 4 ]
  initial_state { name: "s" data_type: TYPE_FP16 dims: [ 4 ] data_file: "state" } } }
metric_tags { key: "team" value: "a" } model_repository_agents { agents { name: "checksum" } }
model_warmup { name: "w" batch_size: 1 count: 2
  inputs { key: "x" value { data_type: TYPE_FP32 dims: [ 4 ] input_data_file: "data" } } }
"""
ENSEMBLE = """
name: "m" platform: "ensemble" max_batch_size: 8
ensemble_scheduling { step { model_name: "n" model_version: -1
  input_map { key: "x" value: "x" } output_map { key: "y" value: "y" } } }
"""
CONFIGS = [
    *(path.read_text(encoding="utf-8") for path in sorted(EXAMPLES.glob("**/config.pbtxt"))),
    RICH,
    STATEFUL,
    ENSEMBLE,
]
TOKENS = (
    *(
        "99999999999999999999",
        "-1",
        "1e400",
        "nan",
        "inf",
        '"\\xff"',
        '"²"',
        "{",
        "}",
        "[",
        "]",
        "<",
    ),
    *("KIND_NONE", "TYPE_NONE", "true", "'", "#", ";", ",", "0x1fffffffff", '"' + "9" * 5000 + '"'),
    *("[a.b/c] {}", "x {" * 300, "ensemble_scheduling {}", "instance_group {}", "9" * 30),
)


def config(draw: random.Random) -> bool:
    """A config's text: bytes and words; and what is asked of one that still parses."""
    text = draw.choice([*CONFIGS, RICH, STATEFUL, ENSEMBLE])
    words = text.split(" ")
    for _ in range(draw.choice((0, 1, 1, 3))):
        words[draw.randrange(len(words))] = draw.choice([*TOKENS, draw.choice(words)])
    content = " ".join(words).encode()
    if draw.random() < 0.4:
        content = of_bytes(content, draw)
    with scratch_repository() as repository:
        (repository.root / "m" / "config.pbtxt").write_bytes(content)
        repository.models()
        check.check(repository)
        ensembles.of(repository)
        return is_refused(lambda: _use_config(repository))


def _use_config(repository: Repository) -> None:
    read = repository.read_config("m")
    again = model_config.parse(model_config.to_text(read))
    assert model_config.to_text(again) == model_config.to_text(read)
    settings_of(read)
    threads_of(read)
    probe.row_bytes(read)
    model_config.can_rebatch(read)
    model_config.granularity(read)
    model_config.reload_kind(read, again)
    model_config.require_explicit_instances(read)
    repository.write_config("m", model_config.with_instances(read, 3), reason="r")


TARGETS: dict[str, Callable[[random.Random], bool]] = {
    "config": config,
}
