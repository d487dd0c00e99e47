"""Whole runs over a real S3 server while processes are killed and requests fail: no row is lost, and none is double.

A cycle begins with a disturbed run on a fresh output. Further runs follow until one ends with 0, two at most. All of
these runs meet storage faults. A reader polls the tables all the time, as an analyst would: plain Parquet with DuckDB,
a lake table with the library of its kind. In the end each version of a lake table is read once more.
"""

import io
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import duckdb
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from duckdb_extensions import import_extension
from PIL import Image
from pyiceberg.catalog import load_catalog

from pipeline.model import weights
from tests.support.faults import FaultProxy
from tests.support.jobs import SEED, job, make_weights, start_label
from tests.support.processes import STAGES, by_kind, has_ended, kill, wait_until
from tests.support.s3 import KEY, SECRET
from tests.support.tars import make_tar

# Of a kind of tables: kills, storage faults.
LEAST = {"parquet": (25, 700), "delta": (10, 250), "iceberg": (10, 250)}
RATE, CHANCE = 0.2, 1602_07261
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
    """An analyst who asks again and again. Wrong answers are in `wrong`.

    Args:
        ask: of an output, shard, rows and different indices of each shard; None while there is no table.
    """

    def __init__(self, ask: Callable[[str], list[tuple[str, int, int]] | None]) -> None:
        super().__init__(daemon=True)
        self.ask, self.output = ask, ""
        self.num_reads, self.most, self.wrong, self.ended = 0, 0, [], threading.Event()

    def run(self) -> None:
        while not self.ended.wait(0.3):
            output = self.output
            try:
                rows = self.ask(output)
            except Exception as error:
                self.wrong.append((output, repr(error)))
                continue
            if rows is not None:
                self.num_reads += 1
                self.most = max(self.most, len(rows))
                self.wrong += [(output, row) for row in rows if row[1:] != (PER_SHARD, PER_SHARD)]


def ask_duckdb(port: int, bucket: str) -> Callable[[str], list[tuple[str, int, int]] | None]:
    """Ask for the tables under a glob."""
    import_extension("httpfs")
    connection = duckdb.connect()
    connection.execute(f"LOAD httpfs; SET s3_endpoint='127.0.0.1:{port}'; SET s3_use_ssl=false; "
                       f"SET s3_url_style='path'; SET s3_access_key_id='{KEY}'; SET s3_secret_access_key='{SECRET}'")

    def ask(output: str) -> list[tuple[str, int, int]] | None:
        try:
            return connection.execute(
                "SELECT shard, count(*), count(DISTINCT index) FROM "
                f"read_parquet('s3://{bucket}/{output}/labels/**/*.parquet') GROUP BY ALL").fetchall()
        except duckdb.Error as error:
            if "No files found" not in str(error):
                raise
            return None

    return ask


class Lake:
    """A lake table as others open it. `kind`: delta or iceberg. `catalog`: the file of Iceberg's catalog."""

    def __init__(self, kind: str, environ: dict[str, str], catalog: Path) -> None:
        self.kind, self.endpoint = kind, environ["AWS_ENDPOINT_URL"]
        self.catalog = f"sqlite:///{catalog}"
        self.model_id = weights.identify(str(make_weights())).model_id

    def versions(self, output: str) -> list[pa.Table]:
        """The rows of all versions, the oldest first, without the first one of Delta, which has no file."""
        return self._read(output, newest=False)

    def ask(self, output: str) -> list[tuple[str, int, int]] | None:
        """As `Reader` asks, of the newest version."""
        newest = self._read(output, newest=True)
        return count_rows(newest[-1]) if newest else None

    def _read(self, output: str, *, newest: bool) -> list[pa.Table]:
        columns = ("shard", "index", "label_id")
        if self.kind == "delta":
            options = {"aws_endpoint": self.endpoint, "aws_allow_http": "true", "aws_access_key_id": KEY,
                       "aws_secret_access_key": SECRET, "aws_region": "us-east-1"}
            place = f"s3://photos/{output}/delta/model={self.model_id}"
            if not DeltaTable.is_deltatable(place, storage_options=options):
                return []
            last = DeltaTable(place, storage_options=options).version()
            return [DeltaTable(place, version=version, storage_options=options).to_pyarrow_table(columns=[*columns])
                    for version in range(max(1, last if newest else 1), last + 1)]
        catalog = load_catalog("labels", **{
            "type": "sql", "uri": self.catalog, "s3.endpoint": self.endpoint, "s3.access-key-id": KEY,
            "s3.secret-access-key": SECRET, "s3.region": "us-east-1"})
        name = (output.replace("/", "_"), self.model_id)
        if not catalog.table_exists(name):
            return []
        table = catalog.load_table(name)
        snapshots = table.snapshots()[-1:] if newest else table.snapshots()
        return [table.scan(snapshot_id=snapshot.snapshot_id, selected_fields=columns).to_arrow()
                for snapshot in snapshots]


