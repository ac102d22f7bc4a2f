"""What an interval teaches of service times, unless a change disturbs it."""

from __future__ import annotations

from control.core.load.windows import Interval
from control.core.memory.changes import Applied
from control.core.policy import Policy
from control.core.service.learnt import Learnt


def taught(
    learnt: Learnt,
    new: Interval | None,
    policy: Policy,
    *,
    changes: tuple[Applied, ...],
    loading: bool,
) -> Learnt:
    """Service times with the interval's batches; those before where it tells nothing.

    Args:
        learnt: before it.
        new: the interval; None where the look ended none.
        policy: of the model.
        changes: that were tried, newest last.
        loading: whether a change is being applied.
    """
    if new is None or new.statistics is None:
        return learnt
    if changes and new.start_s < changes[-1].at_s + policy.settle_s:
        return learnt
    count, threads = new.instances, new.threads
    if new.old_copy_works and not learnt.foresaw(
        new.statistics, instances=count, threads=threads, cores=policy.cores
    ):  # on the cores or the device of this one
        return learnt
    return learnt.absorb(
        new.statistics,
        instances=count,
        threads=threads,
        span_s=new.end_s - new.start_s,
        loading=loading,
    )
