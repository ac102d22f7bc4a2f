"""Options that several commands share, resolved once."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click

from serving.runtime import endpoint as endpoints

F = TypeVar("F", bound=Callable[..., Any])


def server_options(command: F) -> F:
    """Add ``--url --metrics-url --admin-key``; the command gets ``endpoint``, resolved.

    Without a flag the environment counts (CONCH_TRITON_URL, CONCH_METRICS_URL, CONCH_ADMIN_KEY),
    then the one server that ``conch serve`` runs on this machine; of several that of the command's
    ``--repository``, else that of ./model_repository.
    """

    @click.option(
        "--url",
        metavar="HOST:PORT",
        help="Triton's gRPC address, or a local server's name. "
        f"[env: {endpoints.ENV_URL}; default: the local server]",
    )
    @click.option(
        "--metrics-url",
        metavar="URL",
        help=f"Triton's metrics page. [env: {endpoints.ENV_METRICS_URL}]",
    )
    @click.option(
        "--admin-key",
        metavar="KEY",
        help="Key of the restricted admin APIs; the environment is safer than the flag. "
        f"[env: {endpoints.ENV_ADMIN_KEY}]",
    )
    @functools.wraps(command)
    def wrapped(
        *args: Any,
        url: str | None,
        metrics_url: str | None,
        admin_key: str | None,
        **kwargs: Any,
    ) -> Any:
        endpoint = endpoints.resolve(
            url, metrics_url, admin_key, repository=kwargs.get("repository")
        )
        return command(*args, endpoint=endpoint, **kwargs)

    return wrapped  # type: ignore[return-value]


def json_option(command: F) -> F:
    """Add ``--json``; the command gets ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")(
        command
    )
