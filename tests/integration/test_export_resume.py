"""Kill -9 in the middle of any stage, run again: the same files as an undisturbed run."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from export import recipe as recipes
from export.steps import Artifact
from export.store import facts
from export.tasks import Bench, Job
from export.worker import Pool
from tests.integration import toy_recipe
from tests.integration.processes import runs

CONCH = Path(sys.executable).with_name("conch")
VARIANTS = [
    {"name": "fp32", "steps": ["to_onnx"]},
    {"name": "int8", "steps": ["to_onnx", {"quantize": {"method": "dynamic"}}]},
    {"name": "static", "steps": ["to_onnx", {"quantize": {"method": "static_qdq"}}],
     "gates": {"fidelity": {"min": 0.9}}},
]  # fmt: skip
LOUD_DATA = (
    toy_recipe.GOOD_DATA
    + """
import os

class Broken(FileNotFoundError):
    def __init__(self, what, where):
        super().__init__(f"{what} at {where}")

def training():
    print("from Python")
    os.write(1, b"from C\\n")
    return [{**batch, "target": np.zeros(8, dtype=np.int64)} for batch in batches(3)]

def augment(batch):
    raise Broken("no picture", "row 3")
"""
)
STAGES = ("load the original", "to_onnx", "quantize dynamic", "compare", "measure", "publish")


def start(folder: Path) -> subprocess.Popen[str]:
    """``conch export run`` in the folder, in a process group of its own."""
    return subprocess.Popen(
        [str(CONCH), "export", "run", "recipe.yaml"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def killed_at(folder: Path, stage: str) -> list[int]:
    """Start a run and kill -9 it as soon as it says that the stage begins; gives its workers."""
    process = start(folder)
    workers: list[int] = []
    for line in process.stderr:
        if re.search(rf"\] .*{stage}.* \.\.\.$", line.strip()):
            time.sleep(0.05)
            workers = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
            os.kill(process.pid, signal.SIGKILL)
            break
    else:
        pytest.fail(f"the run never came to {stage}")
    process.wait()
    process.stderr.close()
    return workers


def finish(folder: Path) -> dict:
    """Run to the end; gives the manifest."""
    process = start(folder)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return json.loads((folder / "runs/export/toy/manifest.json").read_text())


def copy_of_recipe(folder: Path) -> Path:
    """The toy recipe in a folder of its own."""
    folder.mkdir()
    toy_recipe.write(folder, variants=VARIANTS)
    return folder


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The manifest of a run that nobody killed."""
    return finish(copy_of_recipe(tmp_path_factory.mktemp("undisturbed") / "toy"))


def test_run_killed_at_every_stage_in_turn_gives_the_same_manifest(tmp_path, undisturbed):
    """One folder, six kills, each in a later stage; then to the end."""
    folder = copy_of_recipe(tmp_path / "toy")
    for stage in STAGES:
        workers = killed_at(folder, stage)
        deadline = time.monotonic() + 10
        while any(map(runs, workers)) and time.monotonic() < deadline:
            time.sleep(0.1)
        left = [pid for pid in workers if runs(pid)]
        assert not left, f"workers outlive the run that was killed at {stage}: {left}"
        assert not (folder / "model_repository" / "toy_fp32").exists()
    assert finish(folder) == undisturbed


def test_manifest_tells_versions_samples_and_hash_of_every_file(undisturbed):
    """And nothing that differs from run to run."""
    assert set(undisturbed["variants"]) == {"fp32", "int8", "static"}
    files = undisturbed["variants"]["int8"]["files"]
    assert re.fullmatch(r"[0-9a-f]{64}", files["model.onnx"])
    assert len(undisturbed["samples"]["calibration"]) == 32
    assert {"python", "torch", "onnx", "onnxruntime", "numpy"} <= set(undisturbed["versions"])
    assert undisturbed["cpu"]["model"]


