"""Policies and recipes as a broken disk, a hasty hand or a hostile friend writes them.

Each target makes one seeded mutation and lets the product read it. A ``ConchError`` is an answer;
whatever else comes out is raised.
"""

from __future__ import annotations

import contextlib
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from conch.errors import ConchError, ConfigError
from control import policy_file
from export import recipe
from export.source_files import source_files

EXAMPLES = Path(__file__).parents[1] / "examples"
RICH_POLICY = """\
version: 1
tick: 200ms
prometheus: http://127.0.0.1:9090
prometheus_instance: triton:8002
arrivals: gateway_requests_total{model="MODEL"}
keep_journal: 168h
budget: {instances: 8, cores: 4.5, memory_mib: 4096}
defaults: &base
  slo: 80ms
  headroom: 1.5
models:
  a: {<<: *base, rule: hpa-utilisation, rule_options: {target: 0.6}, versions: [2, 1]}
  b: {min_instances: 2, max_instances: 5, weight: 2.5, response_cache: true}
  c:
"""
ODD = (
    *("null", "~", "true", "yes", "[]", "{}", "''", "0", "-1", "1.5", ".nan", ".inf", "-.inf"),
    *("1.0e+308", "9" * 30, "9" * 5000, "1e400", "0x7fffffffffffffff", "0b_", "0o9", "1:60:60"),
    *("2001-99-99", "2001-01-01T99:00:00Z", "2001-01-01", "!!float x", "!!bool x", "!!int x"),
    *("!!timestamp x", "!!binary x", "!!python/object:os.system x", "!!set {a, a}", "!!omap [1]"),
    *("!!pairs [a: 1]", "=", "<<", "*base", "&x [*x]", "? [a]", "{[a]: 1}", "{? {a: 1} : 2}"),
    *("[" * 80, "{a: " * 80, "- " * 60, "'unclosed", '"\\ud800"', '"\\x1b]0;x"', "|\n  text"),
    *("'~nobody/x'", "/proc/1/cwd", "/dev/zero", "y" * 5000, '"\\0"'),
    *("\x00", "\ufeff", "\u2028", "\x85", "\t", "%YAML 9.9", "---", "...", "!<tag> x", "100", "٣"),
    *("10s", "999999999999999999h", "9" * 400 + "s", "1" + "0" * 25, "-0", "a\u202eb", "[/red]"),
)  # fmt: skip
BYTES = (
    b"\xff",
    b"\xfe",
    b"\x00",
    b"\x80",
    b"\xc3",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
    b"\r",
    b"\t",
)


def _texts(pattern: str) -> list[str]:
    return [path.read_text(encoding="utf-8") for path in sorted(EXAMPLES.glob(pattern))]


POLICIES = [*_texts("*/policy.yaml"), RICH_POLICY]
RECIPES = _texts("*/recipe.yaml")


def mutated(text: str, draw: random.Random) -> bytes:
    """The text after one to four changes: to its bytes, its lines or its structure."""
    content = text.encode()
    if draw.random() < 0.4:
        data = yaml.safe_load(text)
        for _ in range(draw.choice((1, 1, 3))):
            _change(data, draw)
        content = _dumped(data).encode("utf-8", "surrogatepass")
        if draw.random() < 0.8:
            return content
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        content = draw.choice((_bytes, _bytes, _line, _value))(content, draw)
    return content


def _bytes(content: bytes, draw: random.Random) -> bytes:
    """A byte flipped, put in, taken out, or a piece repeated or cut."""
    at = draw.randrange(len(content) + 1)
    to = min(len(content), at + draw.randint(1, 12))
    put = draw.choice((bytes([draw.randrange(256)]), draw.choice(BYTES), b"", content[at:to] * 2))
    if draw.random() < 0.05:
        return content[:at]
    return content[:at] + put + content[to if draw.random() < 0.5 else at :]


def _line(content: bytes, draw: random.Random) -> bytes:
    """A line twice, gone, elsewhere, or indented otherwise."""
    lines = content.split(b"\n")
    at, to = draw.randrange(len(lines)), draw.randrange(len(lines))
    kind = draw.randrange(4)
    if kind == 0:
        lines.insert(to, lines[at])
    elif kind == 1:
        del lines[at]
    elif kind == 2:
        lines[at], lines[to] = lines[to], lines[at]
    else:
        lines[at] = draw.choice((b" ", b"\t", b"   - ")) + lines[at]
    return b"\n".join(lines)


