"""Models that no server may be given: names a shell reads, and what hangs or ends Triton."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from conch.errors import ConfigError, RepositoryError
from control.core import policy
from serving import check, hazards
from serving.model_config import MOST_CHARACTERS, parse
from serving.repository import Repository

READ_BY_A_SHELL = ["$(touch x)", "`id`", "a;b", "a b", "a&b", "a|b", "a\\nb", "a'b", "-x", "../m"]
FIELDS = {
    "default_model_filename": 'default_model_filename: "{}"',
    "cc_model_filenames": 'cc_model_filenames {{ key: "9.0" value: "{}" }}',
    "instance_group": 'instance_group {{ name: "{}" count: 1 }}',
    "backend": 'backend: "{}"',
    "runtime": 'runtime: "{}"',
    "platform": 'platform: "{}"',
    "EXECUTION_ENV_PATH": (
        'parameters {{ key: "EXECUTION_ENV_PATH" value {{ string_value: "{}" }} }}'
    ),
}


def write(root: Path, name: str, config: str, *, version: str = "1") -> None:
    """A Python model with this in its config."""
    (root / name / version).mkdir(parents=True)
    (root / name / version / "model.py").write_text("")
    backend = "" if "backend" in config or "platform" in config else 'backend: "python"\n'
    (root / name / "config.pbtxt").write_text(backend + config)


@pytest.mark.parametrize("value", READ_BY_A_SHELL)
@pytest.mark.parametrize("field", FIELDS)
def test_a_name_that_a_shell_reads_is_a_fault(field: str, value: str) -> None:
    """In each field that becomes a path or a part of a command line."""
    (fault,) = hazards.faults(parse(FIELDS[field].format(value)))
    assert fault.startswith(field)
    assert "allowed are" in fault


@pytest.mark.parametrize(
    "text",
    [
        'backend: "onnxruntime" default_model_filename: "sub/model.int8-v2.onnx"',
        'platform: "tensorrt_plan" cc_model_filenames { key: "9.0" value: "a.plan" }',
        'instance_group { name: "m_0" count: 2 } instance_group { count: 1 }',
        FIELDS["EXECUTION_ENV_PATH"].format("$$TRITON_MODEL_DIRECTORY/env.tar.gz"),
        FIELDS["EXECUTION_ENV_PATH"].format("$$TRITON_MODEL_DIRECTORY/../env.tar.gz"),
        'parameters { key: "anything" value { string_value: "$(touch x); `y`" } }',
        'input { name: "x y;z" data_type: TYPE_FP32 dims: [1] }',
        'metric_tags { key: "team" value: "a b $(c)" } metric_tags { key: "9" value: "" }',
        'model_repository_agents { agents { name: "checksum" } }',
        'max_batch_size: 8 model_warmup { name: "w" batch_size: 8 count: 100 }',
        'model_warmup { name: "w" batch_size: 16 }',
    ],
)
def test_what_people_write_is_no_fault(text: str) -> None:
    """Plain names, and strings that reach no shell."""
    assert hazards.faults(parse(text)) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('metric_tags { key: "a-b" value: "c" }', "Prometheus label"),
        ('metric_tags { key: "_a" value: "c" }', "Prometheus label"),
        ('model_repository_agents { agents { name: "a/b" } }', "without '/'"),
        ('model_repository_agents { agents { name: "$(x)" } }', "a shell"),
        ("instance_group { count: 2000 }", "instances: 2000, at most 1024"),
        (
            "sequence_batching { oldest { max_candidate_sequences: 2000000000 } }",
            "max_candidate_sequences: 2000000000, at most 1048576",
        ),
        ("max_batch_size: 2147483647 sequence_batching { }", "slots (max_batch_size)"),
        ('model_warmup { name: "w" batch_size: 9 } max_batch_size: 8', "batch_size: 9, at most 8"),
        ('model_warmup { name: "w" batch_size: 4000000000 }', "at most 1024"),
        ('model_warmup { name: "w" count: 4000000000 }', "at most 10000"),
        (
            'model_warmup { inputs { key: "x" value { zero_data: true dims: [2000000000000] } } }',
            "bytes of warm-up and initial state: 16000000000000, at most",
        ),
    ],
)
def test_what_ends_triton_or_keeps_it_busy_for_ever_is_a_fault(text: str, says: str) -> None:
    """Measured: every other model goes with it."""
    faults = hazards.faults(parse(text))
    assert faults
    assert says in faults[0]


def test_left_out_names_hostile_models_and_what_is_around_them(tmp_path: Path) -> None:
    """The harmless are not among them; an ensemble would load its members by itself."""
    write(tmp_path, "good", "max_batch_size: 8")
    write(tmp_path, "x$(id)", "")
    write(tmp_path, "file", FIELDS["default_model_filename"].format("m`id`.py"))
    write(tmp_path, "unreadable", "max_batch_size: {{{")
    ensemble = 'platform: "ensemble" ensemble_scheduling { step { model_name: "%s" } }'
    write(tmp_path, "direct", ensemble % "x$(id)")
    write(tmp_path, "around", ensemble % "file")
    write(tmp_path, "outer", ensemble % "around")
    write(tmp_path, "fine", ensemble % "good")
    found = hazards.left_out(Repository(tmp_path))
    assert set(found) == {"x$(id)", "file", "unreadable", "direct", "around", "outer"}
    assert found["outer"] == "its member 'around' is left out"


def test_a_config_that_takes_minutes_to_parse_is_left_out(tmp_path: Path) -> None:
    """Its size tells; a server's start does not wait for it."""
    write(tmp_path, "big", " " * (MOST_CHARACTERS + 1))
    write(tmp_path, "good", "")
    reasons = hazards.left_out(Repository(tmp_path))
    assert list(reasons) == ["big"]
    assert "characters, at most" in reasons["big"]


