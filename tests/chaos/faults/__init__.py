"""Every fault that is injected, by name."""

from __future__ import annotations

from collections.abc import Mapping

from tests.chaos.fault import Fault
from tests.chaos.faults import disk, edits, journal, pages, processes, writers

KINDS: Mapping[str, type[Fault]] = {
    kind.name: kind
    for module in (processes, writers, pages, journal, edits, disk)
    for kind in module.FAULTS
}
