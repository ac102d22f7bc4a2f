"""What a broken disk, another program or a hostile hand leaves in a repository's state.

The targets of ``tests.fuzz`` for the journal, revisions, configs, freezes, the epoch, what was
learnt, pages of metrics and a Prometheus' answers.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import random
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from conch.errors import ConchError
from control import codec, freeze, replay
from control.core.state import ControlState
from control.core.step import Looked, Started, step
from control.journal import Journal, OnTrouble
from control.lease import Fenced, sole_writer
from control.observe import settings_of, threads_of
from control.sources import PrometheusCounters
from serving import check, ensembles, metrics, model_config
from serving.repository import Repository
from tests.fuzz_mutate import deep, of_bytes, of_value
from tests.unit.story import Story
from tests.unit.test_journal import ACTION
from tests.unit.test_replay import POLICY, RULE, Recorder

EXAMPLES = Path(__file__).parents[1] / "examples"
SHARED = Path("/dev/shm")  # noqa: S108  # a file system in memory, where there is one


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """A new one."""
    with tempfile.TemporaryDirectory(dir=SHARED if SHARED.is_dir() else None) as folder:
        yield Path(folder)


def _refused(use: Callable[[], object]) -> bool:
    """Whether it was refused in the product's own words."""
    try:
        use()
    except ConchError:
        return True
    return False


# --- the journal -----------------------------------------------------------------------------


@functools.cache
def _journal() -> bytes:
    """A small one with a bit of everything."""
    with _folder() as folder:
        with Journal(folder / "j") as journal:
            recorder = Recorder(journal, Story(policy=POLICY))
            recorder.starts()
            recorder.passes(4, 100)
            recorder.passes(4, 900)
            journal.checkpoint("m", recorder.state, at_s=recorder.story.at_s)
            recorder.passes(4, 900)
            for at_s in (1.0, 2.0):
                handle = journal.begin("m", recorder.decisions[-1], at_s=at_s)
                journal.end(handle, ACTION, at_s=at_s)
            journal.begin("m", recorder.decisions[-1], at_s=3.0)
            learnt = recorder.state.to_plain(at_s=recorder.story.at_s)
            journal.save_learnt({"m": learnt}, at_s=3.0)
            recorder.starts()
            recorder.passes(2, 100)
        return (folder / "j").read_bytes()


def _ask(path: Path) -> bool:
    """All that readers ask; whether any of it was refused."""
    refused = [_refused(lambda: _questions(path)), _refused(lambda: _replays(path))]
    return any(refused)


def _questions(path: Path) -> None:
    with Journal(path, read_only=True) as read:
        for name in [*read.models(), "m"]:
            list(read.entries(name))
            list(read.entries(name, last=1, until_s=1e9))
            read.last_change(name)
            read.learnt(name)
            read.tried(name, since_s=0.0)
        read.entry("m", "t1")
        read.actions()


def _replays(path: Path) -> None:
    with Journal(path, read_only=True) as read:
        for run in read.runs():
            for name in run.policies:
                rule, policy = replay.rule_of(run, name)
                replay.replay(read.records(run.id, name), rule, policy)


def _goes_on(path: Path) -> None:
    """A controller starts with it, whatever is in it, and writes."""
    with Journal(path, on_trouble=OnTrouble.BEGIN_ANEW) as journal:
        recorder = Recorder(journal, Story(policy=POLICY))
        journal.start_run(
            at_s=1.0, mode="active", policies={"m": POLICY}, rules={"m": RULE}, tick_s=1.0
        )
        recorder.starts()
        recorder.passes(1, 100)
        journal.end(journal.begin("m", recorder.decisions[0], at_s=1.0), ACTION, at_s=2.0)
        assert not journal._written.queue.rows
    with Journal(path, read_only=True) as read:
        assert next(iter(read.entries("m", last=1))).decision == recorder.decisions[0]


def journal_bytes(draw: random.Random) -> bool:
    """The file's bytes."""
    with _folder() as folder:
        (folder / "j").write_bytes(of_bytes(_journal(), draw))
        refused = _ask(folder / "j")
        if draw.random() < 0.3:  # it takes longer than all the rest
            _goes_on(folder / "j")
    return refused


