"""Whole runs over a real S3 server while processes are killed and requests fail: no row lost, none double.

A cycle is a run that is disturbed on a fresh output, and then runs until one ends with 0: at most two more are allowed.
Storage faults come in all of them. A reader polls the tables with DuckDB all the time, as an analyst would.
"""

import io
import random
import re
import threading
import time
from collections import Counter

import duckdb
import psutil
import pyarrow.parquet as pq
import pytest
from duckdb_extensions import import_extension
from PIL import Image

from tests.support.faults import FaultProxy
from tests.support.jobs import job
from tests.support.processes import STAGES, by_kind, kill, start
from tests.support.s3 import KEY, SECRET
from tests.support.tars import make_tar

KILLS, FAULTS, RATE, SEED = 30, 1000, 0.2, 1602_07261
NUM_SHARDS, PER_SHARD = 8, 12
OPTIONS = ("--weights", "seed:0", "--precision", "fp32", "--batch-size", 1)
# What a run must outlive; and what ends it: its driver, or its head node's raylet or GCS.
WORKERS = {"Reader": 5, "LabelStage": 5, "Committer": 5, "worker": 2}
HEAD = {"driver": 4, "raylet": 1, "gcs_server": 1}


def small_photographs(photographs) -> list[bytes]:
    found = []
    for _, data in photographs:
        file = io.BytesIO()
        Image.open(io.BytesIO(data)).convert("RGB").resize((320, 320)).save(file, "JPEG")
        found.append(file.getvalue())
    return found


class Reader(threading.Thread):
    """An analyst who asks again and again; what is wrong is in `wrong`."""

    def __init__(self, port: int, bucket: str) -> None:
        super().__init__(daemon=True)
        import_extension("httpfs")
        self.connection = duckdb.connect()
        self.connection.execute(f"LOAD httpfs; SET s3_endpoint='127.0.0.1:{port}'; SET s3_use_ssl=false; SET "
                                f"s3_url_style='path'; SET s3_access_key_id='{KEY}'; SET s3_secret_access_key='{SECRET}'")
        self.bucket, self.output = bucket, ""
        self.num_reads, self.most, self.wrong, self.ended = 0, 0, [], threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.3):
            output = self.output
            try:
                rows = self.connection.execute(
                    "SELECT shard, count(*), count(DISTINCT index) FROM "
                    f"read_parquet('s3://{self.bucket}/{output}/labels/**/*.parquet') GROUP BY ALL").fetchall()
            except duckdb.Error as error:
                if "No files found" not in str(error):
                    self.wrong.append((output, str(error)))
                continue
            self.num_reads += 1
            self.most = max(self.most, len(rows))
            self.wrong += [(output, row) for row in rows if row[1:] != (PER_SHARD, PER_SHARD)]


