"""The curve of the losses has the same size after a million steps as after a few thousand."""

import json
import random
from dataclasses import asdict

import pytest

from pipeline.trainer.curves import MAX_POINTS, LossCurve
from pipeline.trainer.job import TrainingProgress


@pytest.mark.parametrize("number", [0, 1, 7, MAX_POINTS, MAX_POINTS + 1, 3 * MAX_POINTS + 5, 100_000])
def test_points_are_means_of_the_steps(number: int) -> None:
    losses = [random.Random(number).random() for _ in range(number)]
    curve = LossCurve()
    for start in range(0, number, 10):  # as a worker adds them
        curve.add(losses[start:start + 10])
    steps, means = curve.rows()
    assert len(steps) == len(means) <= MAX_POINTS + 1
    assert (steps[-1] if steps else 0) == number
    for begin, end, mean in zip([0, *steps], steps, means, strict=False):
        assert mean == pytest.approx(sum(losses[begin:end]) / (end - begin))
    assert number > MAX_POINTS or means == losses


def test_the_saved_state_does_not_grow() -> None:
    progress = TrainingProgress()
    sizes = []
    for _ in range(20):
        progress.losses.add(random.random() for _ in range(10_000))
        sizes.append(len(json.dumps(asdict(progress))))
        assert TrainingProgress.of(json.loads(json.dumps(asdict(progress)))) == progress
    assert max(sizes) < 25 * MAX_POINTS
