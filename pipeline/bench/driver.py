"""Benchmark part `driver`: the images a second that one driver carries, and the memory that it keeps.

The chain and the loop over its reports are the real ones. The stages do nothing: their blocks carry counts, no images.
So the figures are the driver's own work: Ray's for each object and task, and ours for each report. Shards have 1,000
and 100 images. The memory is that of the process after 10^4, 10^5 and 10^6 reported shards, and Ray's for each object.
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
from pipeline.stages.batch import BLOCK, LABELLED, pack_answers, segments_of
from pipeline.stages.reports import REPORT, Report, read_reports
from pipeline.tables.counts import BINS

SIZES = {1000: 3000, 100: 20_000}  # shards of a run, by images of a shard
REPORTED = (10**4, 10**5, 10**6)
LABELS_SEEN = 300  # different labels in a shard of a thousand images
WARM_UP = 0.25  # the share of the shards that comes first and does not count: the actors start


def measure(setting: Setting) -> Part:
    """Ratios `driver_images_per_s` (shards of 1,000 images), `driver_bytes_per_shard`, `driver_peak_1e6_gib`."""
    print(f"\ndriver, {os.cpu_count()} CPUs: stages that do nothing, {LABELS_SEEN} labels a shard")
    print(f"  {'images a shard':>16} {'images/s':>10} {'by the busiest thread':>22} {'ms CPU an object':>17} "
          f"{'of the loop':>12} {'KiB an object':>14}")
    chains = {size: _run_process("chain", size, number) for size, number in SIZES.items()}
    for size, run in chains.items():
        print(f"  {size:16,} {run['images_per_s']:10,.0f} {run['thread_images_per_s']:22,.0f} {run['cpu_ms']:17.2f} "
              f"{run['loop_ms']:12.2f} {run['bytes_per_object'] / 1024:14.1f}")
    tallies = {number: _run_process("tally", 1000, number) for number in REPORTED}
    for number, run in tallies.items():
        print(f"  {number:16,} shards reported: {run['peak_bytes'] / 2**30:.2f} GiB at most, "
              f"{run['bytes_per_shard']:.0f} bytes a shard kept, {run['us_per_shard']:.0f} µs a shard")
    largest = tallies[REPORTED[-1]]
    return Part({"driver_images_per_s": chains[1000]["images_per_s"],
                 "driver_bytes_per_shard": largest["bytes_per_shard"],
                 "driver_peak_1e6_gib": largest["peak_bytes"] / 2**30},
                {"driver": {str(size): run for size, run in chains.items()} | {"memory": tallies}})


def make_segment(number: int, size: int) -> dict[str, Any]:
    """The segment of a report for a shard of `size` images that is whole in its block."""
    shard = f"dt=2026-11-24/photos-{number:08}.tar"
    return {"number": number, "shard": shard, "uri": f"s3://bucket/photos/{shard}", "size": 110_000 * size,
            "etag": f"{number:032x}", "first": 0, "num_images": size, "end": True, "failure": None, "retryable": False,
            "num_bytes": 110_000 * size, "decode_s": 1.0, "left_out": []}


def commit_segment(segment: dict[str, Any]) -> dict[str, Any]:
    """The segment after its shard is labelled and committed."""
    size = segment["num_images"]
    labels = max(1, size * LABELS_SEEN // 1000)
    counts = [{"label_id": (segment["number"] * 7 + index) % 1000, "num_images": size // labels}
              for index in range(labels)]
    return segment | {"num_rejected": 1, "rejected": [{"error": "truncated", "num_images": 1}], "labels": counts,
                      "confidence": [size // BINS] * BINS, "label_s": 0.1,
                      "examples": [{"error": "truncated", "shard": segment["shard"], "index": 3, "key": "3"}],
                      "file_size": 7000 * size, "file_etag": segment["etag"]}


class CountingReader:
    """Stands for the reader: shards in, blocks of segments without images out, `size` images a shard."""

    def __init__(self, size: int, block_size: int) -> None:
        self.size = size
        self.block_shards = max(1, block_size // 2 // size)  # the reader ends a block that is half full

    def __call__(self, shards: pa.Table) -> Iterator[pa.Table]:
        numbers = shards["number"].to_pylist()
        for start in range(0, len(numbers), self.block_shards):
            segments = [make_segment(number, self.size) for number in numbers[start:start + self.block_shards]]
            yield pa.Table.from_pylist([{"segments": segments, "node": "", "samples": [], "pixels": b""}], schema=BLOCK)


class CountingLabeller:
    """Stands for the labeller: blocks in, blocks without answers out."""

    def __call__(self, block: pa.Table) -> pa.Table:
        values = {"segments": block["segments"], "samples": block["samples"], "kept": block["kept"],
                  "label_s": [0.1], "num_slots": [1000],
                  "precision": ["fp16"], "runner": ["fast"], "runner_note": [""], "moved": [False],
                  "answers": pack_answers(np.empty((0, 0), np.float32)),
                  "pictures": pa.array([[]], LABELLED.field("pictures").type)}
        return pa.table([values[name] for name in LABELLED.names], schema=LABELLED)


class CountingSink:
    """Stands for the sink: blocks in, a report out."""

    def __call__(self, blocks: pa.Table) -> pa.Table:
        segments = [segment for row in range(blocks.num_rows) for segment in segments_of(blocks, row)]
        return pa.Table.from_pylist([make_report(segments, 1000, blocks.num_rows)], schema=REPORT)


def make_report(segments: list[dict[str, Any]], num_slots: int, num_blocks: int) -> dict[str, Any]:
    """The row of `REPORT` for segments that are committed now."""
    return {"segments": [commit_segment(segment) for segment in segments], "label_s": 0.1, "num_slots": num_slots,
            "precision": "fp16", "runner": "fast", "runner_note": "", "num_blocks": num_blocks, "num_moved": 0,
            "pictures": []}


def measure_chain(size: int, number: int) -> dict[str, float]:
    """Let the driver carry `number` shards of `size` images: its rates, times and memory after the warm-up."""
    import logging

    import psutil
    import ray

    from pipeline.actors import graph
    from pipeline.actors.nodes import Node
    from pipeline.actors.pools import choose_pools
    from pipeline.actors.reports import iterate_reports
    from pipeline.config import Config
    from pipeline.run.progress import Progress
    ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, num_cpus=8)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    pools = choose_pools(Config(input="in", output="out"), [Node("here", "", 16.0, 1)], "cuda")
    pools = dataclasses.replace(pools, decoders=pools.decoders[:1], label_gpus=0)
    table_shards = max(1, graph.MOST_TASKS // 1000) * pools.task_bytes // (110_000 * size)
    shards = pa.table({"number": pa.array(range(number), pa.int32())})
    tables = [shards.slice(start, table_shards) for start in range(0, number, table_shards)]
    stages: dict[str, graph.Stage] = {"decode": (CountingReader, (size, pools.block_size)),
                                      "label": (CountingLabeller, ()), "commit": (CountingSink, ())}
    tally, process = new_tally(number), psutil.Process()
    progress = Progress(sys.stderr, number, number * size * 110_000)
    begun: tuple[float, float, dict[int, float], int, int] | None = None
    num_blocks, loop_s = 0, 0.0
    for table in iterate_reports(graph.chain_stages(pools, tables, stages, {})):
        if table is None:
            continue
        begun_s = time.thread_time()
        for report in read_reports(table):
            progress.add(report)
            tally.add(report)
            num_blocks += report.num_blocks
        loop_s += time.thread_time() - begun_s
        if begun is None and tally.ended.mean() >= WARM_UP:
            begun = (time.perf_counter(), time.process_time(), _threads(process), num_blocks, _own_bytes(process))
            loop_s = 0.0
    assert begun is not None and tally.ended.all()
    cpu_s, blocks = time.process_time() - begun[1], num_blocks - begun[3]
    busiest_s = max(seconds - begun[2].get(thread, 0.0) for thread, seconds in _threads(process).items())
    images = (1 - WARM_UP) * number * size
    return {"images_per_s": images / cpu_s, "thread_images_per_s": images / busiest_s,
            "wall_images_per_s": images / (time.perf_counter() - begun[0]), "cpu_ms": 1000 * cpu_s / blocks,
            "loop_ms": 1000 * loop_s / blocks, "bytes_per_object": (_own_bytes(process) - begun[4]) / blocks,
            "objects": blocks}


def measure_tally(size: int, number: int) -> dict[str, float]:
    """Report `number` shards of `size` images to the tally: the bytes that it keeps, and the peak of the process."""
    import resource

    import psutil
    tally, process = new_tally(number), psutil.Process()
    before, begun = process.memory_info().rss, time.perf_counter()
    for index in range(number):
        tally.add(Report.from_row(make_report([make_segment(index, size)], size, 1)))
    seconds = time.perf_counter() - begun
    tally.close()
    assert tally.ended.all() and tally.summary.num_committed == number
    kept_bytes = max(0, process.memory_info().rss - before)
    return {"bytes_per_shard": kept_bytes / number, "us_per_shard": 1e6 * seconds / number,
            "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


def new_tally(number: int) -> Any:
    """A tally of `number` shards of which none is reported."""
    from pipeline.run.summary import Summary
    from pipeline.run.tally import Tally
    paths = pa.array([make_segment(index, 1)["shard"] for index in range(number)])
    summary = Summary("bench", "inception_v4-00000000", 0, number, 0, 0, False)
    return Tally(tempfile.mkdtemp(), summary, paths, lambda status: None)


def _own_bytes(process: Any) -> int:
    """The resident bytes that are not shared. All processes of a node share the object store."""
    memory = process.memory_info()
    return int(memory.rss - memory.shared)


def _threads(process: Any) -> dict[int, float]:
    """Seconds of CPU of each thread, by its id."""
    return {thread.id: thread.user_time + thread.system_time for thread in process.threads()}


def _run_process(name: str, size: int, number: int) -> dict[str, float]:
    """Measure in a process of its own, which has only its own memory."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-m", "pipeline.bench.driver", name, str(size), str(number)],
                          capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"driver {name}: exit {done.returncode}\n{done.stdout[-500:]}{done.stderr[-3000:]}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


if __name__ == "__main__":
    works = {"chain": measure_chain, "tally": measure_tally}
    print(json.dumps(works[sys.argv[1]](int(sys.argv[2]), int(sys.argv[3]))))
