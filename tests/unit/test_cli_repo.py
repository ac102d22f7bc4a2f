"""`conch repo` without a server: what it prints and what it changes."""

import json

import pytest
from click.testing import CliRunner

from cli.repo import repo
from conch.errors import ConfigError, RepositoryError
from control.lease import sole_writer
from serving import model_config
from serving.repository import Repository
from tests.unit.test_repository_check import GOOD

OLD = model_config.to_text(model_config.parse(GOOD))


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A model with two revisions: 1 instance as found, then 3."""
    monkeypatch.setenv("CONCH_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "repository"
    (root / "m" / "1").mkdir(parents=True)
    (root / "m" / "1" / "model.onnx").write_bytes(b"weights")
    (root / "m" / "config.pbtxt").write_text(OLD)
    opened = Repository(root)
    opened.write_config(
        "m", model_config.with_instances(opened.read_config("m"), 3), reason="more load"
    )
    return opened


def invoke(repository, *arguments, fails=None):
    """The command's result; errors must be the expected ones."""
    result = CliRunner().invoke(repo, [*arguments, "--repository", str(repository.root)])
    if fails is None:
        assert result.exception is None, result.exception
    else:
        assert isinstance(result.exception, fails), result.exception
    return result


def test_list_shows_what_is_tuned(repository):
    """As JSON and as a table."""
    [row] = json.loads(invoke(repository, "list", "--json").stdout)["models"]
    assert row["instances"] == 3
    assert row["max_batch_size"] == 8
    assert row["versions"] == [1]
    assert "onnxruntime" in invoke(repository, "list").stdout


def test_list_survives_one_broken_config(repository):
    """The others are still shown."""
    (repository.root / "bad").mkdir()
    (repository.root / "bad" / "config.pbtxt").write_text("{{{")
    rows = json.loads(invoke(repository, "list", "--json").stdout)["models"]
    assert [row["model"] for row in rows] == ["bad", "m"]
    assert "not a model config" in rows[0]["error"]
    assert "conch repo check" in invoke(repository, "list").stderr


def test_show_prints_the_file_as_it_is(repository):
    """Byte for byte, so that it can be copied."""
    assert invoke(repository, "show", "m").stdout == repository.config_text("m")
    shown = json.loads(invoke(repository, "show", "m", "--json").stdout)
    assert shown["config"]["instance_group"][0]["count"] == 3


def test_variants_that_are_versions_are_told_with_their_quality(repository):
    """The highest number first, each at its newest."""
    fidelity = {"metric": "cosine", "output": None, "value": 0.997}
    lineages = {
        1: {"variant": "fp32"},
        2: {"variant": "int8", "quality": {"task": None, "fidelity": fidelity}},
        3: {"variant": "fp32"},
    }
    for number, lineage in lineages.items():
        (repository.root / "m" / str(number)).mkdir(exist_ok=True)
        (repository.root / "m" / str(number) / "lineage.json").write_text(json.dumps(lineage))
    shown = invoke(repository, "show", "m").stdout.splitlines()
    assert shown[-2:] == [
        "# version 3, served: fp32; quality not measured",
        "# version 2: int8; cosine 0.997",
    ]
    told = json.loads(invoke(repository, "show", "m", "--json").stdout)["variants"]
    assert [(one["version"], one["variant"], one["served"]) for one in told] == [
        (3, "fp32", True),
        (2, "int8", False),
    ]
    assert told[1]["quality"]["fidelity"]["value"] == 0.997
    assert "1 (fp32), 2 (int8), 3 (fp32)" in invoke(repository, "list").stdout
    [row] = json.loads(invoke(repository, "list", "--json").stdout)["models"]
    assert row["versions"] == [1, 2, 3]
    assert row["variants"] == {"1": "fp32", "2": "int8", "3": "fp32"}


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"steps": [1]}', '{"gates": [{}]}', '{"gates": 7}', '{"steps": null}']
)
def test_show_survives_an_odd_lineage(repository, text):
    """The config is shown all the same, and what cannot be told is said."""
    (repository.root / "m" / "1" / "lineage.json").write_text(text)
    shown = invoke(repository, "show", "m").stdout
    assert shown.startswith(repository.config_text("m"))
    assert ("cannot be understood" in shown) is text.startswith("{")


def test_diff_shows_the_last_change_and_its_cost(repository):
    """More instances are an in-place change."""
    result = invoke(repository, "diff", "m")
    assert "-  count: 1" in result.stdout
    assert "+  count: 3" in result.stdout
    assert "costs: in-place" in result.stderr


def test_diff_without_an_earlier_revision_is_refused(repository):
    """Nothing to compare with."""
    text = repository.config_text("m")
    folder = repository.root / "n" / "1"
    folder.mkdir(parents=True)
    (folder.parent / "config.pbtxt").write_text(text.replace('"m"', '"n"'))
    result = invoke(repository, "diff", "n", fails=ConfigError)
    assert "no earlier revision" in str(result.exception)


def test_history_says_when_why_and_which_is_on_disk(repository):
    """Oldest first."""
    rows = json.loads(invoke(repository, "history", "m", "--json").stdout)["revisions"]
    assert [(r["number"], r["reason"], r["on_disk"]) for r in rows] == [
        (1, "found on disk", False),
        (2, "more load", True),
    ]


def test_rollback_brings_back_the_very_bytes(repository):
    """And is itself a revision, so that it can be undone."""
    result = invoke(repository, "rollback", "m", "--to", "1")
    assert repository.config_text("m") == OLD
    assert [r.reason for r in repository.revisions("m").all()][-1] == (
        "rolled back by hand to revision 1"
    )
    assert "no local server has it loaded" in result.stderr


def test_rollback_dry_run_changes_nothing(repository):
    """It shows the diff and its cost."""
    before = repository.config_text("m")
    result = invoke(repository, "rollback", "m", "--to", "1", "--dry-run")
    assert "+  count: 1" in result.stdout
    assert "Nothing was changed." in result.stderr
    assert repository.config_text("m") == before
    assert len(repository.revisions("m").all()) == 2


def test_rollback_to_a_revision_that_is_not_there_is_refused(repository):
    """With the ones there are."""
    result = invoke(repository, "rollback", "m", "--to", "9", fails=RepositoryError)
    assert "known are: 1, 2" in str(result.exception)


def test_rollback_is_refused_while_a_control_loop_runs(repository):
    """Two writers would undo each other."""
    with sole_writer(repository):
        result = invoke(repository, "rollback", "m", "--to", "1", fails=RepositoryError)
    assert "only one may write" in str(result.exception)
    assert model_config.instance_count(repository.read_config("m")) == 3


def test_check_exits_with_3_on_a_fault(repository):
    """For CI."""
    assert invoke(repository, "check").stdout == ""
    (repository.root / "m" / "config.pbtxt").write_text("{{{")
    result = invoke(repository, "check", fails=ConfigError)
    assert result.exception.exit_code == 3
    assert "fault: m:" in result.stdout
