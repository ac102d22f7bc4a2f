"""The errors a user can meet, each with its exit code and the next thing to do.

Message shape: ``<what failed>: <value seen>, <what is allowed>.``; ``hint`` holds the next step.
"""

from __future__ import annotations


class ConchError(Exception):
    """Base of every error that the CLI prints without a traceback (exit code 1)."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class ConfigError(ConchError):
    """A recipe, policy, trace, name or ``config.pbtxt`` that is not valid."""

    exit_code = 3


class TritonUnavailable(ConchError):
    """No Triton binary, no server at the address, or it died."""

    exit_code = 4


class ThresholdMissed(ConchError):
    """A measured figure missed the SLO or the threshold that the user set."""

    exit_code = 5


class ParityError(ConchError):
    """No variant agrees with the original model."""

    exit_code = 6


class ApplyRejected(ConchError):
    """Triton refused a change, or it did not verify; the previous config is back in force."""


class RepositoryError(ConchError):
    """The model repository could not be read or written."""


class LoadError(ConchError):
    """The load generator could not produce the load it was asked for."""
