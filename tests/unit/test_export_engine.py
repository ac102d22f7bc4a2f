"""Order, caching and failure of stages, without processes: the work is done where it is asked for.

Real worker processes: tests/integration/test_export_resume.py.
"""

from __future__ import annotations

import errno
import pickle
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field

import pytest

from cli.export_progress import StageLines
from conch.errors import ConchError, ConfigError, ParityError
from export.engine import Engine, Stage
from export.store import Finished, Store, facts
from export.worker import StageFailed, portable


@dataclass
class Work:
    """What a stage does: give a fact, or raise."""

    value: int = 0
    error: BaseException | None = None


@dataclass
class HerePool:
    """Does the work at once, in this process."""

    store: Store
    jobs: int = 2
    ran: list[str] = field(default_factory=list)
    discarded: int = 0

    def submit(self, task: Work, key: str) -> Future[Finished]:
        """A future that is done."""
        self.ran.append(key)
        future: Future[Finished] = Future()
        if task.error is not None:
            future.set_exception(task.error)
        else:
            folder, _ = self.store.begin(key)
            future.set_result(
                self.store.finish(key, facts(value=task.value), folder=folder, seconds=0.1)
            )
        return future

    def discard(self) -> None:
        """Count it."""
        self.discarded += 1


def stage(key: str, *parents: str, error: BaseException | None = None) -> Stage:
    """A stage that gives the length of its key."""
    return Stage(key=key, kind="build", label=f"make {key}", variant="v", parents=parents,
                 task=Work(len(key), error))  # fmt: skip


@pytest.fixture
def pool(tmp_path) -> HerePool:
    """A pool over an empty store."""
    return HerePool(Store(tmp_path))


def run(pool: HerePool, *stages: Stage):
    """A new engine's outcomes."""
    engine = Engine(pool.store, pool, None, total=len(stages))
    engine.run(stages)
    return engine.outcomes


def test_children_wait_for_their_parents(pool):
    """Whatever order they are given in."""
    run(pool, stage("c", "a", "b"), stage("b", "a"), stage("a"))
    assert pool.ran == ["a", "b", "c"]


def test_finished_stages_are_not_run_again(pool):
    """Not in this engine, and not in the next."""
    run(pool, stage("a"), stage("b", "a"))
    outcomes = run(pool, stage("a"), stage("b", "a"), stage("c", "b"))
    assert pool.ran == ["a", "b", "c"]
    assert [outcomes[key].cached for key in "abc"] == [True, True, False]


def test_failure_takes_what_follows_and_nothing_else(pool):
    """The children get their parent's error; the neighbour is built."""
    error = ConfigError("no such node.")
    outcomes = run(pool, stage("a"), stage("bad", "a", error=error), stage("child", "bad"),
                   stage("grandchild", "child", "a"), stage("good", "a"))  # fmt: skip
    assert [outcomes[key].error for key in ("bad", "child", "grandchild")] == [error] * 3
    assert outcomes["good"].finished.artifact.facts == {"value": 4}
    assert "child" not in pool.ran


def test_failed_stage_is_tried_again_next_time(pool):
    """A failure is no result: its cause may be gone."""
    run(pool, stage("a", error=ConfigError("busy.")))
    assert run(pool, stage("a"))["a"].finished is not None


def test_unexpected_error_is_that_stage_s_failure(pool):
    """A tool may raise anything; the neighbours go on, and the message names the stage."""
    outcomes = run(pool, stage("a", error=KeyError("x")), stage("b"))
    assert isinstance(outcomes["a"].error, ParityError)
    assert outcomes["a"].error.message == "make a: KeyError: 'x'."
    assert outcomes["b"].finished is not None


def test_full_disk_ends_the_run(pool):
    """Every other stage would meet it too."""
    with pytest.raises(OSError, match="No space"):
        run(pool, stage("a", error=OSError(28, "No space left on device")))