def disturb(pid: int, rng: random.Random, kills: Counter[str], most: int, head: float) -> set[psutil.Process]:
    """Kill workers of a run at random moments, and then perhaps (`head`: how likely) its head; all its processes seen."""
    seen: set[psutil.Process] = set()
    deadline = time.monotonic() + 30
    while by_kind(pid).keys().isdisjoint(STAGES) and psutil.pid_exists(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(rng.uniform(0, 6))
    for turn in range(most + (rng.random() < head)):
        processes = by_kind(pid)
        seen.update(*processes.values())
        weights = WORKERS if turn < most else HEAD
        kinds = sorted(processes.keys() & weights.keys())
        if not kinds or processes["driver"][0].status() == "zombie":
            break
        kind = rng.choices(kinds, [weights[kind] for kind in kinds])[0]
        kills[kind] += kill([rng.choice(processes[kind])])
        time.sleep(rng.uniform(0.3, 4))
    return seen


@pytest.mark.chaos
@pytest.mark.s3
def test_chaos(s3, photographs, tmp_path):
    environ, fs = s3
    port = int(environ["AWS_ENDPOINT_URL"].rsplit(":", 1)[1])
    images = small_photographs(photographs)
    for shard in range(NUM_SHARDS):
        members = [(f"{shard}-{n}.jpg", images[(shard * 5 + n) % len(images)]) for n in range(PER_SHARD - 1)]
        fs.pipe_file(f"photos/chaos/in/{shard}.tar", make_tar(*members, ("cut.jpg", images[0][:2000])))
    shards = "s3://photos/chaos/in"
    calm = job("label", "--input", shards, "--output", "s3://photos/chaos/calm", *OPTIONS, "--max-rejected", 1, **environ)
    assert calm.returncode == 0, calm.stdout + calm.stderr
    expected, labels = state(shards, "photos/chaos/calm", fs, environ, Counter())
    proxy = FaultProxy(port, SEED)
    proxy.rate = RATE
    faulty = environ | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}",
                        "RAY_gcs_rpc_server_reconnect_timeout_s": "5"}  # a driver without its GCS waits a minute, then dies
    reader = Reader(port, "photos")
    reader.output = "chaos/calm"
    reader.start()
    rng, kills, num_runs, cycle = random.Random(SEED), Counter[str](), 0, 0
    wrong: Counter[str] = Counter()
    began = time.monotonic()
    while kills.total() < KILLS or proxy.counts.total() < FAULTS:
        assert time.monotonic() - began < 840, (kills, proxy.counts)
        output, log = f"chaos/{cycle}", tmp_path / f"{cycle}.log"
        reader.output = output
        for attempt in range(3):
            run = start("--input", shards, "--output", f"s3://photos/{output}", *OPTIONS, "--max-rejected", 1, log=log,
                        **faulty)
            num_runs += 1
            seen = disturb(run.pid, rng, kills, (4, 1, 0)[attempt], (0.7, 0.5, 0)[attempt])
            run.wait(timeout=200)
            kill([process for process in seen if process.is_running()])  # of Ray, that have not noticed yet
            if run.returncode == 0:
                break
        assert run.returncode == 0, log.read_text()[-5000:]
        digest, labelled = state(shards, f"photos/{output}", fs, environ, wrong)
        assert digest == expected
        agree = sum(labelled[key] == label for key, label in labels.items()) / len(labels)
        assert agree >= 0.995 and labelled.keys() == labels.keys()
        assert not [path for path in fs.find(f"photos/{output}") if "_staging" in path or "lease" in path]
        assert not fs.call_s3("list_multipart_uploads", Bucket="photos").get("Uploads")
        cycle += 1
        print(f"cycle {cycle}: {attempt + 1} runs; {kills.total()} kills, {proxy.counts.total()} faults so far, "
              f"{time.monotonic() - began:.0f} s", flush=True)
    reader.ended.set()
    reader.join()
    proxy.close()
    assert not reader.wrong, reader.wrong[:5]
    assert reader.num_reads > 100 and reader.most == NUM_SHARDS
    print(f"\nchaos: {kills.total()} kills {dict(kills)}, {proxy.counts.total()} storage faults {dict(proxy.counts)}, "
          f"{num_runs} runs in {cycle} cycles, {reader.num_reads} reads by DuckDB; rows lost {wrong['missing']}, rows double {wrong['double']}")




def state(shards: str, output: str, fs, environ: dict[str, str], wrong: Counter[str],
          ) -> tuple[str, dict[tuple[str, int], int]]:
    """The digest of a proven output, and its labels; what `verify` counts is added to `wrong`."""
    proof = job("verify", "--input", shards, "--output", f"s3://{output}", **environ)
    for name in ("missing", "double", "foreign"):
        wrong[name] += int(re.search(rf"([\d,]+) {name}", proof.stdout)[1])
    assert proof.returncode == 0 and not wrong.total(), proof.stdout + proof.stderr
    labels = {}
    for path in fs.find(f"{output}/labels"):
        with fs.open(path) as file:
            for row in pq.read_table(file, columns=["shard", "index", "label_id"]).to_pylist():
                labels[row["shard"], row["index"]] = row["label_id"]
    return proof.stdout.splitlines()[-1], labels
