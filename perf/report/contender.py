"""What a report compares: for each contender a replay of the same trace, and what was set when."""

from __future__ import annotations

from dataclasses import dataclass

from perf import slo
from perf.replay_result import ReplayResult


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelinePoint:
    """The settings in force from ``at_s`` (seconds on the trace's clock) on.

    Attributes:
        at_s: When they came into force.
        instances: Instance count.
        max_batch_size: Largest batch that the dynamic batcher makes; 1 without dynamic batching.
        max_queue_delay_s: How long the batcher waits for more requests.
    """

    at_s: float
    instances: int
    max_batch_size: int
    max_queue_delay_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Marker:
    """A decision to show on the time axis.

    Attributes:
        at_s: When it was taken, seconds on the trace's clock.
        label: What it did and why, in a few words.
        kind: ``instances``, ``batching``, ``rollback`` or anything else; chooses the shape.
    """

    at_s: float
    label: str
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ContenderResult:
    """One contender's run.

    Attributes:
        name: How figures and tables call it.
        replay: What the requests met.
        timeline: The settings, ascending in time; the first point holds from the start.
        decisions: What it decided, ascending in time.
    """

    name: str
    replay: ReplayResult
    timeline: tuple[TimelinePoint, ...]
    decisions: tuple[Marker, ...] = ()

    @property
    def instance_seconds(self) -> float:
        """Instances integrated over the trace's duration: the cost of the run."""
        steps = tuple((point.at_s, point.instances) for point in self.timeline)
        return slo.instance_seconds(steps, self.replay.duration_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class VariantRow:
    """One exported variant in the report's table.

    Attributes:
        name: The variant's name.
        size_bytes: Its size on disk.
        latency_ms: One inference, milliseconds.
        fidelity: Agreement with the original, 0 to 1.
        accepted: Whether it passed its gates.
        note: Why not, or anything worth a word.
    """

    name: str
    size_bytes: int
    latency_ms: float
    fidelity: float
    accepted: bool
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportMeta:
    """What the page says about itself.

    Attributes:
        title: The heading.
        hardware: Processor, cores, memory and server version, in one line.
        date: When it was measured.
        command: What to type to repeat it.
        notes: Sentences for the section on how it was measured.
    """

    title: str
    hardware: str
    date: str
    command: str
    notes: tuple[str, ...] = ()
