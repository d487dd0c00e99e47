"""A whole run of the job on raylets with declared GPUs on this machine. A program that prints one line of JSON.

Ray takes `num_gpus` on trust. So placement, back pressure and the driver are real. Only the labeller is not: it sleeps
for a set time a batch instead of computing. Like a GPU, it keeps no processor busy.

    python -m tests.support.rehearsal FOLDER WEIGHTS 4x1 4x1 7x0        # FOLDER/in has shards; nodes of CPUs x GPUs
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.model.spec import EMBEDDING_SIZE
from tests.support.cluster import Cluster
from tests.support.jobs import ROOT

# Of all GPUs together: two cores must decode as many, and run Ray.
IMAGES_PER_S = float(os.environ.get("REHEARSAL_IMAGES_PER_S", "240"))
BATCH = 32
STORE_BYTES = 500_000_000  # of a node's object store; its blocks then have about 230 images


class SleepingLabeller:
    """Sleeps `batch_s` seconds a batch, and notes each call in the folder `log`: begin, end, number of images."""

    precision, runner, runner_note, num_top = "fp16", "fast", "", 5

    def __init__(self, batch_s: float, log: str) -> None:
        import threading
        self.batch_s, self.lock = batch_s, threading.Lock()
        self.log = open(f"{log}/{os.getpid()}", "a")  # noqa: SIM115  # open as long as the process lives

    def __call__(self, image_NHWC: np.ndarray) -> np.ndarray:
        with self.lock:  # a device computes one batch after the other
            begun = time.time()
            time.sleep(self.batch_s * self.slots_for(len(image_NHWC)) / BATCH)
            self.log.write(f"{begun} {time.time()} {len(image_NHWC)}\n")
            self.log.flush()
        answer_NK = np.zeros((len(image_NHWC), 2 * self.num_top + EMBEDDING_SIZE), np.float32)
        answer_NK[:, :5] = np.arange(5)
        answer_NK[:, 5:10] = 0.2
        return answer_NK

    def slots_for(self, num_images: int) -> int:
        return -(-num_images // BATCH) * BATCH


def load_sleeping(batch_s: float, log: str, *_: Any) -> SleepingLabeller:
    return SleepingLabeller(batch_s, log)


def start_cluster(shapes: list[tuple[int, int]]) -> Cluster:
    """A head without CPUs, and a node for each shape: its CPUs and declared GPUs."""
    store = f"--object-store-memory={STORE_BYTES}"
    cluster = Cluster("--num-cpus=0", "--include-dashboard=false", store, PYTHONPATH=str(ROOT),
                      RAY_enable_worker_prestart="0",
                      RAY_prestart_worker_first_driver="0")
    for num_cpus, num_gpus in shapes:
        cluster.add(f"--num-cpus={num_cpus}", f"--num-gpus={num_gpus}", store)
    return cluster


def run(folder: Path, weights: str, shapes: list[tuple[int, int]]) -> dict[str, Any]:
    """Label FOLDER/in on the cluster that RAY_ADDRESS names. Returns what the test checks."""
    from functools import partial

    import ray

    from pipeline.actors import graph
    from pipeline.config import Config
    from pipeline.run.night import label
    num_gpus = sum(num for _, num in shapes)
    log = folder / "log"
    log.mkdir()
    graph.load_labeller = partial(load_sleeping, BATCH * num_gpus / IMAGES_PER_S, str(log))
    ray.init(log_to_driver=False)
    assert sum(bool(node["Alive"]) for node in ray.nodes()) == 1 + len(shapes), ray.nodes()
    begun = time.monotonic()
    # With another precision the nodes are asked what their GPUs compute in, and they have no GPUs.
    summary = label(Config(input=str(folder / "in"), output=str(folder / "out"), weights=weights, batch_size=BATCH,
                           precision="fp32"), sys.stderr)
    seconds = time.monotonic() - begun
    calls: dict[str, list[list[float]]] = defaultdict(list)  # of each GPU: begin, end, number of images
    for path in log.iterdir():
        calls[path.name] = [list(map(float, line.split())) for line in path.read_text().splitlines()]
    # The window in which all GPUs work.
    window_start = max(min(call[0] for call in of_gpu) for of_gpu in calls.values() if of_gpu)
    window_end = min(max(call[1] for call in of_gpu) for of_gpu in calls.values() if of_gpu)
    window_s = window_end - window_start
    busy_s = [sum(max(0.0, min(end, window_end) - max(start, window_start)) for start, end, _ in of_gpu)
              for of_gpu in calls.values()]
    ended = sorted((end, num) for of_gpu in calls.values() for _, end, num in of_gpu)
    sums = np.cumsum([num for _, num in ended])
    first, last = (int(np.searchsorted(sums, share * sums[-1])) for share in (0.3, 0.9))
    rate = (sums[last] - sums[first]) / (ended[last][0] - ended[first][0])
    return {"images_per_s": round(float(rate), 1),
            "shapes": " ".join(f"{num_cpus}x{num}" for num_cpus, num in shapes), "gpus": num_gpus,
            "gpus_that_labelled": sum(bool(of_gpu) for of_gpu in calls.values()),
            "busy_least": round(min(busy_s) / max(1e-9, window_s), 2),
            "images": summary.counts.num_images, "committed": summary.num_committed, "failed": summary.num_failed,
            "fill": round(summary.num_labelled / summary.num_slots, 3), "window_s": round(window_s, 1),
            "stayed": round(1 - summary.num_moved / summary.num_blocks, 3), "seconds": round(seconds, 1),
            "exit": summary.exit_code(0.01)}


def main() -> None:
    folder, weights = Path(sys.argv[1]), sys.argv[2]
    shapes = [(int(num_cpus), int(num_gpus)) for num_cpus, num_gpus in (shape.split("x") for shape in sys.argv[3:])]
    if os.environ.get("RAY_ADDRESS"):
        print(json.dumps(run(folder, weights, shapes)))
        return
    with start_cluster(shapes) as cluster:
        done = subprocess.run([sys.executable, "-m", "tests.support.rehearsal", *sys.argv[1:]],
                              env=os.environ | cluster.driver,
                              cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
    # Ray prints lines of its own.
    results = [line for line in done.stdout.splitlines() if line.startswith('{"images_per_s"')]
    print(results[-1] if results else f"exit {done.returncode}\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    sys.exit(done.returncode or not results)


if __name__ == "__main__":
    main()