def _value(content: bytes, draw: random.Random) -> bytes:
    """The value of a line is an odd one."""
    lines = content.split(b"\n")
    at = draw.randrange(len(lines))
    key, colon, _ = lines[at].partition(b":")
    lines[at] = key + (colon or b":") + b" " + draw.choice(ODD).encode("utf-8", "surrogatepass")
    return b"\n".join(lines)


class _Raw(str):
    """YAML that is written as it stands."""


def _dumped(data: Any) -> str:
    """Flow style, so that odd values may stand anywhere."""
    if isinstance(data, _Raw):
        return str(data)
    if isinstance(data, dict):
        return "{" + ", ".join(f"{_dumped(k)}: {_dumped(v)}" for k, v in data.items()) + "}"
    if isinstance(data, list):
        return "[" + ", ".join(map(_dumped, data)) + "]"
    return yaml.safe_dump(data, default_flow_style=True, width=10**6).removesuffix("...\n").strip()


def _change(data: Any, draw: random.Random) -> None:
    """One place of the structure is odd, gone, doubled, or holds what another place holds."""
    places = [(data, key) for key in data]
    places += [place for value in data.values() for place in _places(value)]
    holder, key = draw.choice(places)
    kind = draw.randrange(5)
    if kind <= 1:
        holder[key] = _Raw(draw.choice(ODD))
    elif kind == 2:
        del holder[key]
    elif kind == 3:
        other, at = draw.choice(places)
        if not list(_places(other[at] if _has(other, at) else None)):
            holder[key] = other[at] if _has(other, at) else None
    elif isinstance(holder, dict):
        name = draw.choice(("slo", "steps", "<<", "versions", "dims", _Raw("1"), _Raw("true")))
        holder[name] = _Raw(draw.choice(ODD))
    else:
        holder.append(_Raw(draw.choice(ODD)))


def _has(holder: Any, key: Any) -> bool:
    return key in holder if isinstance(holder, dict) else key < len(holder)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every place below, as its holder and its key."""
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list):
        pairs = list(enumerate(value))
    else:
        return []
    return [
        *((value, key) for key, _ in pairs),
        *(place for _, inner in pairs for place in _places(inner)),
    ]


def _read(content: bytes, use: Callable[[Path], object]) -> bool:
    """Let the product read a file of this content; gives whether it was refused."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file.yaml"
        path.write_bytes(content)
        try:
            use(path)
        except ConchError as error:
            if error.exit_code != 3 or "file.yaml" not in error.message:
                raise AssertionError(f"no file or another exit code in: {error!r}") from error
            return True
    return False


def _use_policy(path: Path) -> None:
    """All that `conch control run` does with a policy before the first look."""
    read = policy_file.load(path)
    read.budget.typed()
    for name in (*read.models, "another"):
        read.policy_of(name, cores=4)
        with contextlib.suppress(ConfigError):  # of a rule, which knows no file
            read.rule_of(name)


def _use_recipe(path: Path) -> None:
    """All that `conch export plan` does with a recipe's text."""
    read = recipe.load(path)
    recipe.as_dict(read)
    with contextlib.suppress(ConfigError):  # of a file that is not there
        source_files(path, read)
    for variant in read.variants:
        read.gates_of(variant)
        read.published_name(variant)


def policy(draw: random.Random) -> bool:
    """A policy, once; gives whether it was refused."""
    return _read(mutated(draw.choice(POLICIES), draw), _use_policy)


def recipe_(draw: random.Random) -> bool:
    """A recipe, once; gives whether it was refused."""
    return _read(mutated(draw.choice(RECIPES), draw), _use_recipe)


TARGETS: dict[str, Callable[[random.Random], object]] = {"policy": policy, "recipe": recipe_}


def main() -> None:
    """Run each target so many times: tries, refused, and raw exceptions with their seeds."""
    tries = int(sys.argv[1])
    for name, target in TARGETS.items():
        seen: Counter[str] = Counter()
        for seed in range(tries):
            try:
                seen["refused" if target(random.Random(seed)) else "read"] += 1
            except Exception as error:
                kind = f"{type(error).__name__}: {str(error)[:150]}"
                seen["raw"] += 1
                if seen[kind] == 0:
                    print(f"{name}, seed {seed}: {kind}")
                seen[kind] += 1
        print(f"{name}: {tries} tries, {seen['refused']} refused, {seen['raw']} raw exceptions")


if __name__ == "__main__":
    main()
