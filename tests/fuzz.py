"""Seeded mutations of all that is stored and read from outside: ``python -m tests.fuzz --count N``.

Each target makes one mutation and lets the product read it. An error of the product's own is an
answer; whatever else comes out is raised. A seed that failed is printed and makes the same again.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import time
from collections import Counter
from collections.abc import Callable

import structlog

from tests import fuzz_config, fuzz_journal, fuzz_outside, fuzz_state

Target = Callable[[random.Random], object]
"""One mutation; gives whether it was refused with an error of the product's own."""

TARGETS: dict[str, Target] = {
    **fuzz_config.TARGETS,
    **fuzz_journal.TARGETS,
    **fuzz_outside.TARGETS,
    **fuzz_state.TARGETS,
}
if importlib.util.find_spec("tests.fuzz_yaml") is not None:
    TARGETS.update(importlib.import_module("tests.fuzz_yaml").TARGETS)


def tried(name: str, *, count: int, first_seed: int = 0) -> tuple[int, dict[str, tuple[int, int]]]:
    """How many of so many mutations were refused; and of each kind of raw exception, how many and
    the first seed."""
    refused, kinds, seeds = 0, Counter[str](), dict[str, int]()
    for seed in range(first_seed, first_seed + count):
        try:
            refused += bool(TARGETS[name](random.Random(f"{name} {seed}")))
        except Exception as error:
            kind = f"{type(error).__name__}: {str(error)[:120]}"
            kinds[kind] += 1
            seeds.setdefault(kind, seed)
    return refused, {kind: (number, seeds[kind]) for kind, number in kinds.items()}


def main() -> None:
    """Print a table; exit 1 where a raw exception came out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="mutations of each target")
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    parser.add_argument("--target", action="append", choices=sorted(TARGETS), default=[])
    chosen = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    raw = 0
    print(f"{'target':<16}{'tries':>8}{'refused':>9}{'raw':>6}{'seconds':>9}")
    for name in chosen.target or sorted(TARGETS):
        begun_s = time.monotonic()
        refused, kinds = tried(name, count=chosen.count, first_seed=chosen.seed)
        bad = sum(number for number, _ in kinds.values())
        spent_s = time.monotonic() - begun_s
        print(f"{name:<16}{chosen.count:>8}{refused:>9}{bad:>6}{spent_s:>9.0f}", flush=True)
        for kind, (number, seed) in kinds.items():
            print(f"    {number} × {kind} (--target {name} --seed {seed} --count 1)", flush=True)
        raw += bad
    raise SystemExit(1 if raw else 0)


if __name__ == "__main__":
    main()
