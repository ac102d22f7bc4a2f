"""Colours, fonts and shapes of the figures; the colours are Okabe and Ito's (colour-blind safe)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CONTENDER_LINES: tuple[Any, ...] = ((0, (5, 1.2)), "-", "-.", (0, (3, 1, 1, 1, 1, 1)), ":")
MARKER_SHAPES = {"instances": "o", "batching": "s", "rollback": "D"}
OTHER_SHAPE = "h"


@dataclass(frozen=True, slots=True, kw_only=True)
class Theme:
    """One colour scheme; ``contenders`` are used in order."""

    name: str
    background: str
    text: str
    muted: str
    grid: str
    offered: str
    slo: str
    contenders: tuple[str, ...]

    def rc(self) -> dict[Any, Any]:
        """matplotlib's settings."""
        return {
            "figure.facecolor": self.background,
            "savefig.facecolor": self.background,
            "axes.facecolor": self.background,
            "axes.edgecolor": self.muted,
            "axes.labelcolor": self.text,
            "axes.titlecolor": self.text,
            "axes.titlesize": 11,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.labelsize": 9.5,
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "grid.color": self.grid,
            "grid.linewidth": 0.7,
            "xtick.color": self.muted,
            "ytick.color": self.muted,
            "xtick.labelcolor": self.text,
            "ytick.labelcolor": self.text,
            "xtick.labelsize": 9,
            "ytick.labelsize": 9,
            "text.color": self.text,
            "font.family": "DejaVu Sans",
            "font.size": 9.5,
            "legend.frameon": False,
            "legend.fontsize": 9,
            "lines.linewidth": 1.8,
            "svg.hashsalt": "conch",
        }


LIGHT = Theme(
    name="light",
    background="#ffffff",
    text="#1a1d21",
    muted="#6b7280",
    grid="#e5e7eb",
    offered="#9ca3af",
    slo="#1a1d21",
    contenders=("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00"),
)
DARK = Theme(
    name="dark",
    background="#14171c",
    text="#e6e8eb",
    muted="#9aa3ae",
    grid="#2a2f37",
    offered="#6b7480",
    slo="#f5f5f5",
    contenders=("#f08a3c", "#56b4e9", "#2cc79a", "#e39ac4", "#f0c000"),
)