COLUMNS = {
    "run": ("begun_at_s", "mode", "version", "tick_s", "models"),
    "event": ("run", "model", "kind", "at_s", "tick_id", "data"),
    "learnt": ("model", "at_s", "data"),
    "action": ("tick_id", "model", "begun_at_s", "desired", "ended_at_s", "result", "change"),
}
ODD: tuple[Any, ...] = ("", "x", "looked", "[]", "{", b"", b"\xff", 0, -1, 2**62, 1e308, math.inf)


def journal_rows(draw: random.Random) -> bool:
    """Values in its rows: odd ones, or JSON that is not what it was."""
    with _folder() as folder:
        path = folder / "j"
        path.write_bytes(_journal())
        db = sqlite3.connect(path)
        for _ in range(draw.choice((1, 2, 5))):
            table = draw.choice(list(COLUMNS))
            column = draw.choice(COLUMNS[table])
            found = db.execute(f"SELECT rowid, {column} FROM {table}").fetchall()  # noqa: S608
            number, value = draw.choice(found)
            with contextlib.suppress(sqlite3.IntegrityError):
                query = f"UPDATE {table} SET {column} = ? WHERE rowid = ?"  # noqa: S608
                db.execute(query, (_row_value(value, draw), number))
        db.commit()
        db.close()
        refused = _ask(path)
        if draw.random() < 0.3:
            _goes_on(path)
    return refused


def _row_value(value: Any, draw: random.Random) -> Any:
    if draw.random() < 0.25:
        return draw.choice(ODD)
    try:
        data = codec.unpacked(value)
    except codec.DAMAGE:
        return draw.choice(ODD)
    try:
        odd = draw.random() < 0.05
        content = json.dumps(deep(draw.choice((200, 900, 3000))) if odd else of_value(data, draw))
    except (RecursionError, ValueError):
        content = "[" * 5000
    if isinstance(value, str):
        return content if draw.random() < 0.9 else content.encode()
    packed = codec.packed(content)
    return packed if draw.random() < 0.9 else of_bytes(packed, draw)


# --- the rest of the state -------------------------------------------------------------------


@contextlib.contextmanager
def _repository() -> Iterator[Repository]:
    with _folder() as folder:
        (folder / "m" / "1").mkdir(parents=True)
        (folder / "m" / "1" / "model.py").write_text("pass")
        (folder / "m" / "config.pbtxt").write_text(CONFIGS[0])
        repository = Repository(folder)
        repository.state.mkdir()
        yield repository


def revisions(draw: random.Random) -> bool:
    """Their files: bytes, names, gone."""
    with _repository() as repository:
        config = repository.read_config("m")
        for count in (2, 3):
            changed = model_config.with_instances(config, count)
            repository.write_config("m", changed, reason=f"r{count}")
        folder = repository.state / "revisions" / "m"
        for _ in range(draw.choice((1, 2, 4))):
            paths = sorted(folder.iterdir())
            path = draw.choice(paths)
            kind = draw.randrange(6)
            if path.is_dir():
                shutil.rmtree(path)
            elif kind <= 1:
                path.write_bytes(of_bytes(path.read_bytes(), draw))
            elif kind == 2 and path.suffix == ".json":
                with contextlib.suppress(ValueError, RecursionError):
                    path.write_text(json.dumps(of_value(json.loads(path.read_text()), draw)))
            elif kind == 3:
                path.unlink()
                if draw.random() < 0.3:
                    path.mkdir()
            else:
                name = of_bytes(os.fsencode(path.name), draw).replace(b"/", b"").replace(b"\0", b"")
                with contextlib.suppress(OSError):
                    path.rename(folder / os.fsdecode(name[:200]))
        log = repository.revisions("m")
        refused = [_refused(functools.partial(log.text, r)) for r in range(5)]
        log.all()
        new = repository.write_config("m", model_config.with_instances(config, 5), reason="new")
        assert log.newest() == new
        assert log.all()[-1] == new
        assert log.text(new.number) == repository.config_text("m")
    return any(refused)


