"""Benchmark part `plan`: listing and planning 10^4, 10^5 and 10^6 shards, 1 % of them new, before any is labelled.

It runs `jobs/label.py --dry-run` as a process, against `store` on 127.0.0.1, which answers after 50 ms. The
seconds include the work of that store, on another core.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import NamedTuple

from pipeline.bench.measure import JOB, Part, Setting
from pipeline.bench.plan.store import NEW

SIZES = (10**4, 10**5, 10**6)  # shards
DELAY_S = 0.05  # before each answer, as of a real store


class Run(NamedTuple):
    """One process: its duration and the most bytes that were resident."""

    seconds: float
    peak_bytes: int


def measure(setting: Setting) -> Part:
    """Ratios `plan_1e6_s` (seconds), `plan_1e6_peak_bytes`, `plan_1e6_over_1e5` (seconds)."""
    runs: dict[int, list[Run]] = {number: [] for number in SIZES}
    for number in SIZES:
        with serve_store(number) as port:
            for _ in range(max(1, setting.repeats // 2)):
                runs[number].append(plan_once(number, port))
    seconds = {number: median(run.seconds for run in values) for number, values in runs.items()}
    peaks = {number: median(run.peak_bytes for run in values) for number, values in runs.items()}
    print(f"\nplan, 1 of {NEW} shards new ({len(runs[SIZES[0]])} rounds)")
    print(f"  {'shards':>12} {'seconds':>9} {'peak memory':>12}")
    for number in SIZES:
        print(f"  {number:12,} {seconds[number]:9.1f} {peaks[number] / 2**20:8,.0f} MiB")
    return Part({"plan_1e6_s": seconds[10**6], "plan_1e6_peak_bytes": peaks[10**6],
                 "plan_1e6_over_1e5": seconds[10**6] / seconds[10**5]}, {"plan": runs})


@contextmanager
def serve_store(number: int, delay_s: float = DELAY_S) -> Iterator[int]:
    """Serve a store with so many shards while the context lasts, in a process of its own; its port. Each answer comes
    after a delay."""
    command = [sys.executable, "-m", "pipeline.bench.plan.store", str(number), str(delay_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield int(server.stdout.readline())
        finally:
            server.kill()


def plan_once(number: int, port: int) -> Run:
    """Plan a night over the store at the port. Raises RuntimeError unless the plan has the new shards and no others."""
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, JOB, "--dry-run", "--input", "s3://bucket/in", "--output", "s3://bucket/out",
         "--weights", "seed:0"],
        stdout=subprocess.PIPE, text=True, env=os.environ | {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1", "NO_PROXY": "127.0.0.1"})
    peak_bytes = 0
    with process:
        while process.poll() is None:
            peak_bytes = max(peak_bytes, _peak_bytes(process.pid))
            time.sleep(0.05)
        seconds = time.perf_counter() - begun
        assert process.stdout is not None
        output = process.stdout.read()
    if process.returncode or f"would label {number // NEW:,} shards" not in output:
        raise RuntimeError(f"jobs/label.py --dry-run over {number:,} shards: exit {process.returncode}\n{output}")
    return Run(seconds, peak_bytes)


def _peak_bytes(pid: int) -> int:
    """The most resident bytes of a process so far; 0 after its end. `getrusage` would count those of its parent too."""
    try:
        with open(f"/proc/{pid}/status") as status:
            return next((int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:")), 0)
    except OSError:
        return 0
