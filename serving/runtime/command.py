"""Triton's command line, built from what that very binary says it knows. Pure.

Flags differ by version (26.x has some that 2.51 refuses), so a flag that the binary's ``--help``
does not name is left out, and said so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from conch.errors import ConfigError
from conch.names import model_name
from serving import slots

# Restricted: whatever changes the server or reaches memory. `statistics` and `model-config` stay
# open: they only read, the address is loopback, and perf_analyzer and plain curl need them without
# a key. Put them behind the key too (`ServerOptions.restricted`) on a server others can reach.
RESTRICTED_APIS = ("model-repository", "shared-memory", "trace", "logging")
ADMIN_HEADER = "x-admin-key"
LOOPBACK = "127.0.0.1"

_FLAG = re.compile(r"^\s+--([a-z0-9-]+)", re.MULTILINE)
# Triton 2.51 puts paths into a shell line (CVE-2025-23316), so a path may hold no shell character.
_SAFE_PATH = re.compile(r"/[A-Za-z0-9_./+@:,=-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """What a Triton is started with.

    Attributes:
        models: to load at the start, by name: with a star Triton 2.51 would load folders whose
            names a shell reads.
        admin_key: for the restricted APIs; None leaves them open.
        restricted: names of the APIs behind the key.
        exit_timeout_s: how long a stopping server waits for running inferences, whole seconds.
        summary_latencies: export latency quantiles beside the counters.
        cache_bytes: size of the response cache; 0 for none.
        shm_prefix: of the shared memory of the Python stubs, so that it can be cleaned up.
        shm_bytes: first size, and growth, of each Python stub's shared memory.
        stub_timeout_s: how long an instance may take to start: model load included.
        slots: executions at once on each device by instances that ask for one (``serving.slots``);
            None leaves Triton's rate limiter off.
        extra: more flags by name (without ``--``); an empty value makes a bare flag.
    """

    repository: Path
    backend_directory: Path
    http_port: int
    grpc_port: int
    metrics_port: int
    cache_directory: Path | None = None
    models: tuple[str, ...] = ()
    admin_key: str | None = None
    restricted: tuple[str, ...] = RESTRICTED_APIS
    exit_timeout_s: int = 30
    summary_latencies: bool = True
    cache_bytes: int = 0
    shm_prefix: str = "conch"
    shm_bytes: int = 8 * 2**20
    stub_timeout_s: int = 120
    slots: int | None = None
    extra: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandLine:
    """Arguments for one binary, and the names of the flags that it does not know."""

    arguments: tuple[str, ...]
    left_out: tuple[str, ...]


def known_flags(help_text: str) -> frozenset[str]:
    """The flag names (without ``--``) in a ``tritonserver --help``.

    Example:
        >>> sorted(known_flags("  --id <string>\\n\\tAn id.\\n  --grpc-port <integer>\\n"))
        ['grpc-port', 'id']
    """
    return frozenset(_FLAG.findall(help_text))


def build(options: ServerOptions, help_text: str) -> CommandLine:
    """The arguments for the binary with this ``--help``.

    Raises:
        ConfigError: when a path holds a character that a shell would read, a model's name is not
            valid, or an API cannot be restricted by this binary although a key was asked for.
    """
    known = known_flags(help_text)
    arguments, left_out = [], []
    for name, value in _wanted(options):
        if name in known:
            arguments.append(f"--{name}={value}" if value else f"--{name}")
        elif name not in left_out:
            left_out.append(name)
    if without_limiter := {"rate-limit", "rate-limit-resource"} & set(left_out):
        raise ConfigError(
            f"slots: {options.slots}, but this Triton has no --{sorted(without_limiter)[0]}.",
            hint="Leave out --slots, or use a Triton with the rate limiter.",
        )
    unguarded = {"http-restricted-api", "grpc-restricted-protocol"} & set(left_out)
    if unguarded:
        raise ConfigError(
            f"Triton: has no --{sorted(unguarded)[0]}, the admin APIs would be open to everyone.",
            hint="Use Triton 23.11 or newer.",
        )
    return CommandLine(arguments=tuple(arguments), left_out=tuple(left_out))


def redacted(arguments: tuple[str, ...], admin_key: str | None) -> str:
    """The command line for a log: without the key."""
    line = " ".join(arguments)
    return line.replace(admin_key, "***") if admin_key else line


def _wanted(options: ServerOptions) -> list[tuple[str, str]]:
    """Every flag we would like, with its value, in order."""
    flags = [
        ("model-repository", _safe(options.repository)),
        ("backend-directory", _safe(options.backend_directory)),
        ("model-control-mode", "explicit"),
        *(("load-model", model_name(name)) for name in options.models),
        ("exit-on-error", "false"),
        ("strict-readiness", "true"),
        ("disable-auto-complete-config", ""),
        ("exit-timeout-secs", str(options.exit_timeout_s)),
        ("http-address", LOOPBACK),
        ("http-port", str(options.http_port)),
        ("grpc-address", LOOPBACK),
        ("grpc-port", str(options.grpc_port)),
        ("metrics-address", LOOPBACK),
        ("metrics-port", str(options.metrics_port)),
    ]
    if options.summary_latencies:
        flags.append(("metrics-config", "summary_latencies=true"))
    flags += [("backend-config", setting) for setting in _python_settings(options)]
    if options.cache_bytes and options.cache_directory:
        flags.append(("cache-directory", _safe(options.cache_directory)))
        flags.append(("cache-config", f"local,size={options.cache_bytes}"))
    if options.admin_key and options.restricted:
        rule = f"{','.join(options.restricted)}:{ADMIN_HEADER}={options.admin_key}"
        flags += [("http-restricted-api", rule), ("grpc-restricted-protocol", rule)]
    if options.slots is not None:
        flags.append(("rate-limit", "execution_count"))
        flags += [("rate-limit-resource", f"{name}:{options.slots}") for name in slots.NAMES]
    return flags + list(options.extra.items())


def _python_settings(options: ServerOptions) -> list[str]:
    """Settings of the Python backend; a Triton without that backend ignores them."""
    return [
        f"python,shm-region-prefix-name={options.shm_prefix}",
        f"python,shm-default-byte-size={options.shm_bytes}",
        f"python,shm-growth-byte-size={options.shm_bytes}",
        f"python,stub-timeout-seconds={options.stub_timeout_s}",
    ]


def _safe(path: Path) -> str:
    """The path as text, when no shell could misread it."""
    text = str(path)
    if not _SAFE_PATH.fullmatch(text):
        raise ConfigError(
            f"path: {text!r}, must be absolute, of letters, digits and '_ . / + @ : , = -' "
            "(Triton passes it to a shell).",
            hint="Move the folder to a plainer path.",
        )
    return text