def test_a_field_of_a_newer_triton_is_no_reason_to_leave_a_model_out(tmp_path: Path) -> None:
    """It is passed over; what is known is looked at all the same."""
    write(tmp_path, "newer", "brand_new_field: 3")
    write(tmp_path, "hostile", 'brand_new_field: 3 default_model_filename: "$(id)"')
    assert set(hazards.left_out(Repository(tmp_path))) == {"hostile"}


@pytest.mark.parametrize(
    ("folders", "left_out"),
    [(["1"], False), (["1", "1_old"], False), (["1x"], True), (["1", "2_old"], True), ([], False)],
)
def test_a_version_that_triton_would_wait_for_is_left_out(
    tmp_path: Path, folders: list[str], left_out: bool
) -> None:
    """It takes the number that a folder's name begins with, and opens the folder of that number."""
    (tmp_path / "m").mkdir()
    for folder in folders:
        (tmp_path / "m" / folder).mkdir()
        (tmp_path / "m" / folder / "model.py").write_text("")
    (tmp_path / "m" / "config.pbtxt").write_text('backend: "python"')
    assert bool(hazards.left_out(Repository(tmp_path))) == left_out


def test_a_folder_that_cannot_be_listed_is_one_models_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mode 0711, for whoever is not root; the others are served."""
    write(tmp_path, "closed", "")
    write(tmp_path, "open", "")
    real = Path.iterdir

    def listed(path: Path) -> Iterator[Path]:
        if path.name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(Path, "iterdir", listed)
    found = hazards.left_out(Repository(tmp_path))
    assert found == {"closed": "its folder cannot be listed (Permission denied)"}


def test_a_config_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be another at a second look."""
    write(tmp_path, "m", "")
    real = Repository.config_text

    def read(repository: Repository, name: str) -> str:
        text = real(repository, name)
        repository.config_path(name).write_text("{{{")
        return text

    monkeypatch.setattr(Repository, "config_text", read)
    assert hazards.left_out(Repository(tmp_path)) == {}


