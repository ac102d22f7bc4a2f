"""The way of a scale-up, from scrape to write: so few files and lines that a reader can follow it.

``WAY`` is what one opens to see how the numbers of a scrape become the number in a config.
A real tick of ``ControlLoop`` that scales up is traced, with a Triton that is arithmetic, so that
the list cannot leave out what lies between:

- Each value that carries the scale-up on (``CARRIERS``), the write and the load are made with
  nothing of ``control`` on the stack but the way. One more layer in between fails the test.
- Each function of ``control`` that is called is of the way, or in a file that is ``BESIDE`` it for
  a reason.

Left out on purpose are the answers to one question each that the way asks by name and takes as one
value: how much comes (``Demand``, from the intervals between looks), how long a batch takes
(``Learnt``), what a count carries (``Knowledge``). Each has a page in ``docs/explanation/loop``.
Whoever opens these, too, reads more: a tick calls some sixty files, as it also learns, judges and
records. The way ends on both sides where ``serving`` and the wire begin: it asks for a page and for
statistics, and it asks the repository to write and the client to load.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any, cast

import pytest

import control
from control.act.actuator import Actuator
from control.core.types import Settings
from control.journal.writer import Journal
from control.loop import ControlLoop
from control.tick import Tick
from control.watch import sources
from control.watch.observe import Observer
from control.watch.sources import ScrapedCounters
from serving import model_config
from serving.client import TritonClient
from serving.model_config import ModelConfig
from serving.repository import Repository
from serving.statistics import BatchStat, ModelStatistics
from tests.unit.story import TRUE, a_policy

ROOT = Path(control.__file__).parent
MOST_FILES, MOST_LINES, MOST_MODULES = 12, 2000, 12
WAY = (
    "loop.py",  # a tick: survey, look, step, begin
    "watch/sources.py",  # the scrape
    "watch/observe.py",  # the look
    "core/types.py",  # the nouns: observation, proposal, decision
    "core/step.py",  # an event goes in, a decision comes out
    "core/memory/state.py",  # the look is remembered
    "core/decision/decide.py",  # the first proposer that speaks
    "core/decision/facts.py",  # what follows from the look
    "core/need/wanted.py",  # how many instances the load calls for
    "core/decision/instances.py",  # who proposes them
    "core/decision/guard.py",  # whether they may be had now
    "act/actuator.py",  # the write and the load
)
BESIDE = {
    "core/load/": "how much comes: one demand",
    "core/service/": "how long a batch takes: one curve, learnt from each look",
    "core/queue_model/": "what a count carries: one table",
    "core/judgement/": "whether the last change helped, and what burns: nothing here",
    "core/memory/bounds.py": "bounds that nobody wrote, and what tells of them",
    "core/memory/owner.py": "the owner's configuration, for those bounds",
    "core/memory/changes.py": "how long loading takes: one number",
    "core/memory/learning.py": "what the look teaches of service times",
    "core/need/base.py": "another batching: no count",
    "core/need/better_version.py": "another version: no count",
    "core/need/cached.py": "the response cache: no count",
    "core/need/hold.py": "for how long idle instances are held",
    "core/need/second_copy.py": "whether by a second copy: yes or no",
    "core/decision/bounds.py": "a proposer that does not speak",
    "core/decision/rebatch.py": "a proposer that does not speak",
    "core/decision/rollback.py": "a proposer that does not speak",
    "core/decision/version.py": "a proposer that does not speak",
    "core/decision/limits.py": "what was tried before, and the room: nothing, and enough",
    "core/decision/terms.py": "numbers for people",
    "core/decision/holds.py": "holds whatever the rule says: none here",
    "watch/machine.py": "gauges of the machine",
    "watch/shown.py": "the config that Triton shows",
    "act/around.py": "ensembles that the model is in: none",
    "act/baseline.py": "whose file is on disk: ours",
    "act/jobs.py": "runs what it is given, in a thread or alone",
    "act/knobs.py": "settings as fields of a config, and back",
    "act/outcome.py": "how it went: after the load",
    "act/proof.py": "probes: whether the model answers",
    "journal/": "the record",
    "endings.py": "changes that have ended: after the load",
    "tick.py": "what people are told",
    "freeze.py": "whether a person froze the model: no",
}
"""What is called and is not of the way, by the beginning of its path; and what it answers."""
WRAPPERS = frozenset({"act/jobs.py"})
"""May lie on the stack: they call what they are given."""
CARRIERS = frozenset(
    {
        "Sample",
        "Observation",
        "Wanted",
        "Proposal",
        "Guarded",
        "Decision",
        "InFlight",
        "Change",
    }
)
"""The values that carry a scale-up from the scrape to the actuator, in this order."""
CONFIG = """
name: "m" backend: "python" max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: [4] }
output { name: "y" data_type: TYPE_FP32 dims: [4] }
instance_group { count: 1 kind: KIND_CPU }
dynamic_batching { }
"""


def test_the_way_is_short() -> None:
    """In files, and in lines with all that is in them."""
    lines = sum(len((ROOT / name).read_text(encoding="utf-8").splitlines()) for name in WAY)
    assert len(set(WAY)) <= MOST_FILES
    assert lines <= MOST_LINES


def test_no_folder_is_too_large_to_look_over() -> None:
    """Whoever opens one sees what is there."""
    folders = {path.parent for path in ROOT.rglob("*.py")}
    counts = {
        str(folder.relative_to(ROOT)): sum(path.stem != "__init__" for path in folder.glob("*.py"))
        for folder in folders
    }
    assert {name: count for name, count in counts.items() if count > MOST_MODULES} == {}


def test_the_page_shows_the_way() -> None:
    """Whoever reads the page knows which files to open."""
    page = (ROOT.parent / "docs/explanation/control-loop.md").read_text(encoding="utf-8")
    shown = page.partition("from scrape to write in twelve files")[2].partition("PROPOSERS")[0]
    assert sorted(re.findall(r"[\w/]+\.py(?=[ ,\n])", shown.partition("```")[2])) == sorted(WAY)


@dataclass
class Triton:
    """Serves one model, by arithmetic: full batches of 8 up to what its instances carry."""

    repository: Repository
    at_s: float = 1000.0
    served: ModelConfig = field(default_factory=lambda: model_config.parse(CONFIG))
    done: float = 0.0
    pending: float = 0.0
    batches: int = 0
    trace: Trace | None = None

    def second(self, load_rps: float) -> None:
        """One more second of this load."""
        self.at_s += 1.0
        count = sum(group.count for group in self.served.instance_group)
        waiting = self.pending + load_rps
        answered = min(waiting, count * 8 / TRUE.of(8))
        self.pending, self.done = waiting - answered, self.done + answered
        self.batches += round(answered / 8)

    def page(self) -> str:
        """What ``/metrics`` says."""
        counters = {
            "nv_inference_request_success": self.done,
            "nv_inference_count": self.batches * 8,
            "nv_inference_exec_count": self.batches,
            "nv_inference_pending_request_count": self.pending,
        }
        return "".join(f'{name}{{model="m",version="1"}} {n}\n' for name, n in counters.items())

    def statistics(self, _: str) -> ModelStatistics:
        """What gRPC says."""
        stat = BatchStat(count=self.batches, busy_s=self.batches * TRUE.of(8))
        return ModelStatistics(
            inference_count=self.batches * 8,
            execution_count=self.batches,
            success_count=round(self.done),
            batches={8: stat} if self.batches else {},
            versions=(1,),
        )

    def config(self, _: str, **__: object) -> ModelConfig:
        """What is served."""
        return self.served

    def load(self, name: str, **_: object) -> None:
        """Load what is on disk."""
        if self.trace:
            self.trace.made("load", sys._getframe())
        self.served = self.repository.read_config(name)

    def infer(self, *_: object, **__: object) -> None:
        """Answer a probe."""

    def index(self) -> dict[str, str]:
        """All is ready."""
        return {"m": "READY"}


class Trace:
    """Which functions of ``control`` are called, and what is on the stack when a value is made."""

    def __init__(self) -> None:
        self.called: set[str] = set()
        self.stacks: dict[str, set[str]] = {}

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        """A profiler's."""
        if event != "call":
            return
        code = frame.f_code
        if name := _name(code.co_filename):
            self.called.add(name)
        elif code.co_name == "__init__" and code.co_filename == "<string>":  # a dataclass's
            kind = type(frame.f_locals["self"])
            if kind.__name__ in CARRIERS and kind.__module__.startswith("control."):
                self.made(kind.__name__, frame)
        elif code.co_name == "write_config" and code.co_filename.endswith("serving/repository.py"):
            self.made("write", frame)

    def made(self, what: str, frame: FrameType | None) -> None:
        """Remember what of ``control`` is on the stack."""
        files = self.stacks.setdefault(what, set())
        while frame is not None:
            if name := _name(frame.f_code.co_filename):
                files.add(name)
            frame = frame.f_back

    @contextmanager
    def on(self) -> Iterator[None]:
        """Trace this thread, and those that begin meanwhile."""
        threading.setprofile(self)
        sys.setprofile(self)
        try:
            yield
        finally:
            sys.setprofile(None)
            threading.setprofile(cast(Any, None))


