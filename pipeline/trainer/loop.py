"""One training worker: batches of crops in, a trained network out.

In: this worker's part of the datasets `train` and `valid`, from Ray Train. Out: after every epoch a report to Ray Train
with the whole state, so that a later process can continue; the model; the curves. torch's DDP averages the gradients.
Not here: the number of workers, and the source of the images (`training/ray_train.py`).
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
import torch.distributed
from timm.utils import ModelEmaV3  # type: ignore[attr-defined]
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.memory import keep_freed_memory
from pipeline.model import weights
from pipeline.model.spec import MEAN, STD, TOP_K
from pipeline.runners.folded import top_k
from pipeline.runners.labeller import DTYPES
from pipeline.store.retry import describe_error
from pipeline.trainer.curves import JUDGED, write_curves
from pipeline.trainer.final_errors import is_final, to_final_error
from pipeline.trainer.job import Job, TrainingProgress
from pipeline.trainer.network import make_network, make_optimizer
from pipeline.trainer.saved import save_model

STATE = "state.pt"
CHECK_EVERY = 10  # steps; each check of the loss makes the GPU wait for the last step
# Of crops that a worker keeps and draws from at random: neighbours in a shard are often alike.
SHUFFLED_BYTES = 2**28


def train_in_worker(settings: dict[str, Any]) -> None:
    """Train from the last saved state to the last epoch. Ray Train calls this in each worker.

    Args:
        settings: `job`, a `Job`.

    Raises:
        FinalError: the same error would happen again; Ray Train must not try again.
    """
    try:
        _train(settings["job"])
    except Exception as error:
        if is_final(error):
            raise to_final_error(error) from error
        raise


def _train(job: Job) -> None:
    worker = Worker(job)
    worker.restore()
    while worker.progress.epoch < worker.recipe.epochs:
        started = time.monotonic()
        loss, num_steps = worker.train_epoch()
        figures = {"loss": loss, "learning_rate": worker.optimizer.param_groups[0]["lr"],
                   "images_per_s": num_steps * worker.recipe.batch_size / (time.monotonic() - started)}
        worker.end_epoch(figures | worker.validate())


class Worker:
    """The network, its optimizer and the rest of the training's state, on the device of this worker."""

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
        dtype = DTYPES[self.recipe.precision]
        self.autocast = torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)
        self.loss_of = nn.CrossEntropyLoss(label_smoothing=self.recipe.label_smoothing)
        self.state_parts: dict[str, Any] = {"network": self.network, "ema": self.ema, "optimizer": self.optimizer,
                                            "scaler": self.scaler}

    def restore(self) -> None:
        """Load the last saved state, if there is one; then wrap the network for DDP."""
        if saved_state := ray.train.get_checkpoint():
            with saved_state.as_directory() as folder:
                self._load(Path(folder) / STATE)
            self.report_line(f"goes on after epoch {self.progress.epoch}, step {self.progress.step:,}")
        self.parallel = ray.train.torch.prepare_model(self.network)
        # Dropout must differ between workers.
        torch.manual_seed(self.recipe.seed + self.rank + 1000 * self.progress.epoch)

    def _load(self, path: Path) -> None:
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            for name, part in self.state_parts.items():
                part.load_state_dict(state[name])
            self.progress = TrainingProgress.of(state["progress"])
        except Exception as error:  # a damaged file can fail anywhere in torch's parser
            raise UserError(f"--save {self.job.folder}: the last state in its folder state/ cannot be read "
                            f"({describe_error(error, 200)}): remove that folder to begin anew.") from error

    def report_line(self, line: str) -> None:
        """Show a line to the user, if this is the first worker."""
        if self.rank == 0:
            self.job.messages.put(line)

    def train_epoch(self) -> tuple[float, int]:
        """Train on all images once. Returns the mean loss over all steps and workers, and the number of steps.

        Raises:
            UserError: the loss is not finite; or a batch is larger than the dataset.
        """
        self.schedule.step(self.progress.epoch)
        self.parallel.train()
        total, num_steps = 0.0, 0
        pending: list[Tensor] = []  # losses of steps that no check has seen yet
        checked_at = time.monotonic()
        for image_NCHW, target_N in self.batches("train"):
            pending.append(self.step(image_NCHW, target_N))
            if not num_steps and len(pending) == 1:
                self.report_line(f"the first step ends {time.time() - self.job.begun_s:.1f} s after the start")
            if len(pending) == CHECK_EVERY:
                losses = self._take_losses(pending)
                total, num_steps = total + sum(losses), num_steps + CHECK_EVERY
                rate = CHECK_EVERY * self.recipe.batch_size / (time.monotonic() - checked_at)
                checked_at = time.monotonic()
                self.report_line(f"epoch {self.progress.epoch + 1}/{self.recipe.epochs}  step {self.progress.step:,}  "
                          f"loss {losses[-1]:.4f}  {rate:,.1f} images/s")
        if not num_steps and not pending:
            raise UserError(f"--batch-size {self.recipe.batch_size} is more than there are images to train on.")
        rest = self._take_losses(pending)
        total, num_steps = total + sum(rest), num_steps + len(rest)
        return total / num_steps, num_steps

    def _take_losses(self, pending: list[Tensor]) -> list[float]:
        """The pending losses, averaged over all workers; they are in the curve then, and nothing is pending."""
        if not pending:
            return []
        losses: list[float] = (self.sum_over_workers(torch.stack(pending)) / self.num_workers).tolist()
        if not math.isfinite(losses[-1]):
            raise UserError(f"the loss is {losses[-1]} at step {self.progress.step:,}: lower --learning-rate.")
        pending.clear()
        self.progress.losses.add(losses)
        return losses

    def step(self, image_NCHW: Tensor, target_N: Tensor) -> Tensor:
        """Update the weights once. Returns the loss before the update."""
        with self.autocast:
            logit_NK = self.parallel(image_NCHW)
        loss: Tensor = self.loss_of(logit_NK.float(), target_N)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.progress.step += 1
        self.ema.update(self.network, self.progress.step)
        return loss.detach()

    def validate(self) -> dict[str, float]:
        """Loss and accuracy of the averaged weights on the held out images, and the number of these images.

        Without such images the result has the number only.
        """
        network = self.ema.module.eval()
        if self.num_workers > 1:  # each worker has its own averages of BatchNorm; those of the first are saved
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
        *sums, count = self.sum_over_workers(total_4).tolist()
        shares = {name: total / count for name, total in zip(JUDGED, sums, strict=True)} if count else {}
        return shares | {"valid_images": count}

    def batches(self, name: str) -> Iterator[tuple[Tensor, Tensor]]:
        """This worker's part of a dataset: normalised images [N, 3, S, S], targets int64 [N]. In `train` N is fixed."""
        training = name == "train"
        num_shuffled = max(self.batch_size, SHUFFLED_BYTES // (3 * self.recipe.image_size**2))
        shuffle = {"local_shuffle_buffer_size": num_shuffled} if training else {}
        for batch in ray.train.get_dataset_shard(name).iter_torch_batches(
                batch_size=self.batch_size, drop_last=training, device=self.device, **shuffle):
            image_NCHW = batch["image"].permute(0, 3, 1, 2).float()  # permuted NHWC is channels_last: no copy
            yield (image_NCHW / 255 - MEAN) / STD, batch["target"]

    def sum_over_workers(self, values: Tensor) -> Tensor:
        """The sum of the values of all workers. `values` may be changed."""
        if self.num_workers > 1:
            torch.distributed.all_reduce(values)
        return values

    def end_epoch(self, figures: dict[str, float]) -> None:
        """Save the state for a later process; and for the user the averaged weights, the classes and the curves."""
        self.progress.epoch += 1
        figures = {"epoch": self.progress.epoch, "step": self.progress.step} | figures
        self.progress.epochs.append(figures)
        validation = (f"held out: loss {figures['valid_loss']:.4f}, top-1 {figures['top1']:.2%}, top-5 "
                      f"{figures['top5']:.2%} of {figures['valid_images']:,.0f}" if figures["valid_images"]
                      else "no image is held out: no accuracy")
        self.report_line(f"epoch {self.progress.epoch}/{self.recipe.epochs}  loss {figures['loss']:.4f}  {validation}  "
                  f"{figures['images_per_s']:,.1f} images/s")
        if self.rank:
            ray.train.report(figures)
            return
        save_model(self.ema.module.state_dict(), self.job.classes, self.job.folder)
        write_curves(self.progress.losses, self.progress.epochs, self.job.folder)
        with tempfile.TemporaryDirectory() as folder:
            state = {name: part.state_dict() for name, part in self.state_parts.items()}
            torch.save(state | {"progress": asdict(self.progress)}, Path(folder) / STATE)
            ray.train.report(figures, checkpoint=ray.train.Checkpoint.from_directory(folder))