def test_a_repository_that_cannot_be_listed_vouches_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error for a user, and no empty answer."""
    opened = Repository(tmp_path)
    monkeypatch.setattr(opened, "root", tmp_path / "gone")
    with pytest.raises(RepositoryError, match="cannot be listed"):
        hazards.left_out(opened)


def test_repo_check_says_what_serve_leaves_out(tmp_path: Path) -> None:
    """As a fault, with what is allowed."""
    write(tmp_path, "file", FIELDS["default_model_filename"].format("m$(id).py"))
    (tmp_path / "file" / "1" / "m$(id).py").write_text("")
    write(tmp_path, "gone", "", version="9x")
    faults = {
        f.model: f.message for f in check.check(Repository(tmp_path)) if f.severity == "fault"
    }
    assert "hands it to a shell" in faults["file"]
    assert set(faults) == set(hazards.left_out(Repository(tmp_path))) == {"file", "gone"}


def test_require_refuses_what_became_hostile(tmp_path: Path) -> None:
    """A config may be edited after the start."""
    write(tmp_path, "m", "max_batch_size: 8")
    hazards.require(Repository(tmp_path), "m")
    (tmp_path / "m" / "config.pbtxt").write_text('default_model_filename: "a b"')
    with pytest.raises(ConfigError, match="default_model_filename"):
        hazards.require(Repository(tmp_path), "m")


ENSEMBLE = 'ensemble_scheduling {{ step {{ model_name: "{}" model_version: -1 }} }}'


@pytest.mark.parametrize(
    "circle", [{"e": "e"}, {"e": "f", "f": "e"}, {"e": "f", "f": "g", "g": "e"}]
)
def test_an_ensemble_around_a_circle_is_left_out(tmp_path: Path, circle: dict[str, str]) -> None:
    """Triton refuses a circle, and ends on what leads into it; what is apart is served."""
    for name, member in {**circle, "outer": "e", "far": "outer", "apart": "m"}.items():
        write(tmp_path, name, 'platform: "ensemble" ' + ENSEMBLE.format(member))
    write(tmp_path, "m", "")
    opened = Repository(tmp_path)
    assert set(hazards.left_out(opened)) == {*circle, "outer", "far"}
    assert "made of one another" in hazards.left_out(opened)["outer"]
    assert {f.model for f in check.check(opened) if f.severity == "fault"} == {
        *circle,
        "outer",
        "far",
    }
    hazards.require(opened, "apart")
    with pytest.raises(ConfigError, match="made of one another"):
        hazards.require(opened, "far")


def test_a_load_of_an_ensemble_is_refused_where_that_of_its_member_would_be(tmp_path: Path) -> None:
    """Triton loads the members by itself, so a load of the ensemble is refused too."""
    write(tmp_path, "e", 'platform: "ensemble" ' + ENSEMBLE.format("m"))
    write(tmp_path, "m", 'default_model_filename: "a b"')
    write(tmp_path, "both", 'default_model_filename: "a b" ' + ENSEMBLE.format("m"))
    assert "a shell" in hazards.left_out(Repository(tmp_path))["both"]  # its own reason first
    with pytest.raises(ConfigError, match="its member 'm' is left out"):
        hazards.require(Repository(tmp_path), "e")


def test_an_ensemble_of_a_model_that_is_not_there_is_tritons_to_refuse(tmp_path: Path) -> None:
    """It does, and serves the others."""
    write(tmp_path, "e", 'platform: "ensemble" ' + ENSEMBLE.format("gone"))
    assert hazards.left_out(Repository(tmp_path)) == {}


def test_the_most_instances_that_are_served_are_the_most_that_are_controlled() -> None:
    """The core may not import what knows Triton's configs, so the number stands twice."""
    assert hazards.MOST_INSTANCES == policy.MOST_INSTANCES
