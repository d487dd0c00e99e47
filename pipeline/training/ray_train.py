"""Trains by Ray Train over Ray Data, once the lease of the folder is held.

In: shards, the place of their truth, a recipe. Out, in a folder: `weights.safetensors` and `classes.csv`, which
`jobs/label.py` reads; the curves; and `state/`. After a kill the same command continues from that state, at the last
epoch that was finished.
Not here: the lease of the folder (`train.py`); the loop of a worker (`trainer/loop.py`) and its crops
(`trainer/crops.py`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any, TextIO, cast

import pyarrow as pa
import pyarrow.fs
import ray
import ray.data
import ray.train
from ray.data import DataContext, RandomSeedConfig
from ray.train.torch import TorchTrainer
from ray.util.queue import Queue

from pipeline.actors.connect import connect
from pipeline.actors.tasks import Map, run_tasks
from pipeline.config import Precision
from pipeline.errors import JobError, UserError
from pipeline.model.weights import Weights
from pipeline.runners.labeller import resolve_device
from pipeline.store import storage
from pipeline.trainer.crops import Crops
from pipeline.trainer.final_errors import EndAtFinalError
from pipeline.trainer.job import Job
from pipeline.trainer.loop import train_in_worker
from pipeline.trainer.network import training_precision
from pipeline.trainer.recipe import Recipe, check_workers
from pipeline.trainer.splits import WorkerSplits
from pipeline.training.check_enough import check_enough
from pipeline.training.claim import check_claim, claim_folder
from pipeline.training.coverage_printer import CoveragePrinter
from pipeline.training.heads import choose_head
from pipeline.training.interrupts import Interrupts
from pipeline.training.labelled_shards import LabelledShards, name_empty_classes, read_labelled_shards
from pipeline.training.supervise import run_trainer
from pipeline.truth.coverage import describe_classes, describe_odd_names
from pipeline.truth.sources import Examples

MAX_FAILURES = 3  # of workers; after each one the training goes on from the last state
READER_CPUS = 0.25  # of a reader on a machine without a GPU, where the network needs the processors
NUM_STATES_KEPT = 2


def train_on_ray(examples: Examples, validation: Examples | None, holdout: float, recipe: Recipe, start: Weights | None,
                 given_classes: pa.Table | None, folder: str, num_workers: int | None, stream: TextIO,
                 interrupts: Interrupts, begun_s: float) -> dict[str, float]:
    """Train under the lease. Args and raises: as `train.train`.

    `given_classes`: None: the classes that the truth names. `begun_s`: as in `Job`.
    """
    precision = training_precision(recipe.precision, resolve_device("auto"))
    recipe = replace(recipe, precision=cast(Precision, precision))

    def connect_map() -> Map:
        connect(stream, interrupts.stop)
        return run_tasks

    labelled = read_labelled_shards(examples, given_classes, connect_map, stream)
    valid_labelled = labelled
    if validation is not None:
        with _naming_validation_flags():
            valid_labelled = read_labelled_shards(validation, labelled.classes, connect_map, stream)
    classes = labelled.classes
    valid_share = 0 if validation is not None else holdout
    check_enough(labelled.shards, examples.inputs, valid_share, recipe.batch_size, classes)
    head = choose_head(start, classes) if start else None
    claim = {"recipe": asdict(recipe) | {"epochs": None}, "input": examples.uri,
             "classes": classes["label"].to_pylist(), "weights": start.digest if start else None}
    check_claim(folder, claim)
    interrupts.check()
    _print_classes(labelled, examples.where, stream)
    if head:
        stream.write(f"the head of --weights is {head.reason}\n")
    connect(stream, interrupts.stop)
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    num_cpus, num_gpus = resources.get("CPU", 0), resources.get("GPU", 0)
    num_workers = num_workers or max(1, int(num_gpus))
    check_workers(recipe, num_workers)
    claim_folder(folder, claim)
    messages = Queue(actor_options={"num_cpus": 0})
    reader_threads = 1 if num_gpus else max(1, int(num_cpus) // 2)
    reader_cpus = 1 if num_gpus else READER_CPUS
    datasets: dict[str, Any] = {}
    for side, shards, source in (("train", labelled.shards, examples),
                                 ("valid", valid_labelled.shards, validation or examples)):
        crops = Crops(source.inputs, recipe.image_size, side, valid_share, recipe.augment and side == "train",
                      reader_threads, messages)
        datasets[side] = _make_dataset(shards, crops, reader_cpus, recipe)
    worker_threads = 1 if num_gpus else max(1, int(num_cpus) // num_workers)
    worker_resources = {"CPU": 1.0, "GPU": 1.0} if num_gpus else {"CPU": max(0.1, num_cpus / 2 / num_workers)}
    keep_head = head is not None and head.is_kept
    trainer = TorchTrainer(
        train_in_worker,
        train_loop_config={"job": Job(recipe, classes, start, keep_head, folder, worker_threads, messages,
                                      begun_s)},
        datasets=datasets, dataset_config=WorkerSplits(),
        scaling_config=ray.train.ScalingConfig(num_workers=num_workers, use_gpu=bool(num_gpus),
                                               resources_per_worker=worker_resources),
        run_config=ray.train.RunConfig(
            name="state", **_storage_options(folder),
            failure_config=ray.train.FailureConfig(max_failures=MAX_FAILURES),
            callbacks=[EndAtFinalError()],  # type: ignore[list-item]  # the type of the older Ray Train
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=NUM_STATES_KEPT)))
    printer = CoveragePrinter(labelled, stream, 1 if validation is not None else 2)
    return run_trainer(trainer, messages, stream, interrupts, printer)


def _print_classes(labelled: LabelledShards, where: str, stream: TextIO) -> None:
    num_images = sum(map(len, labelled.shards["keys"].to_pylist()))
    stream.write(f"{num_images:,} images of {len(labelled.classes):,} classes in {len(labelled.shards):,} shards\n")
    stream.write(f"classes {describe_classes(labelled.num_of_class)}\n")
    notes = [*describe_odd_names(labelled.num_of_class, where), *name_empty_classes(labelled.num_of_class)]
    stream.writelines(f"note: {sentence}\n" for sentence in notes)


@contextmanager
def _naming_validation_flags() -> Iterator[None]:
    """Change the flag in a UserError: `--input` to `--validation`, `--truth` to `--validation-truth`."""
    try:
        yield
    except JobError as error:
        flag_of = {"--input": "--validation", "--truth": "--validation-truth"}
        raise UserError(re.sub(r"^--(input|truth)\b", lambda match: flag_of[match[0]], str(error))) from error


def _make_dataset(shards: pa.Table, crops: Crops, num_cpus: float, recipe: Recipe) -> ray.data.Dataset:
    """The crops of all shards. For training the shards have another order in every epoch."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    dataset: ray.data.Dataset = ray.data.from_arrow([shards.slice(row, 1) for row in range(len(shards))])
    if crops.side == "train":
        dataset = dataset.randomize_block_order(seed=RandomSeedConfig(recipe.seed, reseed_after_execution=True))
    return dataset.map_batches(crops, batch_size=None, batch_format="pyarrow", num_cpus=num_cpus)


def _storage_options(folder: str) -> dict[str, Any]:
    """Where Ray Train saves its state: in a local folder, or through our filesystem of a store."""
    if "://" not in folder:
        return {"storage_path": os.fspath(folder)}
    filesystem, path = storage.locate(folder)
    return {"storage_path": path, "storage_filesystem": pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(filesystem))}
