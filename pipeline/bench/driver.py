"""Benchmark part `driver`: how many images a second one driver carries, and what it keeps of them.

The real chain and the real loop over its reports, with stages that do nothing: their blocks carry the counts of images, and
no images. What is left is the driver's own work: Ray's for each object and task, and ours for each report. Shards of 1,000 images
and of 100. Its memory: the process's own after 10^4, 10^5 and 10^6 shards were reported to the tally, and Ray's for each object.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.bench.measure import Part, Setting
from pipeline.stages.batch import BLOCK, LABELLED, REPORT, pack_answers, segments_of
from pipeline.tables.counts import BINS

SIZES = {1000: 3000, 100: 20_000}  # shards of a run, by images of a shard
REPORTED = (10**4, 10**5, 10**6)
LABELS_SEEN = 300  # different labels in a shard of a thousand images
WARM_UP = 0.25  # of the images; actors start meanwhile


def measure(setting: Setting) -> Part:
    """Ratios `driver_images_per_s` (shards of 1,000 images), `driver_bytes_per_shard`, `driver_peak_1e6_gib`."""
    part = Part(figures={"driver": {}})
    print(f"\ndriver, {os.cpu_count()} CPUs: stages that do nothing, {LABELS_SEEN} labels a shard")
    print(f"  {'images a shard':>16} {'images/s':>10} {'by the busiest thread':>22} {'ms CPU an object':>17} {'of the loop':>12} {'KiB an object':>14}")
    for size, number in SIZES.items():
        run = _in_process("chain", size, number)
        print(f"  {size:16,} {run['images_per_s']:10,.0f} {run['thread_images_per_s']:22,.0f} {run['cpu_ms']:17.2f} {run['loop_ms']:12.2f} "
              f"{run['bytes_per_object'] / 1024:14.1f}")
        part.figures["driver"][str(size)] = run  # type: ignore[index]
    memory = {number: _in_process("tally", 1000, number) for number in REPORTED}
    for number, told in memory.items():
        print(f"  {number:16,} shards reported: {told['peak_bytes'] / 2**30:.2f} GiB at most, {told['bytes_per_shard']:.0f} bytes a shard kept, "
              f"{told['us_per_shard']:.0f} µs a shard")
    part.figures["driver"]["memory"] = memory  # type: ignore[index]
    chain = part.figures["driver"]["1000"]  # type: ignore[index]
    part.ratios["driver_images_per_s"] = chain["images_per_s"]
    part.ratios["driver_bytes_per_shard"] = memory[REPORTED[-1]]["bytes_per_shard"]
    part.ratios["driver_peak_1e6_gib"] = memory[REPORTED[-1]]["peak_bytes"] / 2**30
    return part


def segment(number: int, size: int) -> dict[str, Any]:
    """A shard of `size` images that is whole in its block, as a report has it."""
    shard = f"dt=2026-11-24/photos-{number:08}.tar"
    return {"number": number, "shard": shard, "uri": f"s3://bucket/photos/{shard}", "size": 110_000 * size, "etag": f"{number:032x}",
            "first": 0, "num_images": size, "end": True, "failure": None, "retryable": False, "num_bytes": 110_000 * size, "decode_s": 1.0,
            "left_out": []}


def ended(begun: dict[str, Any]) -> dict[str, Any]:
    """The same, labelled and committed."""
    size = begun["num_images"]
    labels = max(1, size * LABELS_SEEN // 1000)
    counted = [{"label_id": (begun["number"] * 7 + at) % 1000, "num_images": size // labels} for at in range(labels)]
    return begun | {"num_rejected": 1, "rejected": [{"error": "truncated", "num_images": 1}], "labels": counted, "confidence": [size // BINS] * BINS,
                    "label_s": 0.1, "examples": [{"error": "truncated", "shard": begun["shard"], "index": 3, "key": "3"}],
                    "file_size": 7000 * size, "file_etag": begun["etag"]}


class CountingReader:
    """In the reader's place: shards in, blocks out that carry only their segments, `size` images a shard."""

    def __init__(self, size: int, block_size: int) -> None:
        self.size, self.each = size, max(1, block_size // 2 // size)  # as the reader: a block ends once it is half full

    def __call__(self, shards: pa.Table) -> Iterator[pa.Table]:
        numbers = shards["number"].to_pylist()
        for at in range(0, len(numbers), self.each):
            told = [segment(number, self.size) for number in numbers[at:at + self.each]]
            yield pa.Table.from_pylist([{"segments": told, "node": "", "samples": [], "pixels": b""}], schema=BLOCK)


class CountingLabeller:
    """In the labeller's place."""

    def __call__(self, block: pa.Table) -> pa.Table:
        values = {"segments": block["segments"], "samples": block["samples"], "label_s": [0.1], "num_slots": [1000], "precision": ["fp16"],
                  "runner": ["fast"], "runner_note": [""], "moved": [False], "answers": pack_answers(np.empty((0, 0), np.float32)),
                  "pictures": pa.array([[]], LABELLED.field("pictures").type)}
        return pa.table([values[name] for name in LABELLED.names], schema=LABELLED)


class CountingSink:
    """In the sink's place."""

    def __call__(self, blocks: pa.Table) -> pa.Table:
        told = [ended(one) for row in range(blocks.num_rows) for one in segments_of(blocks, row)]
        row = {"segments": told, "label_s": 0.1, "num_slots": 1000, "precision": "fp16", "runner": "fast", "runner_note": "",
               "num_blocks": blocks.num_rows, "num_moved": 0, "pictures": []}
        return pa.Table.from_pylist([row], schema=REPORT)


def carry(size: int, number: int) -> dict[str, float]:
    """Let the driver carry so many shards of `size` images; what it took after a warm-up."""
    import logging

    import psutil
    import ray

    from pipeline.actors import graph
    from pipeline.actors.nodes import Node
    from pipeline.actors.pools import choose_pools
    from pipeline.config import Config
    from pipeline.run.attempts import iterate_reports
    from pipeline.run.progress import Progress
    ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, num_cpus=8)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    pools = choose_pools(Config(input="in", output="out"), [Node("here", "", 16.0, 1)], "cuda")
    pools = dataclasses.replace(pools, decoders=pools.decoders[:1], label_gpus=0)
    each = max(1, graph.MOST_TASKS // 1000) * pools.task_bytes // (110_000 * size)
    shards = pa.table({"number": pa.array(range(number), pa.int32())})
    tables = [shards.slice(at, each) for at in range(0, number, each)]
    stages: dict[str, graph.Stage] = {"decode": (CountingReader, (size, pools.block_size)), "label": (CountingLabeller, ()),
                                      "commit": (CountingSink, ())}
    tally, process = _tally(number), psutil.Process()
    progress = Progress(sys.stderr, number, number * size * 110_000)
    begun: tuple[float, float, dict[int, float], int, int] | None = None
    num_blocks, loop_s = 0, 0.0
    for table in iterate_reports(graph.chain_stages(pools, tables, stages, {})):
        if table is None:
            continue
        at = time.thread_time()
        for report in table.to_pylist():
            progress.add(report)
            tally.add(report)
            num_blocks += report["num_blocks"]
        loop_s += time.thread_time() - at
        if begun is None and tally.ended.mean() >= WARM_UP:
            begun = (time.perf_counter(), time.process_time(), _threads(process), num_blocks, _own_bytes(process))
            loop_s = 0.0
    assert begun is not None and tally.ended.all()
    cpu_s, blocks = time.process_time() - begun[1], num_blocks - begun[3]
    busiest_s = max(seconds - begun[2].get(thread, 0.0) for thread, seconds in _threads(process).items())
    images = (1 - WARM_UP) * number * size
    return {"images_per_s": images / cpu_s, "thread_images_per_s": images / busiest_s, "cpu_ms": 1000 * cpu_s / blocks,
            "loop_ms": 1000 * loop_s / blocks, "bytes_per_object": (_own_bytes(process) - begun[4]) / blocks, "objects": blocks,
            "wall_images_per_s": images / (time.perf_counter() - begun[0])}


def keep(size: int, number: int) -> dict[str, float]:
    """Report so many shards to the tally; what it keeps, and the process's peak."""
    import resource
    tally = _tally(number)
    before, begun = _resident(), time.perf_counter()
    for at in range(number):
        tally.add({"segments": [ended(segment(at, size))], "label_s": 0.1, "num_slots": size, "precision": "fp16", "runner": "fast",
                   "runner_note": "", "num_blocks": 1, "num_moved": 0, "pictures": []})
    seconds = time.perf_counter() - begun
    tally.close()
    assert tally.ended.all() and tally.summary.num_committed == number
    return {"bytes_per_shard": max(0, _resident() - before) / number, "us_per_shard": 1e6 * seconds / number,
            "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def _tally(number: int) -> Any:
    from pipeline.run.tally import Summary, Tally
    paths = pa.array([segment(at, 1)["shard"] for at in range(number)])
    return Tally(tempfile.mkdtemp(), Summary("bench", "inception_v4-00000000", 0, number, 0, 0, False), paths, lambda status: None)


def _resident() -> int:
    from pathlib import Path
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _own_bytes(process: Any) -> int:
    """What is resident and not shared: the object store, which all processes of a node map, is not the driver's."""
    memory = process.memory_info()
    return int(memory.rss - memory.shared)


def _threads(process: Any) -> dict[int, float]:
    return {thread.id: thread.user_time + thread.system_time for thread in process.threads()}


def _in_process(name: str, size: int, number: int) -> dict[str, float]:
    """A measurement in a process of its own, which has no other's memory."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-m", "pipeline.bench.driver", name, str(size), str(number)],
                          capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"driver {name}: exit {done.returncode}\n{done.stdout[-500:]}{done.stderr[-3000:]}")
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return told


if __name__ == "__main__":
    works = {"chain": carry, "tally": keep}
    print(json.dumps(works[sys.argv[1]](int(sys.argv[2]), int(sys.argv[3]))))
