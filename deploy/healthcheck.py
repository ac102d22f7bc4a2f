"""Exit 0 while the control loop ticks: its newest decision in the journal is young.

A loop that only holds, because Triton does not answer, is alive and stays healthy.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from conch.errors import ConchError
from control.journal.writer import Journal
from control.session import journal_path
from serving.repository import Repository

OLDEST_S = 60.0
"""Longer than a reload usually takes: there are no ticks while a change is applied."""


def newest_age_s(repository: Path) -> float:
    """Seconds since the newest decision for any model; infinite when there is none.

    Raises:
        ConchError: when there is no repository or no journal.
    """
    with Journal(journal_path(Repository(repository)), read_only=True) as journal:
        at_s = [e.decision.at_s for m in journal.models() for e in journal.entries(m, last=1)]
    return time.time() - max(at_s, default=float("-inf"))


def main(repository: str) -> int:
    """Print what was found; gives the exit code."""
    try:
        age_s = newest_age_s(Path(repository))
    except ConchError as error:
        print(error)
        return 1
    print(f"newest decision: {age_s:.1f} s ago, allowed are {OLDEST_S:g} s")
    return 0 if age_s <= OLDEST_S else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
