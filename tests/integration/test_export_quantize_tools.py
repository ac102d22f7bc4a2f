"""The tools behind the steps: ModelOpt in a process of its own, one that is not installed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from conch.errors import ParityError
from export.optional import ToolMissing
from export.steps import Artifact, Form
from export.steps.quantize.modelopt import RUNNER
from export.tensorrt import process
from tests.integration.processes import runs
from tests.integration.quantize_bench import SMOOTH, bench, network, zero_points

__all__ = ["bench"]


def test_modelopt_saves_weights_in_int8(bench):
    """Symmetric, and smaller than the float file."""
    pytest.importorskip("modelopt", reason="pip install 'conch-serving[nvidia]'")
    made = bench.run({"quantize": {"method": "modelopt"}})
    assert zero_points(made, "QuantizeLinear") == {("int8", 0)}
    kinds = {one.name: one.data_type for one in onnx.load(made.file).graph.initializer}
    assert TensorProto.INT8 in kinds.values()
    assert made.facts["calibration"] == "max"
    assert bench.cosine(made) > 0.9


def test_modelopt_takes_weights_from_a_file_beside_and_a_strange_working_folder(
    bench, tmp_path, monkeypatch
):
    """A file `export.py` in the current folder must not hide ours."""
    pytest.importorskip("modelopt", reason="pip install 'conch-serving[nvidia]'")
    (tmp_path / "export.py").write_text("raise SystemExit(3)\n")
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "split" / "model.onnx"
    path.parent.mkdir()
    onnx.save(network(), path, save_as_external_data=True, location="w.data", size_threshold=0)
    split = Artifact(form=Form.ONNX, path=path, extra=(path.with_name("w.data"),), facts={})
    made = bench.run({"quantize": {"method": "modelopt"}}, artifact=split)
    assert made.extra == ()
    assert bench.cosine(made) > 0.9


def test_modelopt_that_takes_too_long_is_ended(bench):
    """And the step says so."""
    pytest.importorskip("modelopt", reason="pip install 'conch-serving[nvidia]'")
    with pytest.raises(ParityError, match=r"ModelOpt failed \(not done after 0\.01 s\)"):
        bench.run({"quantize": {"method": "modelopt", "timeout": 0.01}})


@pytest.mark.parametrize("runner", [RUNNER, process.RUNNER], ids=["modelopt", "tensorrt"])
def test_runner_ends_with_the_process_that_started_it(tmp_path, monkeypatch, runner):
    """Also after kill -9, and when that comes before the runner has started."""
    asked, data = tmp_path / "request", tmp_path / "data"
    for path in (asked, data):
        os.mkfifo(path)  # one waits for the other's end: the runner waits for its data for ever
    (tmp_path / "slow_tool.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    code = (
        "import subprocess, sys\n"
        "one = subprocess.Popen([sys.executable, '-P', *sys.argv[1:]])\n"
        "print(one.pid, flush=True)\n"
        "one.wait()\n"
    )
    command = [sys.executable, "-c", code, str(runner), str(asked), str(tmp_path / "result")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        request = {"parent": parent.pid, "calibration_data": str(data)}
        asked.write_text(json.dumps({**request, "action": "gate", "module": "slow_tool"}))
        parent.kill()
    deadline = time.monotonic() + 5
    while runs(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    try:
        assert not runs(child)
    finally:
        if runs(child):
            os.kill(child, signal.SIGKILL)


def test_fp16_halves_the_file_and_keeps_inputs_and_outputs(bench):
    """Row numbers above the largest allowed value do not keep the table in float32."""
    pytest.importorskip("modelopt", reason="pip install 'conch-serving[nvidia]'")
    made = bench.run("to_fp16")
    assert made.file.stat().st_size < 0.65 * bench.start.file.stat().st_size
    assert bench.cosine(made) > 0.9999
    assert bench.outputs(made)[0]["scores"].dtype == np.float32


@pytest.mark.parametrize(
    ("package", "spec"),
    [
        ("nncf", SMOOTH),
        ("modelopt.onnx.quantization", {"quantize": {"method": "modelopt"}}),
        ("modelopt.onnx.autocast", "to_fp16"),
    ],
)
def test_missing_tool_is_told_with_how_to_install_it(bench, monkeypatch, package, spec):
    """The variant is skipped on it."""
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ToolMissing, match="which is not installed") as caught:
        bench.run(spec)
    assert "pip install 'conch-serving[" in (caught.value.hint or "")
