"""A small set of digits, the flags of a training on it, and its losses."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

TOY = ("--image-size", 75, "--batch-size", 16, "--label-smoothing", 0, "--dropout", 0, "--no-augment", "--precision",
       "fp32")


def digits(folder: Path, number: int) -> Path:
    """So many pictures of each of the digits 0 to 3, in a folder for each."""
    data = load_digits()
    for digit in range(4):
        (folder / f"digit{digit}").mkdir(parents=True)
        for n, at in enumerate(np.flatnonzero(data.target == digit)[:number]):
            Image.fromarray(np.uint8(data.images[at] * 15)).resize((96, 96)).save(folder / f"digit{digit}/{n:03}.png")
    return folder


def losses(folder: Path) -> list[float]:
    with (folder / "steps.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]
