"""The curves of a training: `steps.csv`, `epochs.csv`, and both drawn in `curves.svg`."""

from __future__ import annotations

import io

import pandas as pd
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from pipeline.store import storage

JUDGED = ("valid_loss", "top1", "top5")  # figures of an epoch, if images are held out
COLUMNS = ("epoch", "step", "loss", "learning_rate", "images_per_s", *JUDGED, "valid_images")

def write_curves(losses: list[float], epochs: list[dict[str, float]], folder: str) -> None:
    """Put the three files into a folder (any fsspec URI).

    Args:
        losses: of each step, before its update.
        epochs: a row each, with `step`, `loss` and others, and `JUDGED` where images are held out: else these cells are empty.
    """
    steps = pd.DataFrame({"step": range(1, len(losses) + 1), "loss": losses})
    table = pd.DataFrame(epochs, columns=list(COLUMNS)).astype(dict.fromkeys(JUDGED, float))
    for name, written in (("steps.csv", steps), ("epochs.csv", table)):
        storage.put_whole(storage.join(folder, name), written.to_csv(index=False).encode())
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    FigureCanvasSVG(figure)
    loss, accuracy = figure.subplots(1, 2)
    loss.plot(steps["step"], steps["loss"], linewidth=0.6, alpha=0.6, label="each step")
    judged = table.dropna(subset=list(JUDGED), how="all")
    if len(judged):
        loss.plot(judged["step"], judged["valid_loss"], marker=".", label="held out")
    loss.set(xlabel="step", ylabel="loss", ylim=(0, 1.1 * max(losses)))  # the first averages may be far above it
    for name, label in (("top1", "top-1"), ("top5", "top-5")) if len(judged) else ():
        accuracy.plot(judged["step"], judged[name], marker=".", label=label)
    accuracy.set(xlabel="step", ylabel="held out", ylim=(0, 1.02))
    accuracy.yaxis.set_major_formatter(PercentFormatter(1))
    if not len(judged):
        accuracy.text(0.5, 0.5, "no image is held out", ha="center", va="center", transform=accuracy.transAxes)
    for axes in (loss, accuracy):
        if axes.lines:
            axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    storage.put_whole(storage.join(folder, "curves.svg"), buffer.getvalue().encode())
