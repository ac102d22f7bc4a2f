"""What others wrote reaches a terminal as text: no markup is read, no escape sequence obeyed."""

from __future__ import annotations

import ast
import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import click
import pytest
import structlog
from click.testing import CliRunner
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

import cli
from cli import main as cli_main
from cli import output
from cli.control import control
from cli.export_progress import StageLines
from cli.repo import repo
from conch import log
from conch.errors import ConchError
from conch.tables import LiteralColumn, clean_table, literal_console
from conch.terminal import clean
from control import session
from control.core.reasons import Reason
from control.core.types import Decision, Observation
from control.journal.writer import Journal
from export import report_table
from perf import perf_table
from serving import model_config
from serving.repository import Repository
from tests.unit.test_cli_repo import repository  # noqa: F401 - a fixture
from tests.unit.test_export_judge import a_report
from tests.unit.test_export_report import a_run

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m[/red][bold]x[StatusCode.INTERNAL]\u202e\x08\rover"
SHOWN = r"\x1b]0;owned\x07\x1b[2J\x9b31m[/red][bold]x[StatusCode.INTERNAL]\u202e\x08\rover"
OBEYED = {chr(code) for code in (*range(9), *range(0xB, 0x20), *range(0x7F, 0xA0))} - {"\x1b"}


def harmless(text: str) -> bool:
    """Whether only rich's own colours are in it: ``ESC [ … m``, and nothing else is obeyed."""
    bare = Text.from_ansi(text.replace("\n", " ")).plain
    sequences = text.split("\x1b")[1:]
    return not OBEYED & set(bare) and all(
        part.startswith("[") and part[1:].partition("m")[0].replace(";", "").isdigit()
        for part in sequences
    )


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rich believes that it writes to a terminal, so its own colours are there."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "300")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ü → 😀 👩\u200d🔬", "plain ü → 😀 👩\u200d🔬"),
        ("a\tb\nc", "a\tb\nc"),
        ("a\r\nb", "a\nb"),
        ("a\rb", r"a\rb"),
        ("\x1b[31m", r"\x1b[31m"),
        ("\x00\x7f\x80\x9f", r"\x00\x7f\x80\x9f"),
        ("\u2066\u2028\u061c", r"\u2066\u2028\u061c"),
        ("\udc9b", r"\udc9b"),
        (ValueError("\x07"), r"\x07"),
    ],
)
def test_clean_shows_what_a_terminal_would_obey(text: object, shown: str) -> None:
    """Letters, newlines and tabs stay as they are."""
    assert clean(text) == shown


def test_every_control_character_is_cleaned() -> None:
    """None of Cc but newline and tab, no surrogate."""
    left = {chr(code) for code in range(0x110000) if clean(chr(code)) == chr(code)}
    assert left & {chr(code) for code in range(0xA0)} == {
        "\n", "\t", *(chr(code) for code in range(0x20, 0x7F)),
    }  # fmt: skip
    assert not left & {chr(code) for code in range(0xD800, 0xE000)}


def test_tables_print_cells_as_they_are(terminal: None, capsys: pytest.CaptureFixture[str]) -> None:
    """Title, header, cells, text with a style, footers."""
    table = Table(EVIL, title=EVIL, caption=EVIL)
    table.add_row(EVIL)
    table.add_row(Text(EVIL, style="red"))
    table.add_row(Text.assemble(("green", "green"), ": x"))
    output.print_table(table)
    printed = capsys.readouterr().out
    assert harmless(printed)
    assert printed.count(SHOWN) == 4
    assert printed.count(r"\x1b[2J") == 5  # rich takes some out of its Text itself
    assert "\x1b[32mgreen" in printed  # our own colours are still there


def test_bars_print_text_as_it_is() -> None:
    """A description is no markup, and no sequence."""
    page = io.StringIO()
    with Progress(
        LiteralColumn("{task.description}"),
        console=literal_console(file=page, force_terminal=False, width=300),
    ) as bars:
        bars.add_task(EVIL)
    assert SHOWN in page.getvalue()


