"""What `conch serve` says of a model that does not load: one plain line, once."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from structlog.testing import capture_logs

from perf.bench.emulated import EmulatedModel, publish
from serving.runtime.endpoint import Endpoint
from serving.runtime.supervisor import TritonServer
from tests.integration.conftest import wait_until

GOOD = EmulatedModel(alpha_s=0.001, beta_s=0.002, load_s=0.0, instances=1)
BROKEN = EmulatedModel(alpha_s=0.001, beta_s=0.002, load_s=0.0, instances=1, name="broken")
REASON = "no weights \\x1b[31m[/red]"  # as Python reads it


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A model that loads, and one whose message is hostile."""
    root = tmp_path / "repository"
    publish(GOOD, root)
    publish(BROKEN, root)
    (root / "broken" / "1" / "model.py").write_text(f'raise RuntimeError("{REASON}")\n')
    return root


def test_a_model_that_is_not_ready_is_told_once(repository: Path, tmp_path: Path) -> None:
    """In the table on stdout; not as a log line as well, and not obeyed by a terminal."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-c", "from cli.main import main; main()", "serve"),
            *("--repository", str(repository), "--name", "told-once"),
        ],
        stdout=(tmp_path / "out").open("w"),
        stderr=(tmp_path / "err").open("w"),
    )
    try:
        assert wait_until(
            lambda: (
                "Next, in another terminal" in (tmp_path / "err").read_text()
                or process.poll() is not None
            ),
            120,
        )
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
    out, err = (tmp_path / "out").read_text(), (tmp_path / "err").read_text()
    assert out.count("NOT READY") == 1, err
    assert "no weights" in out
    assert "no weights" not in err
    assert "model.not_ready" not in err
    assert "\x1b" not in out


def test_after_a_restart_the_log_tells_it(repository: Path, tmp_path: Path) -> None:
    """Nobody prints a table then."""
    told: list[Endpoint] = []
    with (
        capture_logs() as lines,
        TritonServer(
            repository, name="t", log_path=tmp_path / "triton.log", on_restart=told.append
        ) as server,
    ):
        assert [model.ready for model in server.models] == [False, True]
        assert "model.not_ready" not in [line["event"] for line in lines]
        assert server.endpoint.pid is not None
        psutil.Process(server.endpoint.pid).kill()
        assert wait_until(lambda: bool(told), 120)
    assert [line["model"] for line in lines if line["event"] == "model.not_ready"] == ["broken"]
