"""The report: saved, read back, printed."""

import dataclasses
import io
import json

import pytest
from rich.console import Console

from conch.errors import ConfigError
from export import report, report_table
from export.report import Report, VariantReport
from tests.unit.test_export_judge import a_report, an_agreement


def a_run(*variants):
    """A report on these variants."""
    return Report(
        model="toy",
        recipe="recipe.yaml",
        recipe_sha256="0" * 64,
        baseline="fp32",
        threads=2,
        seconds={"load": 1.0},
        total_seconds=2.0,
        dry_run=False,
        repository=None,
        variants=variants,
        configs={"toy_int8": 'name: "toy_int8"\n'},
    )


def test_report_read_back_is_equal(tmp_path):
    """Batch sizes are numbers again, verdicts are values again, infinity survives."""
    failed = VariantReport(name="x", published_name="toy_x", reason="broke")
    exact = dataclasses.replace(a_report(), agreement=an_agreement(sqnr_db=float("inf")))
    saved = a_run(exact, failed)
    saved.save(tmp_path / "deep" / "report.json")
    assert report.load(tmp_path / "deep" / "report.json") == saved


def test_report_is_strict_json(tmp_path):
    """NaN is no JSON: other readers would choke on it."""
    found = a_run(a_report(agreement=an_agreement(cosine=float("nan"))))
    text = json.dumps(found.as_dict(), allow_nan=False)
    assert json.loads(text)["variants"][0]["fidelity"] == "nan"


def test_report_that_is_missing_tells_how_to_make_one(tmp_path):
    """`conch export report` before the first run."""
    with pytest.raises(ConfigError, match="conch export run"):
        report.load(tmp_path / "report.json")


@pytest.mark.parametrize("text", ["", "{}", '{"schema": 99}', '{"schema": 2, "variants": 7}'])
def test_report_that_is_broken_is_refused(tmp_path, text):
    """A clear sentence, no traceback."""
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="cannot be read"):
        report.load(path)


def test_table_shows_times_smaller_and_the_reason_of_a_refusal():
    """What a person looks for first."""
    refused = a_report(agreement=an_agreement(cosine=0.5))
    text = io.StringIO()
    Console(file=text, width=220).print(report_table.table(a_run(a_report(), refused)))
    assert "(4.0x)" in text.getvalue()
    assert "refused: fidelity.cosine = 0.5" in text.getvalue()


def test_save_leaves_no_partial_file_when_the_disk_is_full(tmp_path, monkeypatch):
    """The old report stays whole."""
    path = tmp_path / "report.json"
    a_run().save(path)
    before = path.read_bytes()

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(OSError, match="No space"):
        a_run(a_report()).save(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.json"]
