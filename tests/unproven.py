"""A change that was written and has not proved itself yet, as its record says."""

from __future__ import annotations

from serving import pending
from serving.pending import Pending
from serving.repository import Repository
from serving.revisions import Revision


def recorded(repository: Repository, model: str, revision: Revision) -> Pending:
    """The record of that change by the repository's present controller, which is written."""
    record = Pending(
        model=model,
        epoch=pending.epoch_of(repository),
        at=pending.now(),
        previous=revision.number - 1,
        revision=revision.number,
        reason=revision.reason,
        tick_id=revision.tick_id,
    )
    pending.write(repository, record)
    return record
