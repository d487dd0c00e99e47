"""Whole runs over a real S3 server while processes are killed and requests fail: no row is lost, and none is double.

A cycle begins with a disturbed run on a fresh output. Further runs follow until one ends with 0, two at most. All of
these runs meet storage faults. A reader polls the tables with DuckDB all the time, as an analyst would.
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
from tests.support.jobs import SEED, job, start_label
from tests.support.processes import STAGES, by_kind, has_ended, kill, wait_until
from tests.support.s3 import KEY, SECRET
from tests.support.tars import make_tar

KILLS, FAULTS, RATE, CHANCE = 25, 700, 0.2, 1602_07261
NUM_SHARDS, PER_SHARD = 8, 12
LASTS_S = 840  # at most
OPTIONS = (*SEED, "--batch-size", 1, "--max-rejected", 1)
# The processes whose death a run must outlive, and those whose death ends the run; how likely each is chosen.
WORKERS = {"Reader": 5, "LabelStage": 5, "Committer": 5, "worker": 2}
HEAD = {"driver": 4, "raylet": 1, "gcs_server": 1}


def small_photographs(photographs) -> list[bytes]:
    files = [io.BytesIO() for _ in photographs]
    for file, (_, data) in zip(files, photographs, strict=True):
        Image.open(io.BytesIO(data)).convert("RGB").resize((320, 320)).save(file, "JPEG")
    return [file.getvalue() for file in files]


class Reader(threading.Thread):
    """An analyst who asks again and again. Wrong answers are in `wrong`."""

    def __init__(self, port: int, bucket: str) -> None:
        super().__init__(daemon=True)
        import_extension("httpfs")
        self.connection = duckdb.connect()
        self.connection.execute(f"LOAD httpfs; SET s3_endpoint='127.0.0.1:{port}'; SET s3_use_ssl=false; "
                                f"SET s3_url_style='path'; SET s3_access_key_id='{KEY}'; "
                                f"SET s3_secret_access_key='{SECRET}'")
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
    """Kill `most` workers of a run at random moments, and then its head with the probability `head`.

    Returns all processes of the run that were seen.
    """
    seen: set[psutil.Process] = set()
    wait_until(lambda: has_ended(pid) or by_kind(pid).keys() & set(STAGES), "no stage has an actor", look_s=0.1)
    time.sleep(rng.uniform(0, 3))  # this sleep and that below: the moments of the kills are random
    for turn in range(most + (rng.random() < head)):
        processes = by_kind(pid)
        seen.update(*processes.values())
        weights = WORKERS if turn < most else HEAD
        kinds = sorted(processes.keys() & weights.keys())
        if not kinds or has_ended(pid):
            break
        kind = rng.choices(kinds, [weights[kind] for kind in kinds])[0]
        kills[kind] += kill([rng.choice(processes[kind])])
        time.sleep(rng.uniform(0.3, 2))
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
    calm = job("label", "--input", shards, "--output", "s3://photos/chaos/calm", *OPTIONS, **environ)
    assert calm.returncode == 0, calm.stdout + calm.stderr
    expected, labels = state(shards, "photos/chaos/calm", fs, environ, Counter())
    proxy = FaultProxy(port, CHANCE)
    proxy.rate = RATE
    faulty = environ | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}",
                        # A driver without its GCS would wait a minute before it ends.
                        "RAY_gcs_rpc_server_reconnect_timeout_s": "5"}
    reader = Reader(port, "photos")
    reader.output = "chaos/calm"
    reader.start()
    rng, kills, num_runs, cycle = random.Random(CHANCE), Counter[str](), 0, 0
    wrong: Counter[str] = Counter()
    begun = time.monotonic()
    while kills.total() < KILLS or proxy.counts.total() < FAULTS:
        assert time.monotonic() - begun < LASTS_S, (kills, proxy.counts)
        output, log = f"chaos/{cycle}", tmp_path / f"{cycle}.log"
        reader.output = output
        for attempt in range(3):
            run = start_label("--input", shards, "--output", f"s3://photos/{output}", *OPTIONS, log=log, **faulty)
            num_runs += 1
            seen = disturb(run.pid, rng, kills, (4, 1, 0)[attempt], (0.7, 0.5, 0)[attempt])
            run.wait(timeout=200)
            # Some processes of Ray have not noticed the end yet.
            kill([process for process in seen if process.is_running()])
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
              f"{time.monotonic() - begun:.0f} s", flush=True)
    reader.ended.set()
    reader.join()
    proxy.close()
    assert not reader.wrong, reader.wrong[:5]
    assert reader.num_reads > 100 and reader.most == NUM_SHARDS
    print(f"\nchaos: {kills.total()} kills {dict(kills)}, {proxy.counts.total()} storage faults {dict(proxy.counts)}, "
          f"{num_runs} runs in {cycle} cycles, {reader.num_reads} reads by DuckDB; rows lost {wrong['missing']}, "
          f"rows double {wrong['double']}")


def state(shards: str, output: str, fs, environ: dict[str, str], wrong: Counter[str],
          ) -> tuple[str, dict[tuple[str, int], int]]:
    """The digest of a proven output, and its labels. The counts of `verify` are added to `wrong`."""
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
