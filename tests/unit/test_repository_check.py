"""`conch repo check`: what it finds, and that it finds nothing in a good repository."""

import hashlib
import json

import pytest

from conch.errors import ConfigError
from serving import check
from serving.check import Severity
from serving.repository import Repository

GOOD = """
name: "m"
backend: "onnxruntime"
default_model_filename: "model.onnx"
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: 4 }
output { name: "y" data_type: TYPE_FP32 dims: 4 }
instance_group { count: 1 kind: KIND_CPU }
dynamic_batching { max_queue_delay_microseconds: 100 }
"""
TIMEOUT = "default_queue_policy { default_timeout_microseconds: 9 }"


@pytest.fixture
def repository(tmp_path):
    """One good model."""
    folder = tmp_path / "m" / "1"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"weights")
    digest = hashlib.sha256(b"weights").hexdigest()
    (folder / "lineage.json").write_text(json.dumps({"files": {"model.onnx": digest}}))
    (tmp_path / "m" / "config.pbtxt").write_text(GOOD)
    (tmp_path / ".conch").mkdir()
    return Repository(tmp_path)


def found(repository):
    """Severity and message of each finding."""
    return [(finding.severity, finding.message) for finding in check.check(repository)]


def test_good_repository_has_no_findings(repository):
    """Ours alone, with state beside it."""
    assert found(repository) == []


@pytest.mark.parametrize(
    ("text", "severity", "says"),
    [
        (GOOD + "what is this", Severity.FAULT, "not a model config"),
        (GOOD.replace('"m"', '"other"'), Severity.FAULT, 'must be "m"'),
        (GOOD.replace("100 }", "100 preferred_batch_size: 16 }"), Severity.FAULT, "[16] above"),
        (GOOD.replace("max_batch_size: 8", "max_batch_size: 0"), Severity.FAULT, "at least 1"),
        (GOOD + 'model_warmup { name: "w" batch_size: 9 }', Severity.FAULT, "9, at most 8"),
        (GOOD.replace("model.onnx", "other.onnx"), Severity.FAULT, "has no other.onnx"),
        (GOOD.replace("count: 1 ", ""), Severity.WARNING, "without a count"),
        (
            GOOD.replace("count: 1 ", "count: 1 rate_limiter { resources { name: 'R' count: 1 } }"),
            Severity.WARNING,
            "asks for 1 of 'R'",
        ),
        (GOOD.replace('backend: "onnxruntime"', ""), Severity.WARNING, "neither backend"),
        (GOOD.replace("100 }", f"100 {TIMEOUT} }}"), Severity.WARNING, "microseconds 100: with"),
    ],
)
def test_bad_config_is_found(repository, text, severity, says):
    """Before Triton finds it, or worse, fills it in."""
    (repository.root / "m" / "config.pbtxt").write_text(text)
    assert any(kind is severity and says in message for kind, message in found(repository))


def test_changed_weights_are_found_by_their_hash(repository):
    """A file that is not what the gates judged."""
    (repository.root / "m" / "1" / "model.onnx").write_bytes(b"other")
    assert "'model.onnx' was changed" in found(repository)[0][1]


def test_stray_file_is_a_warning(repository):
    """An editor's swap file turns an in-place change into a reload."""
    (repository.root / "m" / ".config.pbtxt.swp").write_text("")
    assert found(repository)[0][0] is Severity.WARNING
    assert ".config.pbtxt.swp" in found(repository)[0][1]


def test_folder_with_a_dangerous_name_or_no_config_is_a_fault(repository):
    """Found, although the repository's list leaves it out."""
    (repository.root / "a;b").mkdir()
    (repository.root / "empty").mkdir()
    messages = " ".join(message for _, message in found(repository))
    assert "a;b" in messages
    assert "model empty: not in" in messages


def test_model_that_is_not_there_is_refused(repository):
    """A typing error must not read as all clear."""
    with pytest.raises(ConfigError, match="it has: m"):
        check.check(repository, ["n"])


@pytest.mark.parametrize("name", ["/proc/kmsg", "../../other/1/model.onnx", "a/../../x"])
def test_a_lineage_that_leads_out_of_the_folder_is_a_fault(repository, name):
    """Nothing there is opened: some files of the kernel never end."""
    lineage = {"files": {name: "0" * 64}}
    (repository.root / "m" / "1" / "lineage.json").write_text(json.dumps(lineage))
    ((severity, message),) = found(repository)
    assert severity is Severity.FAULT
    assert message == (
        f"version 1: lineage.json names {name!r}, which is not in the version's folder"
    )


def test_a_file_is_read_as_far_as_its_size_says(repository):
    """Linked to one that has none and never ends."""
    model = repository.root / "m" / "1" / "model.onnx"
    model.unlink()
    model.symlink_to("/proc/self/maps")
    assert "'model.onnx' was changed: sha256 e3b0c44298fc" in found(repository)[0][1]  # of nothing


def test_a_lineage_too_large_to_be_read_is_a_fault(repository):
    """8 GB of nothing, on a disk that holds far less."""
    with (repository.root / "m" / "1" / "lineage.json").open("wb") as file:
        file.truncate(8 * 2**30)
    ((severity, message),) = found(repository)
    assert severity is Severity.FAULT
    assert "File too large" in message


def test_a_name_longer_than_any_file_hides_no_other_finding(repository):
    """5000 characters; Linux takes 255."""
    text = GOOD.replace("model.onnx", "m" * 5000) + 'model_warmup { name: "w" batch_size: 9 }'
    (repository.root / "m" / "config.pbtxt").write_text(text)
    messages = [message for _, message in found(repository)]
    assert [message[:12] for message in messages] == ["warm-up w: b", "version 1 ha"]
    assert max(len(message) for message in messages) < 300
