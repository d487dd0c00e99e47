"""A cluster of raylets with declared GPUs on this machine, and a whole run of the job on it. A program: one JSON line.

Ray takes `num_gpus` on trust, so placement, back pressure and the driver are real; only the labeller is not: it takes a set time a
batch instead of computing, as a GPU would, and keeps no processor busy.

    python -m tests.support.rehearsal FOLDER WEIGHTS 4x1 4x1 7x0        # FOLDER/in has shards; nodes of CPUs x GPUs
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.model.spec import EMBEDDING_SIZE
from tests.support.jobs import ROOT

IMAGES_PER_S = 240.0  # of all GPUs together: two cores must decode so many, and run all of Ray beside
BATCH = 32
STORE_BYTES = 500_000_000  # of a node's object store: blocks of some 230 images


class SleepingLabeller:
    """Takes its time a batch, and writes down when. `log`: a folder."""

    precision, runner, runner_note, num_top = "fp16", "fast", "", 5

    def __init__(self, batch_s: float, log: str) -> None:
        import threading
        self.batch_s, self.one = batch_s, threading.Lock()
        self.log = open(f"{log}/{os.getpid()}", "a")  # noqa: SIM115  # as long as the process

    def __call__(self, image_NHWC: np.ndarray) -> np.ndarray:
        with self.one:  # a device computes one batch after the other
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


def start(shapes: list[tuple[int, int]], folder: Path, port: int) -> tuple[list[subprocess.Popen[bytes]], dict[str, str]]:
    """A head without CPUs on 127.0.0.2, and a node for each shape; returns their processes and the environment of a driver."""
    environ = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4, "PYTHONPATH": str(ROOT),
               "NO_PROXY": ",".join(f"127.0.0.{at}" for at in range(2, 60)), "RAY_ADDRESS": f"127.0.0.2:{port}",
               "RAY_enable_worker_prestart": "0", "RAY_prestart_worker_first_driver": "0"}

    def node(ip: str, *options: str) -> subprocess.Popen[bytes]:
        ray = [str(Path(sys.executable).parent / "ray"), "start", "--block", f"--node-ip-address={ip}", *options,
               f"--object-store-memory={STORE_BYTES}"]
        here = {name: value for name, value in (os.environ | environ).items() if name != "RAY_ADDRESS"}
        with Path(f"{folder}-{ip}.log").open("wb") as log:
            process = subprocess.Popen(ray, stdout=log, stderr=log, env=here)
        deadline = time.monotonic() + 60
        while b"Ray runtime started" not in Path(f"{folder}-{ip}.log").read_bytes():
            assert time.monotonic() < deadline and process.poll() is None, Path(f"{folder}-{ip}.log").read_text()[-2000:]
            time.sleep(0.2)
        return process

    nodes = [node("127.0.0.2", "--head", "--num-cpus=0", f"--port={port}", "--include-dashboard=false", f"--temp-dir={folder}")]
    nodes += [node(f"127.0.0.{at}", f"--address=127.0.0.2:{port}", f"--num-cpus={cpus}", f"--num-gpus={gpus}")
              for at, (cpus, gpus) in enumerate(shapes, 3)]
    return nodes, environ


def run(folder: Path, weights: str, shapes: list[tuple[int, int]]) -> dict[str, Any]:
    """Label FOLDER/in on the cluster that RAY_ADDRESS names, and say how it went."""
    from functools import partial

    import ray

    from pipeline.actors import graph
    from pipeline.config import Config
    from pipeline.run.night import label
    num_gpus = sum(gpus for _, gpus in shapes)
    log = folder / "log"
    log.mkdir()
    graph.load_labeller = partial(load_sleeping, BATCH * num_gpus / IMAGES_PER_S, str(log))
    ray.init(log_to_driver=False)
    assert sum(bool(node["Alive"]) for node in ray.nodes()) == 1 + len(shapes), ray.nodes()
    begun = time.monotonic()
    summary = label(Config(input=str(folder / "in"), output=str(folder / "out"), weights=weights, batch_size=BATCH,
                           precision="fp32"), sys.stderr)  # else the nodes are asked what their GPUs compute in, and have none
    seconds = time.monotonic() - begun
    calls: dict[str, list[list[float]]] = defaultdict(list)
    for path in log.iterdir():
        calls[path.name] = [list(map(float, line.split())) for line in path.read_text().splitlines()]
    window = (max(min(call[0] for call in of_one) for of_one in calls.values() if of_one),
              min(max(call[1] for call in of_one) for of_one in calls.values() if of_one))
    busy = [sum(max(0.0, min(stop, window[1]) - max(start, window[0])) for start, stop, _ in of_one) / max(1e-9, window[1] - window[0])
            for of_one in calls.values()]
    return {"shapes": " ".join(f"{cpus}x{gpus}" for cpus, gpus in shapes), "gpus": num_gpus,
            "gpus_that_labelled": sum(bool(of_one) for of_one in calls.values()), "busy_least": round(min(busy), 2),
            "images": summary.counts.num_images, "committed": summary.num_committed, "failed": summary.num_failed,
            "fill": round(summary.num_labelled / summary.num_slots, 3), "window_s": round(window[1] - window[0], 1),
            "stayed": round(1 - summary.num_moved / summary.num_blocks, 3), "seconds": round(seconds, 1), "exit": summary.exit_code(0.01)}


def main() -> None:
    from tests.support.processes import family, kill
    from tests.support.s3 import free_ports
    folder, weights = Path(sys.argv[1]), sys.argv[2]
    shapes = [(int(cpus), int(gpus)) for cpus, gpus in (shape.split("x") for shape in sys.argv[3:])]
    if os.environ.get("RAY_ADDRESS"):
        print(json.dumps(run(folder, weights, shapes)))
        return
    temporary = Path(f"/tmp/rehearsal{os.getpid()}")
    nodes, environ = start(shapes, temporary, free_ports(1)[0])
    try:
        done = subprocess.run([sys.executable, "-m", "tests.support.rehearsal", *sys.argv[1:]], env=os.environ | environ, cwd=ROOT,
                              capture_output=True, text=True, timeout=400, check=False)
        told = [line for line in done.stdout.splitlines() if line.startswith('{"shapes"')]  # Ray says things of its own
        print(told[-1] if told else f"exit {done.returncode}\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
        sys.exit(done.returncode or not told)
    finally:
        for node in reversed(nodes):
            kill(family(node.pid))
            node.wait()
        shutil.rmtree(temporary, ignore_errors=True)
        for log in temporary.parent.glob(f"{temporary.name}-*.log"):
            log.unlink()


if __name__ == "__main__":
    main()
