"""The reference pages are what the code says, and every command can be learnt from its help."""

from __future__ import annotations

import enum
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

from cli import reference
from conch import config_file, errors
from control.core.reasons import Clamp, Reason
from control.journal import advice
from control.policy_file import Budget, ModelPolicy, PolicyFile

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "reference"
COMMANDS = list(reference.commands())
IDS = [" ".join(path) for path, _ in COMMANDS]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages made anew, by a process that has run no command before: click keeps a command's
    help option from its first use.
    """
    folder = tmp_path_factory.mktemp("reference")
    subprocess.run(
        [sys.executable, "-m", "cli.reference", str(folder)], check=True, cwd=ROOT, timeout=60
    )
    return folder


@pytest.mark.parametrize("name", sorted(reference.PAGES))
def test_reference_page_is_fresh(fresh: Path, name: str):
    """Run `make docs` after changing a help text, a description, a reason or a clamp."""
    assert (PAGES / name).read_text(encoding="utf-8") == (fresh / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=IDS)
def test_command_has_help_and_an_example_of_itself(path: tuple[str, ...], command: click.Command):
    """The help says what it does, and shows a line that one can run."""
    text = reference.help_text(path, command)
    described, _, examples = text.partition("Example:")
    assert len(described.splitlines()) > 2
    assert re.search(rf"^ +{' '.join(path)}\b", examples, flags=re.MULTILINE), text


@pytest.mark.parametrize(("path", "command"), COMMANDS, ids=IDS)
def test_every_option_has_help(path: tuple[str, ...], command: click.Command):
    """An option without a word has to be guessed."""
    options = [param for param in command.params if isinstance(param, click.Option)]
    assert [option.opts[0] for option in options if not option.help] == []


def test_root_help_lists_every_command():
    """The list of `conch --help` is written by hand, because the commands load lazily."""
    names = {path[-1] for path, _ in COMMANDS if len(path) == 2}
    text = reference.help_text(*COMMANDS[0])
    assert all(re.search(rf"^  {name} ", text, flags=re.MULTILINE) for name in names)


@pytest.mark.parametrize(("kind", "todo"), [(Reason, advice.REASONS), (Clamp, advice.CLAMPS)])
def test_every_reason_and_clamp_has_advice(kind: type[enum.Enum], todo: dict[enum.Enum, str]):
    """None without a row, no row without a member."""
    assert set(todo) == set(kind)


def test_every_key_of_a_policy_is_described():
    """An empty cell would say nothing."""
    for section in (PolicyFile, Budget, ModelPolicy):
        assert [key for key, field in section.model_fields.items() if not field.description] == []


def test_policy_of_the_reference_is_valid():
    """What people copy must work."""
    found = re.search(r"```yaml\n(.*?)```", reference.policy_page(), flags=re.DOTALL)
    assert found is not None
    policy = config_file.loads(found[1], PolicyFile, source="policy.md")
    assert policy.policy_of("minilm_int8", cores=4).slo_s == 0.05


def test_exit_codes_page_has_every_error():
    """Each exit code of an error class has a row."""
    page = (PAGES / "exit-codes.md").read_text(encoding="utf-8")
    codes = {error.exit_code for error in _subclasses(errors.ConchError)} | {0, 2, 130}
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", page, flags=re.MULTILINE)} == codes


def _subclasses(kind: type[errors.ConchError]) -> list[type[errors.ConchError]]:
    """The class and everything below it that was imported."""
    return [kind, *(found for below in kind.__subclasses__() for found in _subclasses(below))]