def test_worker_killed_alone_is_replaced_and_the_run_goes_on(tmp_path, undisturbed):
    """The kernel's out-of-memory killer takes a worker, not the run."""
    folder = copy_of_recipe(tmp_path / "toy")
    process = start(folder)
    for line in process.stderr:
        if "to_onnx ..." in line:
            time.sleep(0.3)
            victims = [
                child
                for child in psutil.Process(process.pid).children()
                if "spawn_main" in " ".join(child.cmdline())
            ]
            assert victims
            for victim in victims:
                victim.kill()
            break
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    manifest = json.loads((folder / "runs/export/toy/manifest.json").read_text())
    assert manifest == undisturbed


def test_user_code_that_raises_or_prints_harms_nothing_else(tmp_path):
    """Its own class of OSError is its variant's failure; its prints stay out of stdout."""
    broken = {"finetune": {"augment": "data.py:augment", "steps": 2, "loss": "cross_entropy"}}
    toy_recipe.write(
        tmp_path,
        data_code=LOUD_DATA,
        data={"training": "data.py:training"},
        variants=[*VARIANTS[:1], {"name": "broken", "steps": [broken, "to_onnx"]}],
    )

    def run(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """To its end."""
        return subprocess.run(
            [str(CONCH), *options, "export", "run", "recipe.yaml", "--json"],
            cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True, timeout=120,
        )  # fmt: skip

    # A run that fails at its end leaves no semaphores of idle workers behind.
    failed = run(CONCH_FAILPOINT="export.manifest.temp_written=enospc")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert "No space left on device" in failed.stderr
    assert "leaked" not in failed.stderr
    done = run("--debug")
    assert done.returncode == 0, done.stderr
    variants = {entry["name"]: entry for entry in json.loads(done.stdout)["variants"]}
    assert variants["broken"]["status"] == "failed"
    assert "Broken: no picture at row 3." in variants["broken"]["reason"]
    assert variants["fp32"]["status"] == "published"
    assert {"from Python", "from C"} <= set(done.stderr.splitlines())
    assert "raise Broken(" in done.stderr  # the traceback in the worker


@dataclass(frozen=True)
class Telling:
    """A stage that tells, and dies in the middle of it when it is to."""

    dies: bool

    def run(self, bench: Bench) -> Artifact:
        """Facts, or death."""
        bench.tell(1, 2, "before")
        if self.dies:
            bench.tell._lock.acquire()
            os.kill(os.getpid(), signal.SIGKILL)
        bench.tell(2, 2, "after")
        return facts(value=1)


def test_worker_that_dies_while_it_tells_holds_up_no_other(tmp_path):
    """It keeps the lock of the pipe; nor does a display that fails hold up anyone."""
    path = toy_recipe.write(tmp_path)
    job = Job(recipe_path=path, recipe=recipes.load(path), stages=tmp_path / "stages", load_key="x")
    told = []

    def advance(*progress: object) -> None:
        """Show it, badly."""
        told.append(progress)
        raise KeyError("no such bar")

    pool = Pool(job, jobs=1, advance=advance)
    try:
        assert isinstance(pool.submit(Telling(True), "a").exception(60), BrokenProcessPool)
        pool.discard()
        assert pool.submit(Telling(False), "b").result(60).artifact.facts == {"value": 1}
    finally:
        pool.close(at_once=True)
    assert told == [("a", 1, 2, "before"), ("b", 1, 2, "before"), ("b", 2, 2, "after")]


def test_full_disk_in_a_stage_publishes_nothing_and_the_next_run_goes_on(tmp_path, undisturbed):
    """The error says so in one line; with room again only the rest is built."""
    folder = copy_of_recipe(tmp_path / "toy")
    failing = os.environ | {"CONCH_FAILPOINT": "export.stage.before_record=enospc"}
    done = subprocess.run(
        [str(CONCH), "export", "run", "recipe.yaml"],
        cwd=folder, env=failing, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert "export of toy: No space left on device" in done.stderr
    assert "Free some space" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((folder / "model_repository").glob("toy_*"))
    assert finish(folder) == undisturbed
