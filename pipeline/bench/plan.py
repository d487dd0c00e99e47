"""Benchmark part `plan`: what a night costs before it labels: listing and planning 10^4, 10^5, 10^6 shards, 1 % of them new.

It is `jobs/label.py --dry-run`, the whole process, against a store on 127.0.0.1 that answers as S3 does, at once: pages
of 1,000 objects, and the ledger's files. Seconds include that store's own work, on another core; a real one adds its
latency for each page, one after the other.
"""

from __future__ import annotations

import functools
import io
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from statistics import median
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.bench.measure import JOB, Part, Setting
from pipeline.model import weights
from pipeline.tables.ledger import SHARDS

SIZES = (10**4, 10**5, 10**6)  # shards
NEW = 100  # one shard in so many is new
LEDGER_ROWS = 10**4  # of one file of the ledger
PAGE = 1000  # objects, as S3 has it
MODEL_ID = weights.identify("seed:0").model_id


class _Run(NamedTuple):
    seconds: float
    peak_bytes: int


def measure(setting: Setting) -> Part:
    """Ratios `plan_1e6_s` (seconds), `plan_1e6_peak_bytes`, `plan_1e6_over_1e5` (seconds)."""
    runs: dict[int, list[_Run]] = {number: [] for number in SIZES}
    for number in SIZES:
        with _store(number) as port:
            for _ in range(max(1, setting.repeats // 2)):
                runs[number].append(_run(number, port))
    seconds = {number: median(run.seconds for run in values) for number, values in runs.items()}
    peaks = {number: median(run.peak_bytes for run in values) for number, values in runs.items()}
    print(f"\nplan, 1 of {NEW} shards new ({len(runs[SIZES[0]])} rounds)")
    print(f"  {'shards':>12} {'seconds':>9} {'peak memory':>12}")
    for number in SIZES:
        print(f"  {number:12,} {seconds[number]:9.1f} {peaks[number] / 2**20:8,.0f} MiB")
    return Part({"plan_1e6_s": seconds[10**6], "plan_1e6_peak_bytes": peaks[10**6],
                 "plan_1e6_over_1e5": seconds[10**6] / seconds[10**5]}, {"plan": runs})


def _run(number: int, port: int) -> _Run:
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, JOB, "--dry-run", "--input", "s3://bucket/in", "--output", "s3://bucket/out", "--weights", "seed:0"],
        stdout=subprocess.PIPE, text=True, env=os.environ | {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1", "NO_PROXY": "127.0.0.1"})
    peak_bytes = 0
    with process:
        while process.poll() is None:
            peak_bytes = max(peak_bytes, _peak(process.pid))
            time.sleep(0.05)
        seconds = time.perf_counter() - begun
        assert process.stdout is not None
        told = process.stdout.read()
    if process.returncode or f"would label {number // NEW:,} shards" not in told:
        raise RuntimeError(f"jobs/label.py --dry-run over {number:,} shards: exit {process.returncode}\n{told}")
    return _Run(seconds, peak_bytes)


def _peak(pid: int) -> int:
    """The most resident bytes a process ever had; 0 if it has ended. (`getrusage` counts those of its parent, too.)"""
    try:
        with open(f"/proc/{pid}/status") as status:
            return next((int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:")), 0)
    except OSError:
        return 0


@contextmanager
def _store(number: int) -> Iterator[int]:
    """The store with so many shards, in a process of its own; its port."""
    command = [sys.executable, "-m", "pipeline.bench.plan", str(number)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield int(server.stdout.readline())
        finally:
            server.kill()


def objects(number: int, prefix: str, at: int) -> list[tuple[str, int, str]]:
    """A page of a listing: key, size, etag of the objects under `prefix` from the `at`th on."""
    stop = {"in/": number, _LABELS: number - number // NEW, _LEDGER: -(-number // LEDGER_ROWS)}.get(prefix, 0)
    page = range(at, min(at + PAGE, stop))
    if prefix == "in/":
        return [(f"in/{_name(index)}", *_source(index)) for index in page]
    if prefix == _LABELS:
        return [(f"{_LABELS}{_name(index)}.parquet", *_table(index)) for index in page]
    return [(f"{_LEDGER}part-{index:05}.parquet", 10**6, f"{index:032x}") for index in page]


_LABELS, _LEDGER = f"out/labels/model={MODEL_ID}/", "out/shards/"


def _name(index: int) -> str:
    return f"dt=2026-{index % 12 + 1:02}/photos-{index:08}.tar"


def _source(index: int) -> tuple[int, str]:
    return 10**8 + index, f"{index * 0x9E3779B97F4A7C15 % 2**128:032x}"


def _table(index: int) -> tuple[int, str]:
    return 10**6 + index, f"{index * 0xC2B2AE3D27D4EB4F % 2**128:032x}"


@functools.cache
def ledger_part(number: int, part: int) -> bytes:
    """A file of the ledger: the rows of its shards, done by the model."""
    indices = range(part * LEDGER_ROWS, min((part + 1) * LEDGER_ROWS, number - number // NEW))
    sources, tables = [_source(index) for index in indices], [_table(index) for index in indices]
    values = {"model_id": [MODEL_ID] * len(indices), "status": ["committed"] * len(indices),
              "shard": [_name(index) for index in indices], "file": [_name(index) + ".parquet" for index in indices],
              "source_size": [size for size, _ in sources], "source_etag": [etag for _, etag in sources],
              "file_size": [size for size, _ in tables], "file_etag": [etag for _, etag in tables]}
    rows = pa.table([pa.array(values.get(field.name, [None] * len(indices)), field.type) for field in SHARDS], schema=SHARDS)
    buffer = io.BytesIO()
    pq.write_table(rows, buffer, compression="zstd")
    return buffer.getvalue()


class _Handler(BaseHTTPRequestHandler):
    """The part of S3's REST API that planning uses: ListObjectsV2, the ledger's files, the output's mark; all else is not there."""

    protocol_version = "HTTP/1.1"
    number = 0

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if "list-type" in query:
            self._answer(200, self._page(query.get("prefix", ""), int(query.get("continuation-token", 0))))
        elif url.path.startswith(f"/bucket/{_LEDGER}part-"):
            self._answer(200, ledger_part(self.number, int(url.path[-len("00000.parquet"):-len(".parquet")])))
        elif url.path == "/bucket/out/input.json":
            self._answer(200, b'{"input": "s3://bucket/in"}')
        else:
            self._answer(404, b"<Error><Code>NoSuchKey</Code><Message>There is no such key.</Message></Error>")

    do_HEAD = do_GET

    def _page(self, prefix: str, at: int) -> bytes:
        page = objects(self.number, prefix, at)
        contents = "".join(
            f"<Contents><Key>{key}</Key><LastModified>2026-11-20T10:00:00.000Z</LastModified><ETag>&quot;{etag}&quot;</ETag>"
            f"<Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>" for key, size, etag in page)
        more = (f"<IsTruncated>true</IsTruncated><NextContinuationToken>{at + PAGE}</NextContinuationToken>"
                if objects(self.number, prefix, at + PAGE)[:1] else "<IsTruncated>false</IsTruncated>")
        return ('<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
                f"<Name>bucket</Name><Prefix>{prefix}</Prefix><KeyCount>{len(page)}</KeyCount><MaxKeys>{PAGE}</MaxKeys>"
                f"{contents}{more}</ListBucketResult>").encode()

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{len(body):032x}"')
        self.send_header("Last-Modified", "Fri, 20 Nov 2026 10:00:00 GMT")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


if __name__ == "__main__":
    _Handler.number = int(sys.argv[1])
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()
