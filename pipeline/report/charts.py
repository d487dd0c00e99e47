"""The report's two plots, drawn by matplotlib as SVG that takes its colours from the page.

In: numbers. Out: an `<svg>` element for an HTML page, in which the CSS variables `--ink`, `--soft`, `--accent` and `--other`
are set. No text in it comes from the data.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, PercentFormatter

from pipeline.tables.counts import BINS

_COLOURS = {"ink": "#010101", "soft": "#020202", "accent": "#030303", "other": "#040404"}  # stand for CSS variables
_STYLE: dict[Any, Any] = {"svg.fonttype": "none", "font.size": 11, "axes.spines.top": False,
          "axes.spines.right": False, "axes.edgecolor": _COLOURS["soft"], "axes.labelcolor": _COLOURS["ink"],
          "text.color": _COLOURS["ink"], "xtick.color": _COLOURS["ink"], "ytick.color": _COLOURS["ink"],
          "axes.grid": True, "axes.grid.axis": "y", "grid.color": _COLOURS["soft"], "grid.alpha": 0.3, "axes.axisbelow": True}
_UNITS = ((2 * 86_400, "days", 86_400), (2 * 3600, "hours", 3600), (180, "minutes", 60), (0, "seconds", 1))


def throughput(edges_s: list[float], images_per_s: list[float], title: str) -> str:
    """Images a second between the edges, which are seconds since the run began."""
    name, length = next((name, length) for least, name, length in _UNITS if edges_s[-1] >= least)
    with _axes(title) as (axes, drawn):
        axes.stairs(images_per_s, [edge / length for edge in edges_s], fill=True, color=_COLOURS["accent"])
        axes.set(xlabel=f"{name} since labelling began", ylabel="images/s", xlim=(0, edges_s[-1] / length), ylim=(0, None))
    return drawn[0]


def confidence(now: list[int], before: list[int] | None, title: str) -> str:
    """The share of images in each bin of probability; of the run before too, if there is one."""
    edges = [at / BINS for at in range(BINS + 1)]
    with _axes(title) as (axes, drawn):
        axes.stairs(_shares(now), edges, fill=True, color=_COLOURS["accent"], label="this run")
        if before:
            axes.stairs(_shares(before), edges, color=_COLOURS["other"], linewidth=1.5, label="run before")
            axes.legend(frameon=False)
        axes.set(xlabel="probability of the best label", ylabel="share of images", xlim=(0, 1), ylim=(0, None))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return drawn[0]


@contextmanager
def _axes(title: str) -> Iterator[tuple[Axes, list[str]]]:
    """Axes to draw on; when the context ends, the list holds the element."""
    drawn: list[str] = []
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": title}):
        figure = Figure(figsize=(5.6, 3), layout="constrained")
        FigureCanvasSVG(figure)
        yield figure.add_subplot(), drawn
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    element = "<svg" + re.sub('<g id="[^"]*">', "<g>", buffer.getvalue().partition("<svg")[2])  # an id once a page
    for name, colour in _COLOURS.items():
        element = element.replace(colour, f"var(--{name})")
    drawn.append(element.replace("<svg", f'<svg role="img" aria-label="{title}"', 1))


def _shares(numbers: list[int]) -> list[float]:
    return [number / max(1, sum(numbers)) for number in numbers]
