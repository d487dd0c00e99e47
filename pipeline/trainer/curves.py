"""The curves of a training: `steps.csv`, `epochs.csv`, and both drawn in `curves.svg`.

In: losses of steps and figures of epochs. Out: three files in a folder. Needs matplotlib, of the extra `train`.
A training of a million steps has files of the same size as one of two thousand.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass, field

import pandas as pd
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from pipeline.store import storage

JUDGED = ("valid_loss", "top1", "top5")  # figures of an epoch; empty unless images are held out
COLUMNS = ("epoch", "step", "loss", "learning_rate", "images_per_s", *JUDGED, "valid_images")


MAX_POINTS = 2000  # of the losses of all steps


@dataclass
class LossCurve:
    """The losses of all steps, as at most `MAX_POINTS` points. Each is the mean of as many steps.

    Attributes:
        width: the steps of a point. If there are too many points, each two become one.
        points: the losses.
        rest: the sum of the losses after the last point; of `num_rest` steps, fewer than a point has.
    """

    width: int = 1
    points: list[float] = field(default_factory=list)
    rest: float = 0.0
    num_rest: int = 0

    def add(self, losses: Iterable[float]) -> None:
        """Add the losses of the next steps."""
        for loss in losses:
            self.rest, self.num_rest = self.rest + loss, self.num_rest + 1
            if self.num_rest == self.width:
                self.points.append(self.rest / self.width)
                self.rest, self.num_rest = 0.0, 0
                if len(self.points) > MAX_POINTS:  # the last one has no other: it is begun again
                    self.rest, self.num_rest = self.points.pop() * self.width, self.width
                    self.points = [(a + b) / 2 for a, b in zip(self.points[::2], self.points[1::2], strict=True)]
                    self.width *= 2

    def rows(self) -> tuple[list[int], list[float]]:
        """The last step of each point, counted from 1, and its loss; also of the rest."""
        steps = [self.width * number for number in range(1, len(self.points) + 1)]
        if not self.num_rest:
            return steps, self.points
        return [*steps, self.width * len(steps) + self.num_rest], [*self.points, self.rest / self.num_rest]


def write_curves(losses: LossCurve, epochs: list[dict[str, float]], folder: str) -> None:
    """Put the three files into a folder, which is any URI that fsspec knows.

    Args:
        losses: of the steps, each before its update.
        epochs: a row of each epoch with `COLUMNS`; `JUDGED` may be absent.
    """
    steps = pd.DataFrame(dict(zip(("step", "loss"), losses.rows(), strict=True)))
    table = pd.DataFrame(epochs, columns=list(COLUMNS)).astype(dict.fromkeys(JUDGED, float))
    for name, frame in (("steps.csv", steps), ("epochs.csv", table)):
        storage.put_whole(storage.join(folder, name), frame.to_csv(index=False).encode())
    storage.put_whole(storage.join(folder, "curves.svg"), _draw(steps, table))


def _draw(steps: pd.DataFrame, table: pd.DataFrame) -> bytes:
    """The losses of steps and epochs, and beside them the accuracies of epochs, as SVG."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    FigureCanvasSVG(figure)
    loss, accuracy = figure.subplots(1, 2)
    loss.plot(steps["step"], steps["loss"], linewidth=0.6, alpha=0.6, label="steps")
    judged = table.dropna(subset=list(JUDGED), how="all")
    if len(judged):
        loss.plot(judged["step"], judged["valid_loss"], marker=".", label="held out")
        for name, label in (("top1", "top-1"), ("top5", "top-5")):
            accuracy.plot(judged["step"], judged[name], marker=".", label=label)
    else:
        accuracy.text(0.5, 0.5, "no image is held out", ha="center", va="center", transform=accuracy.transAxes)
    # The held-out loss of the first epochs may be far above the losses of the steps.
    loss.set(xlabel="step", ylabel="loss", ylim=(0, 1.1 * steps["loss"].max()))
    accuracy.set(xlabel="step", ylabel="held out", ylim=(0, 1.02))
    accuracy.yaxis.set_major_formatter(PercentFormatter(1))
    for axes in (loss, accuracy):
        if axes.lines:
            axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue().encode()
