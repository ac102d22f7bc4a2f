"""What the pages tell people to type exists, and what they link to is there."""

from __future__ import annotations

import contextlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from cli import main as command_line

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "model_repository" / "README.md",
    ROOT / "examples" / "traces" / "README.md",
]
RUN = [
    ["conch", "doctor", "--json"],
    ["conch", "--help"],
    ["conch", "control", "--help"],
]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def shell_lines(page: Path) -> Iterator[list[str]]:
    """The commands of a page's ``sh`` blocks, one by one."""
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words: list[str] = []
            lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
            lexer.whitespace_split = True
            for word in lexer:
                if word in ("|", "||", "&", "&&", ";", ">", ">>"):
                    yield words
                    words = []
                else:
                    words.append(word)
            yield words


def lines_of(program: str) -> list[tuple[str, list[str]]]:
    """(page, command) for every command of the pages that calls this program."""
    return [
        (str(page.relative_to(ROOT)), words)
        for page in PAGES
        for words in shell_lines(page)
        if words and Path(words[0]).name == program
    ]


def parse(words: list[str]) -> None:
    """Let click take the words as it would, without running the command.

    Raises:
        click.UsageError: when a command, an option, a value or an argument is not right.
    """
    command: click.Command = command_line.root
    context: click.Context | None = None
    name, arguments = words[0], words[1:]
    while True:
        context = command.make_context(name, list(arguments), parent=context)
        if not isinstance(command, click.Group):
            return
        rest = [*context._protected_args, *context.args]
        found_name, found, arguments = command.resolve_command(context, rest)
        assert found is not None
        name, command = found_name or "", found


@pytest.mark.parametrize(("page", "words"), lines_of("conch"))
def test_conch_command_of_a_page_parses(page: str, words: list[str]):
    """Every command, option and argument is known, and nothing required is missing."""
    with contextlib.suppress(click.exceptions.Exit):  # --help and --version end with it
        try:
            parse(words)
        except click.UsageError as error:
            pytest.fail(f"{page}: {' '.join(words)}: {error.format_message()}")


@pytest.mark.parametrize("line", ["conch no-such", "conch serve --no-such", "conch perf run"])
def test_parse_refuses_what_conch_would_refuse(line: str):
    """The check above can fail."""
    with pytest.raises(click.UsageError):
        parse(line.split())


@pytest.mark.parametrize(("page", "words"), lines_of("make"))
def test_make_target_of_a_page_exists(page: str, words: list[str]):
    """The Makefile has every target that a page names."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    known = set(re.findall(r"^([a-z-]+):", makefile, flags=re.MULTILINE))
    assert {word for word in words[1:] if "=" not in word} <= known, page


def test_readme_has_the_two_commands():
    """All that a newcomer must know."""
    named = [words for page, words in lines_of("make") if page == "README.md"]
    assert ["make", "demo"] in named
    assert ["make", "test"] in named


@pytest.mark.parametrize("words", RUN, ids=" ".join)
def test_cheap_command_of_the_readme_runs(words: list[str]):
    """It is in the README, and ends well."""
    assert ("README.md", words) in lines_of("conch")
    program = "import sys; from cli.main import main; sys.argv[0] = 'conch'; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, *words[1:]],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_to_files(page: Path):
    """Nothing that a page refers to is missing."""
    targets = [t.partition("#")[0] for t in LINK.findall(page.read_text(encoding="utf-8"))]
    local = [target for target in targets if target and "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []


def headings(page: Path) -> set[str]:
    """The anchors that a renderer makes of a page's headings."""
    lines = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_anchors_that_a_page_links_to_are_headings(page: Path):
    """A link into the middle of a page ends there, and not at its top."""
    links = [t for t in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in t]
    parts = [(t.partition("#")[0], t.partition("#")[2]) for t in links if "#" in t]
    targets = [(page.parent / path if path else page, anchor) for path, anchor in parts]
    lost = [(t.name, a) for t, a in targets if t.suffix == ".md" and a not in headings(t)]
    assert lost == []


def test_readme_links_every_page():
    """Nobody has to search the tree for a page."""
    linked = {
        (ROOT / target.partition("#")[0]).resolve()
        for target in LINK.findall(README.read_text(encoding="utf-8"))
        if "://" not in target
    }
    assert {page.resolve() for page in PAGES} - {README.resolve()} <= linked


def test_policies_of_the_how_to_are_valid():
    """What people copy must work."""
    from conch import config_file
    from control.policy_file import PolicyFile

    page = (ROOT / "docs/how-to/run-control.md").read_text(encoding="utf-8")
    found = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    policies = [config_file.loads(text, PolicyFile, source="page") for text in found]
    assert "minilm_int8" in policies[0].models
    assert policies[1].budget.instances is not None


def test_environment_page_has_every_variable_of_the_code():
    """A variable that the code reads has a row."""
    page = (ROOT / "docs/reference/config-layout.md").read_text(encoding="utf-8")
    packages = ("cli", "conch", "control", "demo", "export", "perf", "serving", "examples")
    used = {
        name
        for package in packages
        for path in (ROOT / package).rglob("*.py")
        for name in re.findall(r"\bCONCH_[A-Z_]+\b", path.read_text(encoding="utf-8"))
    }
    assert used == set(re.findall(r"^\| `(CONCH_[A-Z_]+)`", page, flags=re.MULTILINE))
