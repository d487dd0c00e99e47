"""How the workers of a training share its images: equally to train on, and all of them to judge by."""

from __future__ import annotations

from typing import Any

from ray.data import DataIterator, Dataset
from ray.train import DataConfig


class Splits(DataConfig):
    """Ray Train's own sharing leaves out as many images as its workers cannot share equally: of few that are held out, perhaps all."""

    def configure(self, datasets: dict[str, Dataset], world_size: int, *args: Any, **options: Any) -> list[dict[str, DataIterator]]:
        """For each worker its part of the datasets; `valid`, which comes alone, is parted unequally."""
        if "valid" not in datasets:
            return super().configure(datasets, world_size, *args, **options)
        return [{"valid": part} for part in datasets["valid"].streaming_split(world_size, equal=False)]
