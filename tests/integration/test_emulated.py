"""The emulated accelerator on a real Triton: its times are true, and its instances are parallel."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conch.errors import ConfigError
from control.act.actuator import Actuator
from control.act.knobs import settings_of
from perf import traces
from perf.bench.emulated import EmulatedModel, config_of, publish
from perf.replay import ReplayTarget, replay
from perf.replay_result import Outcome
from serving.client import TritonClient
from serving.model_config import ReloadKind
from serving.repository import Repository
from serving.statistics import ModelStatistics

pytestmark = pytest.mark.alone

TRUE = EmulatedModel(
    alpha_s=0.008, beta_s=0.032, load_s=1.0, instances=2, more_versions={2: (0.002, 0.01)}
)
BIG = EmulatedModel(alpha_s=0.0, beta_s=0.5, load_s=0.0, instances=2, name="big")


@pytest.fixture(scope="module")
def served(tmp_path_factory, start_server, connect) -> tuple[Repository, TritonClient]:
    """(repository, client) of one server with the emulated models."""
    root = tmp_path_factory.mktemp("repository")
    publish(TRUE, root)
    publish(BIG, root)
    return Repository(root), connect(start_server(root))


def _item(count: int = 1) -> dict[str, np.ndarray]:
    return {"x": np.arange(count, dtype=np.float32)[:, None]}


def _line(seen: ModelStatistics) -> tuple[float, float]:
    """(α, β) in seconds, by least squares over the mean times, weighted by their counts."""
    sizes = np.array(list(seen.batches), dtype=np.float64)
    counts = np.array([stat.count for stat in seen.batches.values()])
    means_s = np.array([stat.busy_s / stat.count for stat in seen.batches.values()])
    alpha_s, beta_s = np.polyfit(sizes, means_s, 1, w=np.sqrt(counts))
    return float(alpha_s), float(beta_s)


def test_service_times_learnt_under_load_are_the_true_ones(served) -> None:
    """α and β from Triton's own batch statistics are within 10 % of those asked for."""
    client = served[1]
    target = ReplayTarget(grpc_url=client.grpc_url, model=TRUE.name, inputs=_item())
    seen = replay(traces.ramp(20, 180, 5, seed=1), target, slo_s=0.4)
    assert seen.number_of(Outcome.OK) == seen.intended_s.size
    statistics = client.statistics(TRUE.name)
    assert max(statistics.batches) == TRUE.max_batch_size
    alpha_s, beta_s = _line(statistics)
    assert alpha_s == pytest.approx(TRUE.alpha_s, rel=0.1)
    assert beta_s == pytest.approx(TRUE.beta_s, rel=0.1)


def test_a_batch_of_one_request_counts_its_items(served) -> None:
    """A request of 8 items takes ℓ(8), and comes back as it went."""
    client = served[1]
    items = _item(8)
    before = client.statistics(TRUE.name).batches[8]
    assert np.array_equal(client.infer(TRUE.name, items)["y"], items["x"])
    after = client.statistics(TRUE.name).batches[8]
    took_s = (after.busy_s - before.busy_s) / (after.count - before.count)
    assert took_s >= (8 * TRUE.alpha_s + TRUE.beta_s) * (1 - 3 * TRUE.jitter_fraction)


def test_two_instances_run_at_once(served) -> None:
    """Two batches that are sent together overlap: the later begins before the earlier ends."""
    client = served[1]

    def ask(_: int) -> tuple[float, float]:
        start_s = time.monotonic()
        client.infer("big", _item(8))
        return start_s, time.monotonic()

    with ThreadPoolExecutor(2) as pool:
        (start_1, end_1), (start_2, end_2) = pool.map(ask, range(2))
    elapsed_s = max(end_1, end_2) - min(start_1, start_2)
    busy_s = client.statistics("big").batches[8].busy_s
    assert busy_s > 1.7 * BIG.beta_s
    assert elapsed_s < busy_s


def test_an_instance_takes_its_time_to_load_and_is_added_in_place(served) -> None:
    """A change of the count is in place from the first on, and takes at least ``load_s``."""
    repository, client = served
    now = settings_of(client.config(TRUE.name))
    before = client.statistics(TRUE.name).inference_count
    action = Actuator(repository, client).apply(TRUE.name, replace(now, instances=3), reason="test")
    assert action.kind is ReloadKind.IN_PLACE
    assert action.seconds >= TRUE.load_s
    # A reload in disguise (of a folder with a newer file in it) would have begun anew.
    assert client.statistics(TRUE.name).inference_count >= before > 0


def test_another_version_has_times_of_its_own(served) -> None:
    """A version with parameters of its own is as quick as they say."""
    repository, client = served
    config = repository.read_config(TRUE.name)
    config.version_policy.specific.versions[:] = [2]
    repository.write_config(TRUE.name, config, reason="test")
    client.load(TRUE.name)
    before = client.statistics(TRUE.name).batches.get(8)
    assert before is None  # the statistics are those of version 2 alone
    client.infer(TRUE.name, _item(8))
    took_s = client.statistics(TRUE.name).batches[8].busy_s
    assert took_s < 8 * TRUE.alpha_s + TRUE.beta_s


def test_publishing_writes_a_complete_config_once(tmp_path: Path) -> None:
    """What is asked for is in the config; a model that is there already is not overwritten."""
    model = replace(TRUE, max_queue_delay_s=0.002, max_batch_size=4, name="other")
    publish(model, tmp_path)
    config = Repository(tmp_path).read_config("other")
    assert config == config_of(model)
    settings = settings_of(config)
    assert (settings.instances, settings.max_batch_size) == (2, 4)
    assert settings.max_queue_delay_s == pytest.approx(0.002)
    with pytest.raises(ConfigError, match="there already"):
        publish(model, tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"alpha_s": -1.0},
        {"load_s": float("nan")},
        {"jitter_fraction": 0.5},
        {"instances": 0},
        {"more_versions": {1: (0.0, 0.0)}},
        {"name": "../x"},
    ],
    ids=str,
)
def test_an_impossible_model_is_refused(wrong: dict[str, object]) -> None:
    """Values that no instance could follow are an error with a hint."""
    with pytest.raises(ConfigError):
        replace(TRUE, **wrong)


def test_no_bytecode_can_be_written_into_the_model(tmp_path: Path) -> None:
    """An import leaves the version's folder as it was, whatever Python the stub runs on."""
    publish(TRUE, tmp_path)
    folder = tmp_path / TRUE.name / "1"
    (folder / "probe.py").write_text("x = 1\n")
    before = sorted(path.name for path in folder.rglob("*"))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run([sys.executable, "-c", "import probe"], cwd=folder, env=environment, check=True)
    assert sorted(path.name for path in folder.rglob("*")) == before
