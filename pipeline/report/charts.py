"""The two plots of the report as SVG elements, which take their colours from the page.

In: numbers. Out: an `<svg>` element for an HTML page that sets the CSS variables `--ink`, `--soft`, `--accent` and
`--other`. `chart.svg.j2` draws; this file computes the points. No text of an element comes from the data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files

import jinja2

from pipeline.tables.counts import BINS

WIDTH, HEIGHT = 404, 216
RIGHT, TOP, BOTTOM = 392, 6, 178  # of the axes, in the same units
LABEL, CHARACTER = 30, 6.6  # what the label of the y axis takes, and a character of a number
_STEPS = (1, 2, 2.5, 5, 10)  # between two marks of an axis, times a power of ten
_UNITS = ((2 * 86_400, "days", 86_400), (2 * 3600, "hours", 3600), (180, "minutes", 60), (0, "seconds", 1))


def draw_throughput(edges_s: Sequence[float], images_per_s: Sequence[float], title: str) -> str:
    """Images a second between the edges, which are seconds since the run began.

    Args:
        edges_s: one more than `images_per_s`, rising.
    """
    unit, length_s = next((name, length) for least, name, length in _UNITS if edges_s[-1] >= least)
    return _draw(title, [edge / length_s for edge in edges_s], images_per_s, None, f"{unit} since labelling began",
                 "images/s", "{:,.10g}".format)


def draw_confidence(now: Sequence[int], before: Sequence[int] | None, title: str) -> str:
    """The share of images in each of `BINS` bins of probability, of this run and perhaps of the run before."""
    edges = [index / BINS for index in range(BINS + 1)]
    return _draw(title, edges, _percents(now), _percents(before) if before else None, "probability of the best label",
                 "share of images", "{:g}%".format)


def list_marks(end: float, most: int) -> list[float]:
    """Round numbers from 0 to `end` for the marks of an axis: as many as fit, at most `most` and 0."""
    power = 10.0 ** math.floor(math.log10(end / most))
    step = next(step * power for step in _STEPS if end / (step * power) <= most)
    return [index * step for index in range(int(end / step * (1 + 1e-9)) + 1)]


def _draw(title: str, edges: Sequence[float], filled: Sequence[float], outlined: Sequence[float] | None, x_label: str,
          y_label: str, format_y: Callable[[float], str]) -> str:
    highest = 1.05 * max(*filled, *(outlined or ()), 0) or 1.0
    y_marks = [(value, format_y(value)) for value in list_marks(highest, 8)]
    left = round(LABEL + CHARACTER * max(len(text) for _, text in y_marks))

    def x(value: float) -> float:
        return round(left + value / edges[-1] * (RIGHT - left), 1)

    def y(value: float) -> float:
        return round(BOTTOM - value / highest * (BOTTOM - TOP), 1)

    def stairs(values: Sequence[float]) -> str:
        """The path from the x axis over the values and back to the axis."""
        heights = [*map(y, values), BOTTOM]
        lines = [f"H{x(edge)}V{height}" for edge, height in zip(edges, heights, strict=True)]
        return f"M{left} {BOTTOM}" + "".join(lines)

    return _template().render(
        title=title, width=WIDTH, height=HEIGHT, left=left, right=RIGHT, top=TOP, bottom=BOTTOM, x_label=x_label,
        y_label=y_label, filled=stairs(filled), outlined=stairs(outlined) if outlined else None,
        x_marks=[(x(value), f"{value:g}") for value in list_marks(edges[-1], 8)],
        y_marks=[(y(value), text) for value, text in y_marks])


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True,
                                     undefined=jinja2.StrictUndefined)
    return environment.from_string((files("pipeline.report") / "chart.svg.j2").read_text(encoding="utf-8"))


def _percents(numbers: Sequence[int]) -> list[float]:
    return [100 * number / max(1, sum(numbers)) for number in numbers]
