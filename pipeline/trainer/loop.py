"""One training worker: batches of crops in, a trained network out.

In: the datasets `train` and `valid` that Ray Train gives each worker its part of. Out: after every epoch a report to Ray
Train, with all that is needed to go on from there; and what `curves.py` writes of it. Gradients are averaged by torch's DDP.
Not here: how many workers there are, and where the images come from (`train.py`).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
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

from pipeline.errors import UserError
from pipeline.memory import keep_freed_memory
from pipeline.model import weights
from pipeline.model.spec import MEAN, STD, TOP_K
from pipeline.model.weights import Weights
from pipeline.runners.folded import top_k
from pipeline.runners.labeller import DTYPES
from pipeline.store import retry
from pipeline.trainer import final
from pipeline.trainer.curves import JUDGED, write_curves
from pipeline.trainer.network import make_network, make_optimizer
from pipeline.trainer.recipe import Recipe
from pipeline.trainer.saved import save_model

STATE = "state.pt"
LOOK_EVERY = 10  # steps between two looks at the loss: each makes a GPU wait for the last step
SHUFFLED_BYTES = 2**28  # of crops that a worker keeps and draws at random from, since a shard's neighbours are often alike


@dataclass
class Job:
    """What a worker is told. `start`: weights to begin with; `folder`: where the results go; `lines`: for progress.

    `keep_head`: of the weights to begin with.
    """

    recipe: Recipe
    classes: pa.Table
    start: Weights | None
    keep_head: bool
    folder: str
    num_threads: int
    lines: Any


@dataclass
class TrainingProgress:
    """How far training is: epochs and steps that are done; of each step its loss, of each epoch its figures."""

    epoch: int = 0
    step: int = 0
    losses: list[float] = field(default_factory=list)
    epochs: list[dict[str, float]] = field(default_factory=list)


def work(told: dict[str, Any]) -> None:
    """The function that Ray Train runs in each worker: epochs, from the last state that was saved.

    Raises:
        Final: the same would fail again, so it is not to be tried.
    """
    try:
        _work(told)
    except Exception as error:
        if final.is_final(error):
            raise final.mark_final(error) from error
        raise


def _work(told: dict[str, Any]) -> None:
    worker = Worker(told["job"])
    worker.restore()
    while worker.progress.epoch < worker.recipe.epochs:
        begun = time.monotonic()
        losses = worker.train_epoch()
        figures = {"loss": sum(losses) / len(losses), "learning_rate": worker.optimizer.param_groups[0]["lr"],
                   "images_per_s": len(losses) * worker.recipe.batch_size / (time.monotonic() - begun)}
        worker.end_epoch(losses, figures | worker.judge())


class Worker:
    """The network and all that changes with it, on this worker's device."""

    def __init__(self, job: Job) -> None:
        keep_freed_memory()
        torch.set_num_threads(job.num_threads)
        torch.backends.cudnn.benchmark = True
        context = ray.train.get_context()
        self.job, self.recipe, self.progress = job, job.recipe, TrainingProgress()
        self.rank, self.num_workers = context.get_world_rank(), context.get_world_size()
        self.batch_size = job.recipe.batch_size // self.num_workers
        self.device = ray.train.torch.get_device()
        start = weights.load(job.start) if job.start else None
        self.network = make_network(self.recipe, len(job.classes), start, job.keep_head).to(self.device)
        self.ema = ModelEmaV3(self.network, decay=self.recipe.ema_decay, use_warmup=True)
        self.optimizer, self.schedule = make_optimizer(self.recipe, self.network)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.recipe.precision == "fp16")
        self.autocast = torch.autocast(self.device.type, DTYPES[self.recipe.precision], enabled=self.recipe.precision != "fp32")
        self.loss_of = nn.CrossEntropyLoss(label_smoothing=self.recipe.label_smoothing)
        self.kept: dict[str, Any] = {"network": self.network, "ema": self.ema, "optimizer": self.optimizer,
                                     "scaler": self.scaler}

    def restore(self) -> None:
        """Take the last state that was saved, if there is one; then let DDP average the gradients."""
        if saved := ray.train.get_checkpoint():
            with saved.as_directory() as folder:
                self._take(Path(folder) / STATE)
            self.tell(f"goes on after epoch {self.progress.epoch}, step {self.progress.step:,}")
        self.parallel = ray.train.torch.prepare_model(self.network)
        torch.manual_seed(self.recipe.seed + self.rank + 1000 * self.progress.epoch)  # dropout differs between workers

    def _take(self, path: Path) -> None:
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            for name, part in self.kept.items():
                part.load_state_dict(state[name])
            self.progress = TrainingProgress(**state["progress"])
        except Exception as error:  # damaged files fail anywhere in torch's parser
            raise UserError(f"--save {self.job.folder}: the last state in its folder state/ cannot be read ({retry.describe_error(error, 200)}): remove "
                            "that folder to begin anew.") from error

    def tell(self, line: str) -> None:
        """Show a line to the user, if this is the first worker."""
        if self.rank == 0:
            self.job.lines.put(line)

    def train_epoch(self) -> list[float]:
        """Go over all images once; returns the loss of each step, over all workers.

        Raises:
            UserError: the loss is no number any more; a batch is larger than the dataset.
        """
        self.schedule.step(self.progress.epoch)
        self.parallel.train()
        losses: list[Tensor] = []
        looked = time.monotonic()
        for image_NCHW, target_N in self.batches("train"):
            losses.append(self.step(image_NCHW, target_N))
            if len(losses) % LOOK_EVERY == 0:
                self._check(losses[-1])
                rate = LOOK_EVERY * self.recipe.batch_size / (time.monotonic() - looked)
                looked = time.monotonic()
                self.tell(f"epoch {self.progress.epoch + 1}/{self.recipe.epochs}  step {self.progress.step:,}  "
                          f"loss {losses[-1]:.4f}  {rate:,.1f} images/s")
        if not losses:
            raise UserError(f"--batch-size {self.recipe.batch_size} is more than there are images to train on.")
        self._check(losses[-1])
        return (self.over_workers(torch.stack(losses)) / self.num_workers).tolist()

    def _check(self, loss: Tensor) -> None:
        if not torch.isfinite(loss):
            raise UserError(f"the loss is {loss} at step {self.progress.step:,}: lower --learning-rate.")

    def step(self, image_NCHW: Tensor, target_N: Tensor) -> Tensor:
        """One update of the weights; returns the loss before it."""
        with self.autocast:
            logit_NK = self.parallel(image_NCHW)
        loss: Tensor = self.loss_of(logit_NK.float(), target_N)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.progress.step += 1
        self.ema.update(self.network, self.progress.step)
        return loss.detach()

    def judge(self) -> dict[str, float]:
        """Loss and accuracy of the averaged weights on the images that are held out, and their number; of none the number alone."""
        network = self.ema.module.eval()
        if self.num_workers > 1:  # BatchNorm's averages are each worker's own, and those of the first are saved
            for buffer in network.buffers():
                torch.distributed.broadcast(buffer, 0)
        total_4 = torch.zeros(4, dtype=torch.float64, device=self.device)
        with torch.inference_mode():
            for image_NCHW, target_N in self.batches("valid"):
                with self.autocast:
                    logit_NK = network(image_NCHW)
                logit_NK = logit_NK.float()
                right_NK = top_k(logit_NK.softmax(1), min(TOP_K, logit_NK.shape[1]))[1] == target_N[:, None]
                loss = nn.functional.cross_entropy(logit_NK, target_N, reduction="sum")
                total_4 += torch.stack([loss, right_NK[:, 0].sum(), right_NK.sum(), (target_N >= 0).sum()]).double()
        *sums, count = self.over_workers(total_4).tolist()
        shares = {name: total / count for name, total in zip(JUDGED, sums, strict=True)} if count else {}
        return shares | {"valid_images": count}

    def batches(self, name: str) -> Iterator[tuple[Tensor, Tensor]]:
        """This worker's part of a dataset as normalised images [N, 3, S, S] and targets int64 [N]; in training all full."""
        training = name == "train"
        kept = max(self.batch_size, SHUFFLED_BYTES // (3 * self.recipe.image_size**2))
        shuffle = {"local_shuffle_buffer_size": kept} if training else {}
        for batch in ray.train.get_dataset_shard(name).iter_torch_batches(
                batch_size=self.batch_size, drop_last=training, device=self.device, **shuffle):
            image_NCHW = batch["image"].permute(0, 3, 1, 2).float()  # NHWC permuted is channels_last: no copy
            yield (image_NCHW / 255 - MEAN) / STD, batch["target"]

    def over_workers(self, values: Tensor) -> Tensor:
        """The sum over all workers."""
        if self.num_workers > 1:
            torch.distributed.all_reduce(values)
        return values

    def end_epoch(self, losses: list[float], figures: dict[str, float]) -> None:
        """Save the state, and what a user can take: the averaged weights so far, the classes, the curves."""
        self.progress.epoch += 1
        figures = {"epoch": self.progress.epoch, "step": self.progress.step} | figures
        self.progress.losses += losses
        self.progress.epochs.append(figures)
        judged = (f"held out: loss {figures['valid_loss']:.4f}, top-1 {figures['top1']:.2%}, top-5 {figures['top5']:.2%} "
                  f"of {figures['valid_images']:,.0f}" if figures["valid_images"] else "no image is held out: no accuracy")
        self.tell(f"epoch {self.progress.epoch}/{self.recipe.epochs}  loss {figures['loss']:.4f}  {judged}  "
                  f"{figures['images_per_s']:,.1f} images/s")
        if self.rank:
            ray.train.report(figures)
            return
        save_model(self.ema.module.state_dict(), self.job.classes, self.job.folder)
        write_curves(self.progress.losses, self.progress.epochs, self.job.folder)
        with tempfile.TemporaryDirectory() as folder:
            state = {name: part.state_dict() for name, part in self.kept.items()} | {"progress": vars(self.progress)}
            torch.save(state, Path(folder) / STATE)
            ray.train.report(figures, checkpoint=ray.train.Checkpoint.from_directory(folder))
