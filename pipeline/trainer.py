"""One training worker: batches of crops in, a trained network out.

In: the datasets `train` and `valid` that Ray Train gives each worker its part of. Out: after every epoch a report to Ray
Train, with all that is needed to go on from there; and what `curves.py` writes of it. Gradients are averaged by torch's DDP.
Not here: how many workers there are, and where the images come from (`train.py`).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from pipeline import weights
from pipeline.curves import write_curves
from pipeline.inception_v4 import MEAN, STD
from pipeline.labeller import DTYPES
from pipeline.memory import keep_freed_memory
from pipeline.recipe import Recipe, make_network, make_optimizer
from pipeline.saved import save_model
from pipeline.weights import Weights

STATE = "state.pt"
LOOK_EVERY = 10  # steps between two looks at the loss: each makes a GPU wait for the last step
SHUFFLED_BATCHES = 8  # that a worker keeps and draws at random from, since a shard's neighbours are often alike


class NotFinite(Exception):
    """The loss is no number any more."""


@dataclass
class Job:
    """What a worker is told. `start`: weights to begin with; `folder`: where the results go; `lines`: for progress."""

    recipe: Recipe
    classes: pa.Table
    start: Weights | None
    folder: str
    num_threads: int
    lines: Any


@dataclass
class Progress:
    """How far training is: epochs and steps that are done; of each step its loss, of each epoch its figures."""

    epoch: int = 0
    step: int = 0
    losses: list[float] = field(default_factory=list)
    epochs: list[dict[str, float]] = field(default_factory=list)


def work(told: dict[str, Any]) -> None:
    """The loop that Ray Train runs in each worker, from the last state that it saved."""
    job: Job = told["job"]
    recipe, progress = job.recipe, Progress()
    context = ray.train.get_context()
    rank, num_workers = context.get_world_rank(), context.get_world_size()
    keep_freed_memory()
    torch.set_num_threads(job.num_threads)
    torch.backends.cudnn.benchmark = True
    device = ray.train.torch.get_device()
    network = make_network(recipe, len(job.classes), weights.load(job.start) if job.start else None).to(device)
    ema = ModelEmaV3(network, decay=recipe.ema_decay, use_warmup=True)
    optimizer, schedule = make_optimizer(recipe, network)
    scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
    parts: dict[str, Any] = {"network": network, "ema": ema, "optimizer": optimizer, "scaler": scaler}
    if saved := ray.train.get_checkpoint():
        with saved.as_directory() as folder:
            state = torch.load(Path(folder) / STATE, map_location=device, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        progress = Progress(**state["progress"])
        if rank == 0:
            job.lines.put(f"goes on after epoch {progress.epoch}, step {progress.step:,}")
    parallel = ray.train.torch.prepare_model(network)
    torch.manual_seed(recipe.seed + rank + 1000 * progress.epoch)  # dropout differs between workers
    loss_of = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    autocast = torch.autocast(device.type, DTYPES[recipe.precision], enabled=recipe.precision != "fp32")

    while progress.epoch < recipe.epochs:
        schedule.step(progress.epoch)
        begun, losses, parallel_on = time.monotonic(), [], parallel.train()
        looked = begun
        for image_NCHW, target_N in batches("train", recipe.batch_size // num_workers, device, shuffled=True):
            with autocast:
                logit_NK = parallel_on(image_NCHW)
            loss = loss_of(logit_NK.float(), target_N)
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(network.parameters(), recipe.clip_norm)
            scaler.step(optimizer)
            scaler.update()
            progress.step += 1
            ema.update(network, progress.step)
            losses.append(loss.detach())
            if len(losses) % LOOK_EVERY == 0:
                if not torch.isfinite(losses[-1]):
                    raise NotFinite(f"the loss is {losses[-1]} at step {progress.step:,}: lower --learning-rate")
                if rank == 0:
                    rate = LOOK_EVERY * recipe.batch_size / (time.monotonic() - looked)
                    looked = time.monotonic()
                    job.lines.put(f"epoch {progress.epoch + 1}/{recipe.epochs}  step {progress.step:,}  "
                                  f"loss {losses[-1]:.4f}  {rate:,.1f} images/s")
        if not losses:
            raise ValueError(f"--batch-size {recipe.batch_size} is more than there are images to train on")
        loss_S = torch.stack(losses)
        if num_workers > 1:
            torch.distributed.all_reduce(loss_S)
        train_s = time.monotonic() - begun
        progress.epoch += 1
        progress.losses += (loss_S / num_workers).tolist()
        figures = {"epoch": progress.epoch, "step": progress.step, "loss": float(loss_S.mean() / num_workers),
                   "learning_rate": optimizer.param_groups[0]["lr"],
                   "images_per_s": len(losses) * recipe.batch_size / train_s,
                   **judge(ema.module, recipe, device, autocast, num_workers)}
        progress.epochs.append(figures)
        if rank == 0:
            job.lines.put(f"epoch {progress.epoch}/{recipe.epochs}  loss {figures['loss']:.4f}  valid loss "
                          f"{figures['valid_loss']:.4f}  top-1 {figures['top1']:.2%}  top-5 {figures['top5']:.2%}  "
                          f"of {figures['valid_images']:,.0f}  {figures['images_per_s']:,.1f} images/s")
        _report(job, parts, progress, figures, rank)


def batches(name: str, size: int, device: torch.device, *, shuffled: bool) -> Iterable[tuple[Tensor, Tensor]]:
    """This worker's part of a dataset as normalised images [N, 3, S, S] and targets int64 [N]; in training all of `size`."""
    dataset = ray.train.get_dataset_shard(name)
    shuffle = {"local_shuffle_buffer_size": SHUFFLED_BATCHES * size} if shuffled else {}
    for batch in dataset.iter_torch_batches(batch_size=size, drop_last=shuffled, device=device, **shuffle):
        image_NCHW = batch["image"].permute(0, 3, 1, 2).float()  # NHWC permuted is channels_last: no copy
        yield (image_NCHW / 255 - MEAN) / STD, batch["target"]