RICH = """
name: "m" backend: "onnxruntime" max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: [ -1, 3 ] } output { name: "y" data_type: TYPE_INT64 }
instance_group { count: 2 kind: KIND_GPU gpus: [ 0, 1 ] }
dynamic_batching { preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 100 }
version_policy { specific { versions: [ 1, 2 ] } } response_cache { enable: true }
parameters { key: "intra_op_thread_count" value { string_value: "2" } }
model_warmup { name: "w" batch_size: 4 inputs { key: "x" value { zero_data: true } } }
"""
ENSEMBLE = """
name: "m" platform: "ensemble" max_batch_size: 8
ensemble_scheduling { step { model_name: "n" model_version: -1
  input_map { key: "x" value: "x" } output_map { key: "y" value: "y" } } }
"""
CONFIGS = [
    *(path.read_text(encoding="utf-8") for path in sorted(EXAMPLES.glob("**/config.pbtxt"))),
    RICH,
    ENSEMBLE,
]
CONFIGS[0] = 'name: "m"\nbackend: "python"\nmax_batch_size: 8\n'
TOKENS = (
    *(
        "99999999999999999999",
        "-1",
        "1e400",
        "nan",
        "inf",
        '"\\xff"',
        '"²"',
        "{",
        "}",
        "[",
        "]",
        "<",
    ),
    *("KIND_NONE", "TYPE_NONE", "true", "'", "#", ";", ",", "0x1fffffffff", '"' + "9" * 5000 + '"'),
    *("[a.b/c] {}", "x {" * 300, "ensemble_scheduling {}", "instance_group {}", "9" * 30),
)


def config(draw: random.Random) -> bool:
    """A config's text: bytes and words; and what is asked of one that still parses."""
    text = draw.choice([*CONFIGS[1:], RICH, ENSEMBLE])
    words = text.split(" ")
    for _ in range(draw.choice((0, 1, 1, 3))):
        words[draw.randrange(len(words))] = draw.choice([*TOKENS, draw.choice(words)])
    content = " ".join(words).encode()
    if draw.random() < 0.4:
        content = of_bytes(content, draw)
    with _repository() as repository:
        (repository.root / "m" / "config.pbtxt").write_bytes(content)
        repository.models()
        check.check(repository)
        ensembles.of(repository)
        return _refused(lambda: _use_config(repository))


def _use_config(repository: Repository) -> None:
    read = repository.read_config("m")
    again = model_config.parse(model_config.to_text(read))
    assert model_config.to_text(again) == model_config.to_text(read)
    settings_of(read)
    threads_of(read)
    model_config.can_rebatch(read)
    model_config.granularity(read)
    model_config.reload_kind(read, again)
    model_config.require_explicit_instances(read)
    repository.write_config("m", model_config.with_instances(read, 3), reason="r")


def lineage(draw: random.Random) -> bool:
    """Where a version comes from."""
    good = {"schema": 1, "files": {"model.py": "0" * 64}, "source": {"kind": "x"}}
    with _repository() as repository:
        path = repository.root / "m" / "1" / "lineage.json"
        path.write_bytes(_mutated_json(good, draw))
        repository.lineage("m", 1)
        return bool(check.check(repository))


def frozen(draw: random.Random) -> bool:
    """The freezes: any file freezes something, or says until when."""
    good = {"schema": 1, "until_s": {"*": None, "m": 2e9, "n": 1.0}}
    with _repository() as repository:
        freeze.path_of(repository).write_bytes(_mutated_json(good, draw))
        read = freeze.read(repository)
        until_s = read.of("m", now_s=1.0)
        assert until_s is None or until_s > 1.0
        freeze.pause(repository, "m", for_s=5.0, now_s=1.0)
        assert freeze.read(repository).of("m", now_s=2.0) is not None
        return read.until_s == {"*": math.inf}


def _mutated_json(good: Any, draw: random.Random) -> bytes:
    """The value with changes of its structure, or of its bytes."""
    kind = draw.random()
    if kind < 0.05:
        return b"[" * draw.choice((500, 2000, 100_000))
    if kind < 0.5:
        with contextlib.suppress(ValueError):
            return json.dumps(of_value(good, draw)).encode()
    return of_bytes(json.dumps(good).encode(), draw)


def epoch(draw: random.Random) -> bool:
    """The fence's file: who held it before is out, the next one gets in."""
    with _repository() as repository:
        with sole_writer(repository) as first:
            before = first.path.read_bytes()
            after = of_bytes(before, draw)
            first.path.write_bytes(after)
            fenced = _refused(first.check)
            if not fenced:
                assert after.split() == before.split()
        with sole_writer(repository) as second:
            second.check()
            try:
                first.check()
            except Fenced:
                return fenced
            raise AssertionError("two may write")


