"""The entry to a training: checks that need neither torch nor Ray, and the lease of the folder.

In: shards, the place of their truth, a recipe. Out: weights and curves in a folder. No other training writes to the
folder meanwhile.
Not here: the training itself (`ray_train.py`). It needs torch and Ray, whose import takes seconds. So mistakes in flags
and folders are reported before that.
"""

from __future__ import annotations

import time
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import TextIO

from pipeline.config import check_uri
from pipeline.model import weights
from pipeline.model.classes import load_classes
from pipeline.run.night import new_run_id
from pipeline.stop import Stop
from pipeline.store import storage
from pipeline.store.explain import check_atomic_put
from pipeline.store.lease import hold_lease
from pipeline.store.uris import canonical_uri
from pipeline.trainer.recipe import Recipe
from pipeline.training.claim import check_not_overwritten
from pipeline.training.heads import check_num_classes
from pipeline.training.interrupts import Interrupts
from pipeline.truth.sources import Examples


def train(examples: Examples, validation: Examples | None, holdout: float, recipe: Recipe, start: str | None,
          classes_path: str | None, folder: str, num_workers: int | None, stream: TextIO, stop: Stop | None = None,
          with_lease: bool = True) -> dict[str, float]:
    """Train a network, or continue its training. Returns the figures of the last epoch.

    Args:
        validation: the images to judge by; None: the share `holdout` of the examples.
        start: the weights with which the training begins, a value of `--weights`; None: from scratch.
        classes_path: a CSV of classes, a value of `--classes`; None: the classes that the truth names.
        folder: for the results, any fsspec URI.
        num_workers: None: one for each GPU, or one.
        stream: for lines of progress.
        with_lease: refuse to train while another training writes to the folder.

    Raises:
        UserError: something does not fit, or the training failed.
        Stopped: the process was asked to end. The same call continues the training.
    """
    begun_s = time.time()
    validation_uri = validation.uri if validation else None
    for name, uri in (("save", folder), ("input", examples.uri), ("validation", validation_uri)):
        check_uri(name, uri)
    folder, stop = canonical_uri(folder), stop or Stop()
    check_atomic_put("--save", folder)
    check_not_overwritten(folder, start)
    start_weights = weights.identify(start) if start is not None else None
    classes = load_classes(classes_path) if classes_path is not None else None
    if classes is not None:
        check_num_classes(classes, str(classes_path))
    run_id = new_run_id(datetime.now(UTC), None)
    lease_context = hold_lease(folder, run_id, "--save", "--no-lease") if with_lease else nullcontext()
    with storage.removing_new_folders_on_error(folder), lease_context as lease:
        if lease:
            stop.last_calls.append(lease.release)
        from pipeline.training.ray_train import train_on_ray  # this imports torch and Ray
        figures = train_on_ray(examples, validation, holdout, recipe, start_weights, classes, folder, num_workers,
                               stream, Interrupts(stop, lease), begun_s)
    if lease and lease.release_error:
        stream.write(f"the lease is not given back ({lease.release_error}); it is over within a minute\n")
    return figures
