"""Whatever stands in a policy or a recipe: one error with its line, and never a long wait."""

from __future__ import annotations

import random
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from conch import config_file, yaml_reader
from conch.errors import ConfigError
from conch.units import OBJECTIVE, parse_duration, parse_objective, parse_size
from control import policy_file
from control.policy_file import PolicyFile
from export import recipe
from tests import fuzz_yaml

TRIES = 300


def refused(text: str) -> ConfigError:
    """The error of a policy of this text."""
    with pytest.raises(ConfigError) as caught:
        config_file.loads(text, PolicyFile, source="p.yaml")
    assert caught.value.exit_code == 3
    return caught.value


def refused_file(tmp_path: Path, content: bytes) -> ConfigError:
    """The error of a policy file of these bytes."""
    path = tmp_path / "p.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        policy_file.load(path)
    return caught.value


@pytest.mark.parametrize(
    "value",
    [
        "0b_", "2001-99-99", "!!float x", "!!bool x", "!!timestamp x", "!!int x", "9" * 5000,
        "!!binary é", "!!python/object/apply:os.system [id]", "!<tag:x> y", "=", "9" * 30,
        "[" * 60 + "]" * 60, "{[a]: 1}", "*nobody", "&a [*a]", "'open", "%x", "@", "\t- x",
        "\x00", "\x07", "\x9b", r'"\0"', r'"a\ud800"', r'{"\0": 1}',
    ],
)  # fmt: skip
def test_whatever_pyyaml_raises_has_a_file_and_a_line(value: str) -> None:
    """ValueError, KeyError, AttributeError, RecursionError among them."""
    message = refused(f"version: 1\nmodels:\n  a: {value}\n").message
    assert message.startswith(("p.yaml:3: not valid YAML", "p.yaml:4: not valid YAML")), message
    assert len(message) < 300


@pytest.mark.parametrize("depth", [100, 1000, 100_000])
@pytest.mark.parametrize("piece", ["[", "{a: ", "- ", "? "])
def test_deep_nesting_is_refused_at_once(piece: str, depth: int) -> None:
    """Python's stack is not the limit."""
    assert (
        "nested more than 50 deep"
        in refused(f"a: {piece * depth}" if piece in "[{a: " else piece * depth).message
    )


def bomb(merge: str) -> str:
    """Each line names the one before nine times: 9 ** 9 at the end."""
    lines = ["m0: &m0 {slo: 1s}"]
    lines += [merge.format(n=n, names=", ".join([f"*m{n - 1}"] * 9)) for n in range(1, 10)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    "merge",
    ["m{n}: &m{n} {{<<: [{names}]}}", "m{n}: &m{n} [{names}]", "m{n}: &m{n} {{a: [{names}]}}"],
)
def test_bombs_of_merges_and_aliases_are_refused_at_once(merge: str) -> None:
    """Time goes with what the file says when it is written out, and that is bounded."""
    assert "more than 100,000 keys and values" in refused(bomb(merge)).message


def test_anchors_and_merges_of_usual_size_work() -> None:
    """They are what YAML files are kept short with."""
    text = "defaults: &d {slo: 1s}\nmodels:\n  a: {<<: *d, weight: 2}\n  b: {<<: [*d], slo: 2s}\n"
    read = config_file.loads(text, PolicyFile, source="p.yaml")
    assert (read.models["a"].slo, read.models["b"].slo) == (1.0, 2.0)


def test_a_fault_in_what_was_merged_names_the_line_of_the_key_that_counts() -> None:
    """An own key outweighs the merged one, and its line is told."""
    text = "x: &d {slo: fast}\nmodels:\n  a:\n    <<: *d\n    slo: slow\n  b: {<<: *d}\n"
    message = refused(text).message
    assert "p.yaml:5: models.a.slo = 'slow'" in message
    assert "p.yaml:1: models.b.slo = 'fast'" in message


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("models:\n  a: {slo: 1s}\n  b:\n  'a': {slo: 2s}\n", (4, 2)),
        ("tick: 1s\nversion: 1\ntick: 2s\n", (3, 1)),
        ("models: {a: {slo: 1s, slo: 2s}}\n", (1, 1)),
    ],
)
def test_a_key_written_twice_is_refused_with_both_lines(text: str, lines: tuple[int, int]) -> None:
    """YAML's readers take the last one without a word."""
    message = refused(text).message
    assert message.startswith(f"p.yaml:{lines[0]}: ")
    assert f"is written twice, first in line {lines[1]}" in message


def test_a_file_that_is_not_utf8_says_so(tmp_path: Path) -> None:
    """The line, the byte and what to do; the permissions are fine."""
    error = refused_file(tmp_path, b"version: 1\n# gr\xfc\xdfe\n")
    assert ":2: not UTF-8 (byte 0xfc)" in error.message
    assert "UTF-8" in error.hint
    assert "not UTF-8" in refused_file(tmp_path, "version: 1".encode("utf-16")).message


def test_a_byte_order_mark_and_line_ends_of_windows_are_no_fault(tmp_path: Path) -> None:
    """Editors write them."""
    path = tmp_path / "p.yaml"
    path.write_bytes(b"\xef\xbb\xbfversion: 1\r\ntick: 2s\r\n")
    assert policy_file.load(path).tick == 2.0


