"""``--repository``: which model repository a command looks into."""

from __future__ import annotations

from pathlib import Path

import click

from serving.repository import Repository
from serving.runtime import endpoint as endpoints

repository_option = click.option(
    "--repository",
    type=click.Path(path_type=Path, file_okay=False),
    help="The model repository. [default: the local server's, else model_repository]",
)


def open_repository(given: Path | None) -> Repository:
    """The repository: as given, else the one local server's, else ./model_repository."""
    if given is not None:
        return Repository(given)
    local = {one.repository.resolve() for one in endpoints.running() if one.repository}
    return Repository(local.pop() if len(local) == 1 else endpoints.DEFAULT_REPOSITORY)
