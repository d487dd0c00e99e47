"""The share of each training worker in the images: equal shares to train on; of the images to judge by, all of them."""

from __future__ import annotations

from typing import Any

from ray.data import DataIterator, Dataset
from ray.train import DataConfig


class WorkerSplits(DataConfig):
    """Splits the datasets. Equal shares leave a remainder out; of a few held out images that might be all."""

    def configure(self, datasets: dict[str, Dataset], world_size: int, *args: Any,
                  **options: Any) -> list[dict[str, DataIterator]]:
        """The part of the datasets for each worker. Ray Train asks for `valid` alone; its parts may be unequal."""
        if "valid" not in datasets:
            return super().configure(datasets, world_size, *args, **options)
        return [{"valid": part} for part in datasets["valid"].streaming_split(world_size, equal=False)]
