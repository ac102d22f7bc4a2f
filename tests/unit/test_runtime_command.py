"""Triton's command line from the text of its own help."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from conch.errors import ConfigError
from serving.runtime.command import ServerOptions, build, known_flags, redacted

# As `tritonserver --help` of 2.51 prints it: name, type, then the text below.
HELP = "Usage: tritonserver [options]\n" + "".join(
    f"  --{name} <string>\n\tSome text about --nothing in particular.\n"
    for name in (
        "exit-timeout-secs",
        "model-repository",
        "exit-on-error",
        "disable-auto-complete-config",
        "strict-readiness",
        "model-control-mode",
        "load-model",
        "http-address",
        "http-port",
        "http-restricted-api",
        "grpc-address",
        "grpc-port",
        "grpc-restricted-protocol",
        "metrics-address",
        "metrics-port",
        "metrics-config",
        "backend-directory",
        "backend-config",
        "cache-config",
        "cache-directory",
    )
)
OPTIONS = ServerOptions(
    repository=Path("/srv/models"),
    backend_directory=Path("/srv/backends"),
    http_port=1,
    grpc_port=2,
    metrics_port=3,
    admin_key="k3y",
)


def test_known_flags_reads_names_and_not_the_text_about_them() -> None:
    """A flag that is only mentioned is not known."""
    assert "load-model" in known_flags(HELP)
    assert "nothing" not in known_flags(HELP)


def test_command_is_explicit_on_loopback_and_keeps_a_broken_model_from_ending_the_server() -> None:
    """The rules of the house, on every start."""
    arguments = build(OPTIONS, HELP).arguments
    for expected in (
        "--model-control-mode=explicit",
        "--exit-on-error=false",
        "--disable-auto-complete-config",
        "--http-address=127.0.0.1",
        "--grpc-address=127.0.0.1",
        "--metrics-address=127.0.0.1",
        "--metrics-config=summary_latencies=true",
    ):
        assert expected in arguments


def test_command_restricts_what_changes_the_server_on_both_protocols() -> None:
    """Load, shared memory, trace and logging need the key; reading does not."""
    rule = "model-repository,shared-memory,trace,logging:x-admin-key=k3y"
    arguments = build(OPTIONS, HELP).arguments
    assert f"--http-restricted-api={rule}" in arguments
    assert f"--grpc-restricted-protocol={rule}" in arguments
    assert not [a for a in build(replace(OPTIONS, admin_key=None), HELP).arguments if "admin" in a]


def test_command_loads_only_the_named_models() -> None:
    """One flag each; none without a name: a star would load what a shell reads."""
    assert not [a for a in build(OPTIONS, HELP).arguments if a.startswith("--load-model")]
    arguments = build(replace(OPTIONS, models=("a", "b")), HELP).arguments
    loads = [argument for argument in arguments if argument.startswith("--load-model")]
    assert loads == ["--load-model=a", "--load-model=b"]


def test_command_leaves_out_what_the_binary_does_not_know_and_says_so() -> None:
    """An older or newer Triton starts all the same."""
    text = HELP.replace("  --disable-auto-complete-config", "  ").replace("  --strict-read", "  ")
    line = build(OPTIONS, text)
    assert set(line.left_out) == {"disable-auto-complete-config", "strict-readiness"}
    assert not [argument for argument in line.arguments if "auto-complete" in argument]


def test_command_refuses_a_binary_that_cannot_guard_its_admin_apis() -> None:
    """Open admin APIs are no acceptable fallback."""
    with pytest.raises(ConfigError, match="would be open to everyone"):
        build(OPTIONS, HELP.replace("--http-restricted-api", ""))


def test_command_adds_a_cache_when_it_has_a_size() -> None:
    """The response cache costs memory, so it is off unless asked for."""
    assert not [a for a in build(OPTIONS, HELP).arguments if "cache" in a]
    asked = replace(OPTIONS, cache_bytes=1024, cache_directory=Path("/srv/caches"))
    arguments = build(asked, HELP).arguments
    assert "--cache-config=local,size=1024" in arguments
    assert "--cache-directory=/srv/caches" in arguments


@pytest.mark.parametrize("path", ["/srv/my models", "/srv/$(id)", "/srv/a;b", "/srv/`x`", "models"])
def test_command_refuses_paths_that_a_shell_would_read(path: str) -> None:
    """Triton 2.51 puts the model's path into a shell line (CVE-2025-23316)."""
    with pytest.raises(ConfigError, match="passes it to a shell"):
        build(replace(OPTIONS, repository=Path(path)), HELP)


@pytest.mark.parametrize("name", ["a;b", "../x", "$(id)", "*"])
def test_command_refuses_unsafe_model_names(name: str) -> None:
    """Also the star: Triton would load what a shell reads."""
    with pytest.raises(ConfigError, match="model name"):
        build(replace(OPTIONS, models=(name,)), HELP)


def test_redacted_hides_the_key() -> None:
    """A log never holds the admin key."""
    line = redacted(build(OPTIONS, HELP).arguments, "k3y")
    assert "k3y" not in line
    assert "x-admin-key=***" in line


def test_slots_are_resources_of_triton_and_off_unless_asked_for() -> None:
    """One flag a resource; none at all without a number."""
    limited = HELP + "  --rate-limit <string>\n  --rate-limit-resource <<string>:<integer>>\n"
    line = build(replace(OPTIONS, slots=4), limited).arguments
    assert [part for part in line if "rate-limit" in part] == [
        "--rate-limit=execution_count",
        "--rate-limit-resource=conch_cpu:4",
        "--rate-limit-resource=conch_gpu:4",
    ]
    assert not any("rate-limit" in part for part in build(OPTIONS, limited).arguments)


def test_slots_on_a_triton_without_the_limiter_are_an_error() -> None:
    """Nobody believes then that executions are shared."""
    with pytest.raises(ConfigError, match="slots: 4, but this Triton has no --rate-limit"):
        build(replace(OPTIONS, slots=4), HELP)