def test_stage_lines_print_notes_as_they_are(
    terminal: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What failed in a stage is quoted, on a terminal and off it."""
    for forced in (True, False):
        if not forced:
            monkeypatch.delenv("FORCE_COLOR")
        with StageLines() as lines:
            lines.started(1, 2, EVIL)
            lines.advanced(1, 1, 2, EVIL)
            lines.finished(1, 2, EVIL, 1.0, f"failed: {EVIL}")
        printed = capsys.readouterr().err
        assert f"failed: {SHOWN}" in printed
        assert "\x1b]0" not in printed
        assert "\x07" not in printed


def test_history_shows_a_reason_with_brackets_and_escapes(
    repository: Repository,  # noqa: F811
    terminal: None,
) -> None:
    """Reasons quote Triton's messages; one that closes a tag once ended the command."""
    config = repository.read_config("m")
    repository.write_config("m", model_config.with_instances(config, 5), reason=f"refused: {EVIL}")
    for arguments in (("history", "m"), ("list",), ("diff", "m"), ("check",), ("show", "m")):
        result = CliRunner().invoke(repo, [*arguments, "--repository", str(repository.root)])
        assert result.exception is None, result.exception
        assert harmless(result.output)
        if arguments[0] == "history":
            assert f"refused: {SHOWN}" in result.stdout


def test_a_config_file_and_its_lineage_are_shown_not_obeyed(
    repository: Repository,  # noqa: F811
    terminal: None,
) -> None:
    """A comment of the file, a step of the lineage, a difference, a broken file, a folder."""
    path = repository.config_path("m")
    path.write_text(f"# {EVIL}\r\n{path.read_text()}", newline="")
    lineage = {"steps": [EVIL], "published_at": EVIL}
    (repository.root / "m" / "1" / "lineage.json").write_text(json.dumps(lineage))
    shown = CliRunner().invoke(repo, ["show", "m", "--repository", str(repository.root)])
    assert shown.exception is None, shown.exception
    assert harmless(shown.output)
    assert shown.output.count(SHOWN) == 3
    strange = repository.root / "ev\x1b[2Jil[x]"
    strange.mkdir()
    (strange / "config.pbtxt").write_text(f'name: "{EVIL}')
    for arguments in (("check",), ("list",), ("show", "ev\x1b[2Jil[x]")):
        result = CliRunner().invoke(repo, [*arguments, "--repository", str(repository.root)])
        assert result.exception is None or isinstance(result.exception, ConchError)
        assert harmless(result.output)


def test_what_a_journal_holds_is_shown_not_obeyed(
    repository: Repository,  # noqa: F811
    terminal: None,
) -> None:
    """A journal is a file that others may have written."""
    seen = Observation(at_s=1.0, tick_id=EVIL, counters=None, statistics=None, applied=None)
    held = Decision(
        tick_id=EVIL, at_s=1.0, reason=Reason.HOLD_NO_DATA, applied=None, desired=None,
        terms={EVIL: 1.0},
    )  # fmt: skip
    with Journal(session.journal_path(repository)) as journal:
        journal.record("m", seen, held, mode=EVIL)
    for arguments in (("status",), ("explain", "m")):
        result = CliRunner().invoke(control, [*arguments, "--repository", str(repository.root)])
        assert result.exception is None, result.exception
        assert harmless(result.output)
        assert r"\x1b]0" in result.stdout


def test_the_report_of_an_export_shows_a_reason_as_it_is(
    terminal: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model's message is a model's text."""
    variant = replace(a_report(), name=EVIL, reason=EVIL)
    report = replace(a_run(variant), model=EVIL, task=EVIL, baseline=EVIL)
    output.print_table(report_table.table(report))
    printed = capsys.readouterr().out
    assert harmless(printed)
    assert "[StatusCode.INTERNAL]" in printed


def test_tables_of_perf_are_literal() -> None:
    """Shapes are written ``name[32]``, which is markup, too."""
    table = Table("input[red][32]", title=EVIL)
    table.add_row(EVIL)
    text = perf_table.drawn(table)
    assert "input[red][32]" in text
    assert "\x1b" not in text


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConchError(EVIL, hint=EVIL), 1),
        (ValueError(EVIL), 1),
        (click.UsageError(EVIL), 2),
        (click.BadParameter(EVIL), 2),
    ],
)
def test_an_error_s_text_is_shown_not_obeyed(
    error: Exception,
    code: int,
    debug: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With and without the traceback."""

    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(cli_main.root, "main", fail)
    monkeypatch.setattr(sys, "argv", ["conch", *(["--debug"] if debug else [])])
    with pytest.raises(SystemExit) as ended:
        cli_main.main()
    printed = capsys.readouterr().err
    assert ended.value.code == code
    assert r"\x1b]0;owned\x07" in printed  # click takes colours out itself
    assert "\x1b" not in printed
    assert ("Traceback" in printed) is (debug and not isinstance(error, click.ClickException))


def test_log_lines_on_a_terminal_are_cleaned(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Values, and the text of an exception."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    try:
        log.configure(0)
        logger = structlog.get_logger()
        logger.warning("model.failed", reason=EVIL, error=ValueError(EVIL), paths=[EVIL])
        try:
            raise ValueError(EVIL)
        except ValueError:
            logger.exception("look.failed")
    finally:
        structlog.reset_defaults()
    printed = capsys.readouterr().err
    assert SHOWN in printed
    assert "ValueError" in printed
    assert "\x1b]0" not in printed
    assert not {"\x07", "\x9b", "\u202e", "\x08", "\r"} & set(printed)


def test_json_stays_json_whatever_is_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    """Control characters and lone surrogates are escaped; what is not finite is null."""
    data = {"a": EVIL, "b": "\udc9b\x80\u2028", "c": [float("nan"), (float("-inf"), 1.5)]}
    output.print_json(data)
    printed = capsys.readouterr().out
    assert printed.isascii()
    assert json.loads(printed, parse_constant=pytest.fail) == {
        "schema": 1, "a": EVIL, "b": "\udc9b\x80\u2028", "c": [None, [None, 1.5]],
    }  # fmt: skip


def test_every_command_prints_through_output() -> None:
    """A ``click.echo``, ``print`` or console of its own would let a terminal obey data."""
    found = []
    for path in sorted(Path(cli.__file__).parent.glob("*.py")):
        if path.name == "output.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                if name in ("print", "click.echo", "click.secho", "Console", "TextColumn"):
                    found.append(f"{path.name}:{node.lineno}: {name}")
    assert found == []


def test_clean_table_keeps_what_is_not_text() -> None:
    """A cell that is a renderable of ours stays."""
    inner = Table("x")
    outer = Table("y")
    outer.add_row(inner)
    assert list(clean_table(outer).columns[0].cells) == [inner]