def judge(network: nn.Module, recipe: Recipe, device: torch.device, autocast: Any, num_workers: int) -> dict[str, float]:
    """Loss and accuracy on the images that are held out, over all workers; all zero where there are none."""
    total_4 = torch.zeros(4, dtype=torch.float64, device=device)
    network.eval()
    with torch.inference_mode():
        for image_NCHW, target_N in batches("valid", recipe.batch_size // num_workers, device, shuffled=False):
            with autocast:
                logit_NK = network(image_NCHW)
            logit_NK = logit_NK.float()
            top_NK = logit_NK.topk(min(5, logit_NK.shape[1])).indices
            right_NK = top_NK == target_N[:, None]
            total_4 += torch.stack([nn.functional.cross_entropy(logit_NK, target_N, reduction="sum"), right_NK[:, 0].sum(),
                                    right_NK.sum(), torch.tensor(len(target_N), device=device)]).double()
    if num_workers > 1:
        torch.distributed.all_reduce(total_4)
    loss, top1, top5, count = total_4.tolist()
    return {"valid_loss": loss / max(count, 1), "top1": top1 / max(count, 1), "top5": top5 / max(count, 1),
            "valid_images": count}


def _report(job: Job, parts: dict[str, Any], progress: Progress, figures: dict[str, float], rank: int) -> None:
    """Save the state, and what a user can take: the averaged weights so far, the classes, the curves."""
    with tempfile.TemporaryDirectory() if rank == 0 else nullcontext() as folder:
        saved = None
        if folder is not None:
            torch.save({name: part.state_dict() for name, part in parts.items()} | {"progress": vars(progress)},
                       Path(folder) / STATE)
            saved = ray.train.Checkpoint.from_directory(folder)
            save_model(parts["ema"].module.state_dict(), job.classes, job.folder)
            write_curves(progress.losses, progress.epochs, job.folder)
        ray.train.report(figures, checkpoint=saved)
