"""From matplotlib to SVG inside a page: one drawing serves the light and the dark colours.

It is drawn in the light theme's colours, and these become the page's CSS variables.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from export.report import Status
from perf.report.style import DARK, LIGHT

WIDTH_IN = 10.0

_NAMES = {
    "--bg": "background",
    "--text": "text",
    "--muted": "muted",
    "--line": "grid",
}
LINES = ("-", (0, (5, 1.5)), "-.", ":", (0, (3, 1, 1, 1, 1, 1)))
SHAPES = "o^sDv"


def colour_of(status: Status) -> str:
    """Green for what passed, amber for what passed but is not served, else orange-red."""
    if status in (Status.PUBLISHED, Status.ACCEPTED):
        return LIGHT.contenders[2]
    if status in (Status.DOMINATED, Status.KEPT):
        return LIGHT.contenders[4]
    return LIGHT.contenders[0]


def variables(*, dark: bool) -> dict[str, str]:
    """CSS variable → colour of one scheme."""
    theme = DARK if dark else LIGHT
    named = {variable: getattr(theme, field) for variable, field in _NAMES.items()}
    numbered = {f"--c{number}": colour for number, colour in enumerate(theme.contenders, start=1)}
    return {**named, **numbered}


@contextlib.contextmanager
def drawing(height_in: float) -> Iterator[Figure]:
    """An empty figure in the house style; use ``svg`` inside."""
    # Text stays text: it is searchable, and the page's font draws it.
    with mpl.rc_context({**LIGHT.rc(), "svg.fonttype": "none"}):
        layout = ConstrainedLayoutEngine(h_pad=0.1, w_pad=0.1)
        figure = Figure(figsize=(WIDTH_IN, height_in), layout=layout)
        FigureCanvasSVG(figure)
        yield figure


def svg(figure: Figure, *, alt: str) -> str:
    """The figure as an ``<svg>`` element; equal figures give equal text.

    Args:
        figure: as drawn.
        alt: what it shows, for those who do not see it.
    """
    out = io.StringIO()
    figure.savefig(out, format="svg")
    text = out.getvalue()
    text = text[text.index("<svg") :]
    for variable, colour in variables(dark=False).items():
        text = text.replace(colour, f"var({variable})")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'width="[\d.]+pt" height="[\d.]+pt" ', "", text, count=1)
    label = alt.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1).strip()
