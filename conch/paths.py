"""Where Conch keeps what it downloads: the user's cache home (XDG), never the project tree."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """``$CONCH_CACHE``, ``$XDG_CACHE_HOME/conch`` or ``~/.cache/conch``; it may not exist yet."""
    if explicit := os.environ.get("CONCH_CACHE"):
        return Path(explicit)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "conch"