def _name(filename: str) -> str:
    """The path below ``control``; empty for any other file."""
    path = Path(filename)
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else ""


@dataclass(frozen=True, kw_only=True)
class Rise:
    """A load after 200 requests a second, where one instance serves 667; and what follows."""

    load_rps: float
    reason: str


RISES = (
    Rise(load_rps=640.0, reason="SCALE_UP_LOAD"),
    Rise(load_rps=1500.0, reason="SCALE_UP_BACKLOG"),
)
CALM_S = 20


@pytest.fixture(scope="module", params=RISES, ids=lambda rise: rise.reason)
def traced(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """The trace of the one tick, of a model under a rising load, that scales it up."""
    with pytest.MonkeyPatch.context() as patch:
        return _traced(request.param, tmp_path_factory.mktemp("way"), patch)


def _traced(rise: Rise, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trace:
    """The same."""
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "config.pbtxt").write_text(CONFIG)
    repository = Repository(tmp_path)
    triton = Triton(repository)

    class Answers:
        """The page, without a network."""

        def __init__(self, **_: object) -> None: ...

        def send(self, *_: object, **__: object) -> Any:
            """It is there."""
            return SimpleNamespace(status_code=200, text=triton.page())

    monkeypatch.setattr(sources, "WholeAnswers", Answers)
    client = cast(TritonClient, triton)
    with Journal(tmp_path / "journal") as journal:
        loop = ControlLoop(
            policies={"m": a_policy()},
            observer=Observer(
                client,
                ScrapedCounters("http://127.0.0.1:1/metrics", clock=lambda: triton.at_s),
                repository,
            ),
            actuator=Actuator(repository, client),
            journal=journal,
            clock=lambda: triton.at_s,
        )
        for second in range(CALM_S + 10):
            triton.second(200.0 if second < CALM_S else rise.load_rps)
            triton.trace = trace = Trace()
            with trace.on() if second >= CALM_S else nullcontext():
                (tick,) = loop.tick()
            if tick.begun:
                loop.settle()  # the actuator's thread is traced to its end
                _is_a_scale_up(tick, repository.read_config("m"), rise)
                return trace
    raise AssertionError("nothing was begun")


def _is_a_scale_up(tick: Tick, config: ModelConfig, rise: Rise) -> None:
    """More instances for the load, and they are on disk."""
    decision = tick.decision
    assert decision.reason.name == rise.reason
    wanted, applied = cast(Settings, decision.desired), cast(Settings, decision.applied)
    assert wanted == replace(applied, instances=wanted.instances)
    assert config.instance_group[0].count == wanted.instances > applied.instances


def test_what_carries_a_scale_up_is_made_on_the_way(traced: Trace) -> None:
    """Nothing else of ``control`` is on the stack, up to the write and the load."""
    assert set(traced.stacks) == CARRIERS | {"write", "load"}
    beside = {what: files - set(WAY) - WRAPPERS for what, files in traced.stacks.items()}
    assert {what: files for what, files in beside.items() if files} == {}


def test_what_a_scale_up_calls_is_on_the_way_or_said_to_be_beside_it(traced: Trace) -> None:
    """And all of the way is called."""
    beside = traced.called - set(WAY)
    assert {name for name in beside if not name.startswith(tuple(BESIDE))} == set()
    assert set(WAY) <= traced.called
    unused = {start for start in BESIDE if not any(name.startswith(start) for name in beside)}
    assert unused == set()