def test_worker_that_dies_is_found_by_running_alone(pool):
    """Which of the stages in flight killed it cannot be seen; the innocent one is done again."""
    deaths = iter([BrokenProcessPool("x")])

    class DyingPool(HerePool):
        def submit(self, task: Work, key: str) -> Future[Finished]:
            """Break once while the innocent one is in flight."""
            if key == "innocent" and (death := next(deaths, None)):
                return super().submit(Work(error=death), key)
            return super().submit(task, key)

    dying = DyingPool(pool.store)
    outcomes = run(dying, stage("killer", error=BrokenProcessPool("x")), stage("innocent"))
    assert "the worker process died" in outcomes["killer"].error.message
    assert outcomes["innocent"].finished is not None
    assert dying.ran == ["killer", "innocent", "killer", "innocent"]


def test_dead_pool_that_takes_no_work_is_one_that_broke(pool):
    """A worker may die between two stages; then it is seen when the next is given to it."""
    deaths = iter([BrokenProcessPool("x")])

    class DeadPool(HerePool):
        def submit(self, task: Work, key: str) -> Future[Finished]:
            """Refuse once."""
            if death := next(deaths, None):
                raise death
            return super().submit(task, key)

    dead = DeadPool(pool.store)
    outcomes = run(dead, stage("a"), stage("b", "a"))
    assert outcomes["b"].finished is not None
    assert (dead.ran, dead.discarded) == (["a", "b"], 1)


def test_stage_that_ended_beside_a_dying_worker_is_not_run_again(pool):
    """Its future may be done, or only its folder: both are results."""

    class DyingPool(HerePool):
        def submit(self, task: Work, key: str) -> Future[Finished]:
            """Break after the work of ``kept`` is on disk."""
            future = super().submit(task, key)
            if key == "kept":
                future = Future()
                future.set_exception(BrokenProcessPool("x"))
            return future

    dying = DyingPool(pool.store, jobs=3)
    wrong = stage("wrong", error=ConfigError("no such node."))
    outcomes = run(dying, stage("done"), wrong, stage("kept"))
    assert dying.ran == ["done", "wrong", "kept"]
    assert outcomes["done"].finished is not None
    assert outcomes["kept"].finished is not None
    assert outcomes["wrong"].error.message == "no such node."


class OwnError(Exception):
    """As a class in the user's code: the parent cannot import it."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{what} in {where}")


class OwnConchError(ConfigError):
    """A class of the user's, too."""


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OwnError("fault", "row 3\nand more"), "OwnError: fault in row 3"),
        (FileNotFoundError(2, "No such file", "a.png"), "FileNotFoundError: [Errno 2] No such"),
        (TimeoutError(), "TimeoutError"),
        (SystemExit(3), "SystemExit: 3"),
    ],
)
def test_what_user_code_raises_is_told_as_text(error, says):
    """It comes out of the worker, and is the failure of that stage alone."""
    told = pickle.loads(pickle.dumps(portable(error)))  # noqa: S301
    assert type(told) is StageFailed
    assert str(told).startswith(says)
    assert "\n" not in str(told)


def test_failure_of_a_stage_names_it(pool):
    """Not the class that carries the text."""
    outcomes = run(pool, stage("a", error=portable(OwnError("fault", "row 3."))))
    assert outcomes["a"].error.message == "make a: OwnError: fault in row 3."


def test_errors_of_conch_keep_their_exit_code():
    """Ours as they are; one derived from ours as the nearest of ours."""
    error = ConfigError("bad.", hint="Mend it.")
    assert portable(error) is error
    told = portable(OwnConchError("bad.", hint="Mend it."))
    assert (type(told), str(told)) == (ConfigError, "bad. Mend it.")
    assert isinstance(told, ConchError)


def test_full_disk_is_seen_behind_any_error():
    """A user's function that met it, wrapped by the one who called it."""
    error = ConfigError("data.training: raised OSError.")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device", "full/x")
    told = pickle.loads(pickle.dumps(portable(error)))  # noqa: S301
    assert (type(told), told.errno, told.filename) == (OSError, errno.ENOSPC, "full/x")


def test_bar_of_a_stage_that_has_just_ended_is_let_go():
    """Workers tell from another thread, which must not end with a KeyError."""
    lines = StageLines()
    lines._tasks[1] = lines._bars.add_task("a stage", note="")
    lines._bars.remove_task(lines._tasks[1])
    lines.advanced(1, 1, 2, "late")
