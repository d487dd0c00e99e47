"""Training by Ray Train over Ray Data, once the folder for its results is taken.

In: shards, where their truth is, a recipe. Out, in a folder: `weights.safetensors` and `classes.csv`, which `jobs/label.py`
takes, the curves, and `state/`, from which the same command goes on after a kill: at the last epoch that was finished.
Not here: the folder's lease (`training.py`), the loop of a worker (`trainer.py`) and its crops (`crops.py`).
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
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
from pipeline.config import Precision
from pipeline.errors import JobError, UserError
from pipeline.model.weights import Weights
from pipeline.runners.labeller import resolve_device
from pipeline.store import storage
from pipeline.trainer.crops import Crops
from pipeline.trainer.final import Ending
from pipeline.trainer.loop import Job, work
from pipeline.trainer.network import training_precision
from pipeline.trainer.recipe import Recipe, check_workers
from pipeline.trainer.splits import Splits
from pipeline.training.begin import Watch
from pipeline.training.claim import check_claim, claim
from pipeline.training.enough import check_enough
from pipeline.training.heads import choose_head
from pipeline.training.labelled_shards import ShownOnce, name_empty_classes, read_labelled
from pipeline.training.watch import fit
from pipeline.truth import sources
from pipeline.truth.coverage import describe_classes, describe_odd_names
from pipeline.truth.sources import Examples, Spread

FAILURES = 3  # of workers that may pass, after each of which training goes on from the last state
READER_CPUS = 0.25  # of one on a machine without a GPU, where the network needs the processors
STATES_KEPT = 2


def train_on_ray(examples: Examples, validation: Examples | None, holdout: float, recipe: Recipe, start: Weights | None,
                 given: pa.Table | None, folder: str, num_workers: int | None, stream: TextIO, watch: Watch) -> dict[str, float]:
    """`training.train`, under the lease; `given`: the classes, if not those that the truth names."""
    precision = training_precision(recipe.precision, resolve_device("auto"))
    recipe = replace(recipe, precision=cast(Precision, precision))
    spread = partial(_on_cluster, stream, watch)
    labelled = read_labelled(examples, given, spread)
    judging = labelled
    if validation is not None:
        with _of_validation():
            judging = read_labelled(validation, labelled.classes, spread)
    classes, train_shards = labelled.classes, labelled.shards
    share = 0 if validation is not None else holdout
    check_enough(train_shards, examples.inputs, share, recipe.batch_size, classes)
    head = choose_head(start, classes) if start else None
    began = {"recipe": asdict(recipe) | {"epochs": None}, "input": examples.uri, "classes": classes["label"].to_pylist(),
             "weights": start.digest if start else None}
    check_claim(folder, began)
    watch.look()
    num_images = sum(map(len, train_shards["keys"].to_pylist()))
    stream.write(f"{num_images:,} images of {len(classes):,} classes in {len(train_shards):,} shards\n")
    stream.write(f"classes {describe_classes(labelled.num_of_class)}\n")
    stream.writelines(f"note: {sentence}\n" for sentence in [*describe_odd_names(labelled.num_of_class, examples.where), *name_empty_classes(labelled.num_of_class)])
    if head:
        stream.write(f"the head of --weights is {head.why}\n")
    connect(stream, watch.stop)
    cpus, gpus = (ray.cluster_resources().get(name, 0) for name in ("CPU", "GPU"))
    num_workers = num_workers or max(1, int(gpus))
    check_workers(recipe, num_workers)
    claim(folder, began)
    lines = Queue(actor_options={"num_cpus": 0})
    datasets: dict[str, Any] = {side: _dataset(shards, Crops(which.inputs, recipe.image_size, side, share, recipe.augment and side == "train",
                                             1 if gpus else max(1, int(cpus) // 2), lines), 1 if gpus else READER_CPUS, recipe)
                for side, shards, which in (("train", train_shards, examples), ("valid", judging.shards, validation or examples))}
    of_worker = {"CPU": 1.0, "GPU": 1.0} if gpus else {"CPU": max(0.1, cpus / 2 / num_workers)}
    threads = 1 if gpus else max(1, int(cpus) // num_workers)
    trainer = TorchTrainer(
        work, train_loop_config={"job": Job(recipe, classes, start, head is not None and head.kept, folder, threads, lines)},
        datasets=datasets, dataset_config=Splits(),
        scaling_config=ray.train.ScalingConfig(num_workers=num_workers, use_gpu=bool(gpus), resources_per_worker=of_worker),
        run_config=ray.train.RunConfig(
            name="state", **_place(folder), failure_config=ray.train.FailureConfig(max_failures=FAILURES), callbacks=[Ending()],  # type: ignore[list-item]  # of the older Ray Train
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=STATES_KEPT)))
    return fit(trainer, lines, stream, watch, ShownOnce(labelled, stream, 1 if validation is not None else 2))


@contextmanager
def _of_validation() -> Iterator[None]:
    """What is wrong with the input or its truth is so with those of the flags `--validation`."""
    try:
        yield
    except JobError as error:
        said = re.sub(r"^--(input|truth)\b", lambda match: "--validation" if match[1] == "input" else "--validation-truth", str(error))
        raise UserError(said) from error


def _on_cluster(stream: TextIO, watch: Watch) -> Spread:
    """What reads shards on the cluster: each is a task, so no bytes of them come here."""
    connect(stream, watch.stop)
    task = ray.remote(num_cpus=1)(work_on).options(max_retries=3)
    at_once = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))

    def spread(work: Callable[[Any], sources.Shard], items: Iterable[Any]) -> Iterator[sources.Shard]:
        coming: deque[Any] = deque()
        shipped = ray.put(work)
        for item in items:
            coming.append(task.remote(shipped, item))
            if len(coming) == at_once:
                yield _result(coming.popleft())
        while coming:
            yield _result(coming.popleft())

    return spread


def work_on(work: Callable[[Any], sources.Shard], item: Any) -> sources.Shard:
    """A task of `_on_cluster`."""
    return work(item)


def _result(reference: Any) -> sources.Shard:
    try:
        read: sources.Shard = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, JobError) else error
    return read


def _dataset(shards: pa.Table, crops: Crops, num_cpus: float, recipe: Recipe) -> ray.data.Dataset:
    """Crops of all shards, in another order of shards in every epoch."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    dataset: ray.data.Dataset = ray.data.from_arrow([shards.slice(at, 1) for at in range(len(shards))])
    if crops.side == "train":
        dataset = dataset.randomize_block_order(seed=RandomSeedConfig(recipe.seed, reseed_after_execution=True))
    return dataset.map_batches(crops, batch_size=None, batch_format="pyarrow", num_cpus=num_cpus)


def _place(folder: str) -> dict[str, Any]:
    """Where Ray Train keeps its state: a local folder, or our own filesystem of a store."""
    if "://" not in folder:
        return {"storage_path": os.fspath(folder)}
    filesystem, path = storage.locate(folder)
    return {"storage_path": path, "storage_filesystem": pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(filesystem))}
