"""A training from its beginning: the labelled shards, the recipe and the folder for the results that a user names.

In: shards, where their truth is, a recipe. Out: weights and curves in a folder, which no other training writes to meanwhile.
Not here: what needs torch and Ray, whose import takes seconds (`train.py`); what is wrong with a flag or a folder is told before.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TextIO

from pipeline.config import check_uri
from pipeline.model import weights
from pipeline.model.classes import load_classes
from pipeline.run.night import new_run_id
from pipeline.stop import Stop
from pipeline.store import storage
from pipeline.store.explain import check_atomic_put
from pipeline.store.lease import Lease, hold_lease
from pipeline.store.uris import canonical_uri
from pipeline.trainer.recipe import Recipe
from pipeline.training.claim import check_not_overwritten
from pipeline.training.heads import check_number
from pipeline.truth.sources import Examples


@dataclass(frozen=True)
class Watch:
    """What may end a training from outside: the user's signal, and the loss of the lease."""

    stop: Stop
    lease: Lease | None

    def look(self) -> None:
        """Raise Stopped or Busy if training shall end."""
        self.stop.check()
        if self.lease:
            self.lease.check()


def train(examples: Examples, validation: Examples | None, holdout: float, recipe: Recipe, start: str | None, classes_path: str | None,
          folder: str, num_workers: int | None, stream: TextIO, stop: Stop | None = None, with_lease: bool = True) -> dict[str, float]:
    """Train, or go on with, the network of a folder; returns the figures of the last epoch.

    Args:
        validation: what to judge by; None: the share `holdout` of the examples.
        start: weights to begin with, as `--weights` takes them; None: from scratch.
        classes_path: a CSV as `--classes` takes it; None: those that the truth names.
        folder: for the results, any fsspec URI.
        num_workers: None: one for each GPU, or one.
        with_lease: refuse to train while another training writes to the folder.

    Raises:
        UserError: something does not fit, or training failed.
        Stopped: the process was asked to end; the same call goes on.
    """
    for name, uri in (("save", folder), ("input", examples.uri), ("validation", validation.uri if validation else None)):
        check_uri(name, uri)
    folder, stop = canonical_uri(folder), stop or Stop()
    check_atomic_put("--save", folder)
    check_not_overwritten(folder, start)
    chosen = weights.identify(start) if start is not None else None
    classes = load_classes(classes_path) if classes_path is not None else None
    if classes is not None:
        check_number(classes, str(classes_path))
    lock = hold_lease(folder, new_run_id(datetime.now(UTC), None), "--save", "--no-lease") if with_lease else nullcontext()
    with storage.removing_new_folders_on_error(folder), lock as lease:
        if lease:
            stop.last_calls.append(lease.release)
        from pipeline.training.on_ray import train_on_ray  # with it torch and Ray
        figures = train_on_ray(examples, validation, holdout, recipe, chosen, classes, folder, num_workers, stream, Watch(stop, lease))
    if lease and lease.release_error:
        stream.write(f"the lease is not given back ({lease.release_error}); it is over within a minute\n")
    return figures