def count_rows(rows: pa.Table) -> list[tuple[str, int, int]]:
    counted = rows.group_by("shard").aggregate([("index", "count"), ("index", "count_distinct")])
    return [tuple(row.values()) for row in counted.select(["shard", "index_count", "index_count_distinct"]).to_pylist()]


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
@pytest.mark.parametrize("kind", LEAST)
def test_chaos(kind, s3, photographs, tmp_path):
    environ, fs = s3
    least_kills, least_faults = LEAST[kind]
    options = (*OPTIONS, "--table", kind)
    lake = None if kind == "parquet" else Lake(kind, environ, tmp_path / "catalog.db")
    environ = environ | {"PYICEBERG_CATALOG__LABELS__TYPE": "sql",
                         "PYICEBERG_CATALOG__LABELS__URI": f"sqlite:///{tmp_path}/catalog.db"}
    port = int(environ["AWS_ENDPOINT_URL"].rsplit(":", 1)[1])
    images = small_photographs(photographs)
    for shard in range(NUM_SHARDS):
        members = [(f"{shard}-{n}.jpg", images[(shard * 5 + n) % len(images)]) for n in range(PER_SHARD - 1)]
        fs.pipe_file(f"photos/chaos/in/{shard}.tar", make_tar(*members, ("cut.jpg", images[0][:2000])))
    shards = "s3://photos/chaos/in"

    def environ_of(output: str, environ: dict[str, str]) -> dict[str, str]:
        """The outputs share a catalog, in which each has a namespace."""
        return environ | {"PYICEBERG_CATALOG__LABELS__NAMESPACE": output.replace("/", "_")}

    def state(output: str) -> tuple[str, dict[tuple[str, int], int]]:
        """The digest of a proven output, and its labels. The counts of `verify` are added to `wrong`."""
        proof = job("verify", "--input", shards, "--output", f"s3://photos/{output}", **environ_of(output, environ))
        for name in ("missing", "double", "foreign"):
            wrong[name] += int(re.search(rf"([\d,]+) {name}", proof.stdout)[1])
        assert proof.returncode == 0 and not wrong.total(), proof.stdout + proof.stderr
        tables = lake.versions(output)[-1:] if lake else [
            pq.read_table(io.BytesIO(fs.cat_file(path)), columns=["shard", "index", "label_id"])
            for path in fs.find(f"photos/{output}/labels")]
        labels = {(row["shard"], row["index"]): row["label_id"] for table in tables for row in table.to_pylist()}
        return proof.stdout.splitlines()[-1], labels

    wrong: Counter[str] = Counter()
    first = f"chaos/{kind}-calm"
    calm = job("label", "--input", shards, "--output", f"s3://photos/{first}", *options, **environ_of(first, environ))
    assert calm.returncode == 0, calm.stdout + calm.stderr
    expected, labels = state(first)
    proxy = FaultProxy(port, CHANCE)
    proxy.rate = RATE
    faulty = environ | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}",
                        # A driver without its GCS would wait a minute before it ends.
                        "RAY_gcs_rpc_server_reconnect_timeout_s": "5"}
    reader = Reader(lake.ask if lake else ask_duckdb(port, "photos"))
    reader.output = first
    reader.start()
    rng, kills, num_runs, cycle = random.Random(CHANCE), Counter[str](), 0, 0
    num_versions = 0
    begun = time.monotonic()
    while kills.total() < least_kills or proxy.counts.total() < least_faults:
        assert time.monotonic() - begun < LASTS_S, (kills, proxy.counts)
        output, log = f"chaos/{kind}-{cycle}", tmp_path / f"{cycle}.log"
        reader.output = output
        for attempt in range(3):
            run = start_label("--input", shards, "--output", f"s3://photos/{output}", *options, log=log,
                              **environ_of(output, faulty))
            num_runs += 1
            seen = disturb(run.pid, rng, kills, (4, 1, 0)[attempt], (0.7, 0.5, 0)[attempt])
            run.wait(timeout=200)
            # Some processes of Ray have not noticed the end yet.
            kill([process for process in seen if process.is_running()])
            if run.returncode == 0:
                break
        assert run.returncode == 0, log.read_text()[-5000:]
        digest, labelled = state(output)
        assert digest == expected
        agree = sum(labelled[key] == label for key, label in labels.items()) / len(labels)
        assert agree >= 0.995 and labelled.keys() == labels.keys()
        assert not [path for path in fs.find(f"photos/{output}") if "_staging" in path or "lease" in path]
        assert not fs.call_s3("list_multipart_uploads", Bucket="photos").get("Uploads")
        for version in lake.versions(output) if lake else ():
            num_versions += 1
            assert not [row for row in count_rows(version) if row[1:] != (PER_SHARD, PER_SHARD)]
        cycle += 1
        print(f"cycle {cycle}: {attempt + 1} runs; {kills.total()} kills, {proxy.counts.total()} faults so far, "
              f"{time.monotonic() - begun:.0f} s", flush=True)
    reader.ended.set()
    reader.join()
    proxy.close()
    assert not reader.wrong, reader.wrong[:5]
    assert reader.num_reads > (20 if lake else 100) and reader.most == NUM_SHARDS
    print(f"\nchaos, {kind}: {kills.total()} kills {dict(kills)}, {proxy.counts.total()} storage faults "
          f"{dict(proxy.counts)}, {num_runs} runs in {cycle} cycles, {reader.num_reads} reads, {num_versions} versions "
          f"of lake tables; rows lost {wrong['missing']}, rows double {wrong['double']}")
