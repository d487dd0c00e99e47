"""Training: labelled shards in, weights out, by Ray Train over Ray Data.

In: shards, where their truth is, a recipe. Out, in a folder: `weights.safetensors` and `classes.csv`, which `jobs/label.py`
takes, the curves, and `state/`, from which the same command goes on after a kill: at the last epoch that was finished.
Not here: the loop of a worker (`trainer.py`) and its crops (`crops.py`).
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs
import ray
import ray.data
import ray.train
from ray.data import DataContext, RandomSeedConfig
from ray.train.torch import TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError
from ray.util.queue import Queue

from pipeline import storage, truth, weights
from pipeline.classes import load_classes
from pipeline.config import UserError, canonical_uri, check_uri
from pipeline.crops import SHARDS, Crops
from pipeline.inputs import Inputs
from pipeline.recipe import SMALLEST, Recipe
from pipeline.retry import told
from pipeline.trainer import Job, work

FAILURES = 3  # of workers, after each of which training goes on from the last state
READER_CPUS = 0.25  # of one on a machine without a GPU, where the network needs the processors
STATES_KEPT = 2


@dataclass(frozen=True)
class Examples:
    """Labelled shards: their URI, where their truth is, how they are read."""

    uri: str
    where: str
    inputs: Inputs
    format: str = "auto"


def train(examples: Examples, validation: Examples | None, holdout: float, recipe: Recipe, start: str | None,
          classes_path: str | None, folder: str, num_workers: int | None, stream: TextIO) -> dict[str, float]:
    """Train, or go on with, the network of a folder; returns the figures of the last epoch.

    Args:
        validation: what to judge by; None: the share `holdout` of the examples.
        start: weights to begin with, as `--weights` takes them; None: from scratch.
        classes_path: a CSV as `--classes` takes it; None: those that the truth names.
        folder: for the results, any fsspec URI.
        num_workers: None: one for each GPU, or one.

    Raises:
        UserError: something does not fit, or training failed.
    """
    if recipe.image_size < SMALLEST:
        raise UserError(f"--image-size {recipe.image_size}: the network needs at least {SMALLEST} pixels.")
    for name, uri in (("save", folder), ("input", examples.uri), ("validation", validation.uri if validation else None)):
        check_uri(name, uri)
    folder = canonical_uri(folder)
    known = _truth_of(examples)
    classes = load_classes(classes_path) if classes_path else truth.classes_of(known["value"].to_pylist())
    train_shards = _shards(examples, known, classes)
    valid_shards = train_shards
    if validation is not None:
        valid_shards = _shards(validation, _truth_of(validation), classes)
    num_images = sum(map(len, train_shards["keys"].to_pylist()))
    if num_images < recipe.batch_size:
        raise UserError(f"--batch-size {recipe.batch_size}: --input has {num_images:,} images with a truth.")
    chosen = weights.identify(start) if start else None
    _claim(folder, {"recipe": asdict(recipe) | {"epochs": None}, "input": examples.uri, "classes": classes["label"].to_pylist(),
                    "weights": chosen.digest if chosen else None})

    stream.write(f"{num_images:,} images of {len(classes):,} classes in {len(train_shards):,} shards\n")
    _start_ray()
    cpus, gpus = (ray.cluster_resources().get(name, 0) for name in ("CPU", "GPU"))
    num_workers = num_workers or max(1, int(gpus))
    if recipe.batch_size % num_workers:
        raise UserError(f"--batch-size {recipe.batch_size} cannot be shared by {num_workers} workers: take a multiple.")
    lines = Queue(actor_options={"num_cpus": 0})
    shown = threading.Thread(target=_show, args=(lines, stream), daemon=True)
    shown.start()
    share = 0 if validation is not None else holdout
    datasets: dict[str, Any] = {side: _dataset(shards, Crops(which.inputs, recipe.image_size, side, share, recipe.augment and side == "train",
                                             1 if gpus else max(1, int(cpus) // 2), lines), 1 if gpus else READER_CPUS, recipe)
                for side, shards, which in (("train", train_shards, examples), ("valid", valid_shards, validation or examples))}
    of_worker = {"CPU": 1.0, "GPU": 1.0} if gpus else {"CPU": max(0.1, cpus / 2 / num_workers)}
    threads = 1 if gpus else max(1, int(cpus) // num_workers)
    trainer = TorchTrainer(
        work, train_loop_config={"job": Job(recipe, classes, chosen, folder, threads, lines)}, datasets=datasets,
        scaling_config=ray.train.ScalingConfig(num_workers=num_workers, use_gpu=bool(gpus), resources_per_worker=of_worker),
        run_config=ray.train.RunConfig(
            name="state", **_place(folder), failure_config=ray.train.FailureConfig(max_failures=FAILURES),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=STATES_KEPT)))
    try:
        figures: dict[str, float] = trainer.fit().metrics or {}
    except TrainingFailedError as error:
        causes = getattr(error, "worker_failures", None) or {0: error}
        raise UserError(f"training failed: {told(next(iter(causes.values())))}.") from error
    finally:
        lines.put(None)
        shown.join(10)
    return figures


def _start_ray() -> None:
    ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, ignore_reinit_error=True)


def _truth_of(examples: Examples) -> pa.Table:
    """The truth; where it is inside of tars, all their bytes are read for it, and that the cluster does."""
    if not examples.where.startswith("member:"):
        return truth.read(examples.where, examples.uri, examples.inputs, examples.format)
    _start_ray()
    return truth.read(examples.where, examples.uri, examples.inputs, examples.format, _on_cluster)


def _on_cluster(work: Callable[[Any], pa.Table], items: Iterable[Any]) -> Iterator[pa.Table]:
    """The results of a function over items, in order; each call is a task of the cluster, so no bytes of a shard come here."""
    task = ray.remote(num_cpus=1)(work_on).options(max_retries=3)
    at_once = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    coming: deque[Any] = deque()
    shipped = ray.put(work)
    for item in items:
        coming.append(task.remote(shipped, item))
        if len(coming) == at_once:
            yield _result(coming.popleft())
    while coming:
        yield _result(coming.popleft())


def work_on(work: Callable[[Any], pa.Table], item: Any) -> pa.Table:
    """A task of `_on_cluster`."""
    return work(item)


def _result(reference: Any) -> pa.Table:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, UserError) else error


def _shards(examples: Examples, known: pa.Table, classes: pa.Table) -> pa.Table:
    """The shards that have examples, as `crops.SHARDS`."""
    values = known["value"].combine_chunks()
    label_id = pa.array(truth.targets(values.to_pylist(), classes), pa.int32())
    if pc.min(label_id).as_py() < 0:
        label_id, _ = truth.resolve(values, classes)
    foreign = pc.sum(pc.invert(pc.is_in(label_id, classes["label_id"].cast(pa.int32()).combine_chunks()))).as_py()
    if foreign:
        raise UserError(f"--truth {examples.where}: {foreign:,} images are of no class of the {len(classes):,}.")
    table = pa.table({"shard": known["shard"], "keys": known["key"], "targets": label_id})
    table = table.group_by("shard").aggregate([("keys", "list"), ("targets", "list")])
    of = {row["shard"]: row for row in table.to_pylist()}
    rows = [{"shard": shard, "uri": uri, "keys": of[shard]["keys_list"], "targets": of[shard]["targets_list"], "group": group}
            for shard, uri, group in truth.shards(examples.uri, examples.format) if shard in of]
    if not rows:
        raise UserError(f"--truth {examples.where}: it is of no shard of {examples.uri}.")
    return pa.Table.from_pylist(rows, schema=SHARDS)


def _dataset(shards: pa.Table, crops: Crops, num_cpus: float, recipe: Recipe) -> ray.data.Dataset:
    """Crops of all shards, in another order of shards in every epoch."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    dataset: ray.data.Dataset = ray.data.from_arrow([shards.slice(at, 1) for at in range(len(shards))])
    if crops.side == "train":
        dataset = dataset.randomize_block_order(seed=RandomSeedConfig(recipe.seed, reseed_after_execution=True))
    return dataset.map_batches(crops, batch_size=None, batch_format="pyarrow", num_cpus=num_cpus)