@functools.cache
def _learnt() -> dict[str, Any]:
    state = Story().passes(10, load_rps=100).passes(10, load_rps=900).state
    made = json.loads(json.dumps(state.to_plain(at_s=1.0)))
    assert isinstance(made, dict)
    return made


def learnt(draw: random.Random) -> bool:
    """What a controller has learnt, as the next one reads and uses it."""
    data = of_value(_learnt(), draw)
    story = Story().passes(1, load_rps=100)
    assert story.state.last is not None
    with _folder() as folder, Journal(folder / "j") as journal:
        content = "[" * 3000 if draw.random() < 0.02 else json.dumps(data)
        journal._execute("INSERT INTO learnt VALUES ('m', 1.0, ?)", (content,))
        read = journal.learnt("m")
        state, _ = step(RULE, ControlState(), Started(at_s=1000.0, learnt=read), POLICY)
        for at_s in (1001.0, 1002.0):
            seen = Looked(seen=codec.observation(json.loads(codec.text(story.state.last))))
            state, _ = step(RULE, state, seen, POLICY)
            journal.save_learnt({"m": state.to_plain(at_s=at_s)}, at_s=at_s)
        return read == {}


# --- from outside ----------------------------------------------------------------------------

PAGE = "".join(
    f"# HELP {name} of a model\n# TYPE {name} counter\n"
    f'{name}{{model="m",version="1"}} 12\n{name}{{gpu_uuid="G-1",model="n",version="2"}} 3.5e3\n'
    for name in sorted(metrics.NAMES)
)
PIECES = (
    *(
        "NaN",
        "Inf",
        "-Inf",
        "-5",
        "1e999",
        "9" * 400,
        "0x10",
        "1_0",
        "+3",
        "'",
        "{",
        "}",
        '"',
        "\\",
    ),
    *('model="', 'x="\\n\\\\"', "# TYPE a b", "# EOF", " 1234567890", "\u0661", "\x00", '\\"'),
)


def metrics_page(draw: random.Random) -> bool:
    """A page of Triton's: words, lines and bytes."""
    lines = PAGE.splitlines(keepends=True)
    for _ in range(draw.choice((1, 3, 10))):
        at = draw.randrange(len(lines))
        line = lines[at]
        cut = draw.randrange(len(line) + 1)
        lines[at] = draw.choice(
            (line[:cut] + draw.choice(PIECES) + line[cut:], line[:cut], line * 2, line.strip(), "")
        )
    content = "".join(lines)
    if draw.random() < 0.4:
        content = of_bytes(content.encode(), draw).decode("utf-8", "replace")

    def use() -> None:
        old, new = metrics.parse(PAGE), metrics.parse(content)
        for name, counters in new.models.items():
            if name in old.models:
                metrics.delta(old.models[name], counters)
        for device in (*new.gpus.values(), *([new.host] if new.host else [])):
            _ = device.memory_free_bytes

    return _refused(use)


def prometheus(draw: random.Random) -> bool:
    """The answers of a Prometheus."""
    labels = {"model": "m", "instance": "s:1", "version": "1"}
    answers = [
        [
            {"metric": {"__name__": "nv_inference_request_success", **labels}, "value": [1, "5"]},
            {"metric": {"__name__": "nv_cpu_utilization", "instance": "s:1"}, "value": [1, "0.5"]},
        ],
        [{"metric": labels, "value": [1, "100.5"]}],
        [{"metric": {"conch": "m"}, "value": [1, "42"]}],
    ]
    changed = of_value(answers, draw)
    left = iter(changed if isinstance(changed, list) else [changed])
    source = PrometheusCounters("http://p.invalid", arrivals="hits")
    source._prometheus._client.custom_query = lambda _query: next(left, [])

    def use() -> None:
        sample = source.sample(["m"])
        assert all(math.isfinite(at_s) for at_s in sample.at_s.values())
        sample.counters("m")

    return _refused(use)


TARGETS: dict[str, Callable[[random.Random], bool]] = {
    "config": config,
    "epoch": epoch,
    "frozen": frozen,
    "journal bytes": journal_bytes,
    "journal rows": journal_rows,
    "learnt": learnt,
    "lineage": lineage,
    "metrics page": metrics_page,
    "prometheus": prometheus,
    "revisions": revisions,
}
