"""The curves of a training: `steps.csv`, `epochs.csv`, and both drawn in `curves.svg`.

In: losses and figures of epochs. Out: three files in a folder. Needs matplotlib, of the extra `train`.
"""

from __future__ import annotations

import io

import pandas as pd
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from pipeline.store import storage

JUDGED = ("valid_loss", "top1", "top5")  # figures of an epoch; empty unless images are held out
COLUMNS = ("epoch", "step", "loss", "learning_rate", "images_per_s", *JUDGED, "valid_images")


def write_curves(losses: list[float], epochs: list[dict[str, float]], folder: str) -> None:
    """Put the three files into a folder, which is any URI that fsspec knows.

    Args:
        losses: the loss of each step, before its update.
        epochs: a row of each epoch with `COLUMNS`; `JUDGED` may be absent.
    """
    steps = pd.DataFrame({"step": range(1, len(losses) + 1), "loss": losses})
    table = pd.DataFrame(epochs, columns=list(COLUMNS)).astype(dict.fromkeys(JUDGED, float))
    for name, frame in (("steps.csv", steps), ("epochs.csv", table)):
        storage.put_whole(storage.join(folder, name), frame.to_csv(index=False).encode())
    storage.put_whole(storage.join(folder, "curves.svg"), _draw(steps, table))


def _draw(steps: pd.DataFrame, table: pd.DataFrame) -> bytes:
    """The losses of steps and epochs, and beside them the accuracies of epochs, as SVG."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    FigureCanvasSVG(figure)
    loss, accuracy = figure.subplots(1, 2)
    loss.plot(steps["step"], steps["loss"], linewidth=0.6, alpha=0.6, label="each step")
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