def _claim(folder: str, what: dict[str, Any]) -> None:
    """Note in the folder what is trained there. Raises UserError if that was something else."""
    uri = storage.join(folder, "training.json")
    text = json.dumps(what, indent=2, sort_keys=True) + "\n"
    try:
        stored = json.loads(storage.read_bytes(uri))
    except FileNotFoundError:
        stored = None
    except Exception as error:  # each store has its own exceptions
        raise storage.explain("save", folder, error) from error
    if stored is None:
        try:
            storage.put_whole(uri, text.encode())
        except Exception as error:  # each store has its own exceptions
            raise storage.explain("save", folder, error) from error
    elif stored != what:
        other = [name for name in what if name != "recipe" and stored.get(name) != what[name]]
        other += [name for name, value in what["recipe"].items() if stored.get("recipe", {}).get(name) != value]
        raise UserError(f"--save {folder} holds a training with another {' and '.join(other)}: name another folder, or "
                        "what it began with.")


def _place(folder: str) -> dict[str, Any]:
    """Where Ray Train keeps its state: a local folder, or our own filesystem of a store."""
    if "://" not in folder:
        return {"storage_path": os.fspath(folder)}
    filesystem, path = storage.locate(folder)
    return {"storage_path": path, "storage_filesystem": pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(filesystem))}


def _show(lines: Queue, stream: TextIO) -> None:
    """Print what workers and readers tell, each line once, until None comes."""
    said = set()
    while (line := lines.get()) is not None:
        if line not in said:
            said.add(line)
            print(line, file=stream, flush=True)