def test_odd_files_are_refused_with_their_reason(tmp_path: Path) -> None:
    """Tabs, NUL, too large, endless, empty, a folder."""
    tabs = refused_file(tmp_path, b"models:\n\ta: {slo: 1s}\n")
    assert ":2: " in tabs.message
    assert "spaces" in tabs.hint
    assert ":2: not valid YAML" in refused_file(tmp_path, b"tick: 1s\nx: \x00\n").message
    assert "larger than 1 MiB" in refused_file(tmp_path, b"#" * (2**20 + 1)).message
    assert "empty" in refused_file(tmp_path, b"# nothing\n").message
    for path in (Path("/dev/zero"), tmp_path, tmp_path / "x\x00y"):
        with pytest.raises(ConfigError):
            policy_file.load(path)


def test_a_thousand_models_are_no_bomb() -> None:
    """The bounds are far from what people write."""
    lines = [
        f"  m{n}: {{slo: 50ms, max_instances: 4, weight: 2, cooldown: 9s}}" for n in range(1000)
    ]
    text = "\n".join(["models:", *lines])
    assert len(text) < yaml_reader.MAX_BYTES / 10
    assert len(config_file.loads(text, PolicyFile, source="p.yaml").models) == 1000


def test_a_thousand_faults_are_not_a_thousand_lines() -> None:
    """The first twenty, and how many there are."""
    text = "\n".join(["models:", *(f"  m{n}: {{slo: {'x' * 500}}}" for n in range(1000))])
    message = refused(text).message
    assert len(message.splitlines()) == config_file.MOST_FAULTS + 1
    assert "and 980 more" in message
    assert len(message) < 10_000


@pytest.mark.parametrize(
    "line",
    [
        "defaults: {margin: .nan}",
        "defaults: {weight: .inf}",
        "defaults: {target: .nan}",
        "defaults: {cores: 1.0e+308}",
        "defaults: {max_batch_size: 4294967296}",
        "defaults: {max_batch_size: '99999999999'}",
        "defaults: {min_instances: 99999999999}",
        "defaults: {versions: [99999999999]}",
        "defaults: {cooldown: .inf}",
        "defaults: {cooldown: 1.0e+300}",
        f"defaults: {{cooldown: {'9' * 400}h}}",
        "defaults: {rule_options: {target: .nan}}",
        "budget: {cores: .inf}",
        "models: {1: {}}",
        "models: {true: {}}",
        "models: {~: {}}",
        "models: {'a\x1b': {}}",
        "on: 1",
        "1: 1",
    ],
)
def test_numbers_and_names_that_fit_nothing_are_refused(line: str) -> None:
    """NaN, infinity, what no field of Triton's config holds, keys that are no names."""
    assert "p.yaml" in refused(line).message


def test_a_number_without_a_unit_is_no_objective_of_minutes() -> None:
    """`slo: 100` means milliseconds to everybody but the file."""
    for value in ("100", "'100'", "11", "100.0"):
        message = refused(f"defaults: {{slo: {value}}}").message
        assert "p.yaml:1: defaults.slo" in message
        assert "ms, or" in message
    assert parse_objective("100s") == 100.0
    assert parse_objective("2m") == 120.0
    assert parse_objective(2) == 2.0
    assert parse_objective(0.05) == 0.05
    assert parse_duration(30) == 30.0  # other durations may be bare


def test_an_objective_on_the_command_line_is_no_bare_number_either() -> None:
    """The same rule, by click's usage error."""

    @click.command()
    @click.option("--slo", type=OBJECTIVE)
    def command(slo: float) -> None:
        click.echo(slo)

    wrong = CliRunner().invoke(command, ["--slo", "100"])
    assert wrong.exit_code == 2
    assert "100ms" in wrong.output
    assert CliRunner().invoke(command, ["--slo", "100ms"]).output == "0.1\n"


@pytest.mark.parametrize("value", [10**400, "9" * 400, 1e300, float("nan"), "9" * 400 + "GiB"])
def test_units_refuse_what_no_float_holds(value: object) -> None:
    """A ValueError, which is what a file's reader turns into a line."""
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(value)
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(value)


def test_bytes_may_be_more_than_32_bits_hold() -> None:
    """A workspace of 8 GiB is usual."""
    from export.steps.to_tensorrt import ToTensorrt

    assert ToTensorrt(workspace="8GiB").workspace == 2**33


@pytest.mark.parametrize("name", sorted(fuzz_yaml.TARGETS))
def test_mutated_files_are_read_or_refused(name: str) -> None:
    """No other exception; the seed is in the message."""
    refusals = 0
    for seed in range(TRIES):
        try:
            refusals += bool(fuzz_yaml.TARGETS[name](random.Random(seed)))
        except Exception as error:
            raise AssertionError(f"target {name}, seed {seed}: {error!r}") from error
    assert TRIES / 4 < refusals < TRIES  # mutations that nothing reads, or all, test nothing


def test_the_examples_are_read_as_they_are() -> None:
    """What is mutated is good before."""
    for text in fuzz_yaml.POLICIES:
        config_file.loads(text, PolicyFile, source="p.yaml")
    for text in fuzz_yaml.RECIPES:
        recipe.loads(text)
