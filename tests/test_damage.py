"""Every kind of file that the job writes, damaged in every way, before every job that reads it."""

import io
import os
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.ask.query import connect
from pipeline.ask.verify import verify
from pipeline.config import Config
from pipeline.errors import JobError
from pipeline.inputs.read import Inputs
from pipeline.model import weights
from pipeline.model.classes import load_classes
from pipeline.run import night
from pipeline.run.record import Record
from pipeline.run.summary import Summary
from pipeline.stages.sink import Sink
from pipeline.store import storage
from pipeline.tables import history, ledger
from pipeline.tables.counts import Counts
from pipeline.tables.label_files import ShardVersion
from pipeline.tables.layout import report_uri
from pipeline.tables.owner.claim import claim_output
from pipeline.truth.evaluate import evaluate
from pipeline.truth.matching import GIVEN_TRUTHS
from pipeline.truth.sources import Truth
from tests.run.test_night import NOW
from tests.stages.test_commit import rows_between
from tests.support.tars import make_tar

SHARD = "a.tar"


def other_schema() -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"status": [1], "x": ["y"]}), buffer)
    return buffer.getvalue()


def flipped(data: bytes) -> bytes:
    """The footer's bytes changed, the magic kept."""
    return data[:-60] + bytes(byte ^ 0xFF for byte in data[-60:-8]) + data[-8:]


DAMAGES = {"empty": lambda _: b"", "cut": lambda data: data[:len(data) // 2],
           "other bytes": lambda _: b"\x00\xffgarbage" * 50,
           "footer": flipped, "another schema": lambda _: other_schema(), "JSON list": lambda _: b"[]",
           "JSON null": lambda _: b"null",
           "JSON of another shape": lambda _: b'{"input": 7, "until": "soon", "run_id": []}'}
FILES = {"table": "labels/model=*/a.tar.parquet", "shards": "shards/*.parquet", "runs": "runs/*.parquet",
         "classes": "classes/*.parquet",
         "mark": "input.json", "lease": "lease.json", "report": "reports/*.html", "staging": "_staging/*/*.parquet"}


@pytest.fixture
def made(tmp_path):
    """An output in which all is done, as a run leaves it: its config, and its model."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / SHARD).write_bytes(make_tar(*((f"{n}.png", bytes([n])) for n in range(4))))
    config = Config(input=str(tmp_path / "in"), output=str(tmp_path / "out"), weights="seed:0")
    model = weights.identify("seed:0").model_id
    version = storage.stat(f"{config.input}/{SHARD}")
    source = ShardVersion(SHARD, f"{config.input}/{SHARD}", version.size, version.etag)
    file = Sink(config.output, "20261126T213000-aaaaaa", model).write(source, rows_between(0, 4), 0, True)
    claim_output(config, model, load_classes(None))
    ledger.write(config.output, "shards", "20261126T213000-aaaaaa-00000", [{
        "run_id": "20261126T213000-aaaaaa", "shard": SHARD, "model_id": model, "status": "committed",
        "source_size": version.size,
        "source_etag": version.etag, "file": SHARD + ".parquet", "file_size": file.size, "file_etag": file.etag,
        "num_images": 4,
        "num_rejected": 0}], ledger.SHARDS)
    summary = Summary("20261126T213000-aaaaaa", model, 0, 1, 10, 0, True, num_committed=1, counts=Counts(4))
    ledger.write_run(config.output, Record(config, summary, None, load_classes(None), NOW, 0.0).make_row("done"))
    storage.put_whole(f"{config.output}/_staging/20261125T213000-bbbbbb/piece.parquet",
                      (tmp_path / "out/labels" / f"model={model}" / f"{SHARD}.parquet").read_bytes())
    storage.put_whole(report_uri(config.output, summary.run_id), b"<html></html>")
    storage.put_whole(f"{config.output}/lease.json",
                      b'{"run_id": "r", "place": "x", "pid": 1, "since": 1.0, "until": 2.0}')
    return config, model


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", FILES)
def test_a_damaged_file_stops_no_night(made, tmp_path, kind, damage):
    config, model = made
    path, = (tmp_path / "out").glob(FILES[kind])
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    os.utime(path, (time.time() - 3600, time.time() - 3600))  # a lease lasts a minute
    begun = time.monotonic()
    summary = night.label(Config(input=config.input, output=config.output, weights="seed:0", dry_run=True))
    assert summary.num_pending == (kind == "table")
    if kind != "table":
        summary = night.label(config)  # nothing is pending: no Ray is started
        assert (summary.num_skipped, summary.unrecorded) == (1, "")
        named = path.name if kind == "mark" else f"{kind}/{path.name}"
        assert any(named in note for note in summary.notes) == (kind in ("shards", "runs", "mark")), summary.notes
        again = night.label(config)
        assert kind != "mark" or not any(named in note for note in again.notes)
        assert not (tmp_path / "out/lease.json").exists()
    assert time.monotonic() - begun < 10
    proof = verify(config.input, config.output, None, Inputs(None, None, 10**6, None))
    assert proof.num_rows == (0 if kind == "table" else 4)
    assert any("unreadable" in one for one in proof.problems) == (kind == "table")
    for read in (lambda: history.read_settings(config.output, model),
                 lambda: connect(config.output).sql("SELECT count(*) FROM labels").fetchall(),
                 lambda: evaluate(config.output, model,
                                  lambda _: Truth("t", pa.table([[None], ["k0"], ["0"], [False], [None]],
                                                                schema=GIVEN_TRUTHS)))):
        try:
            read()
        except JobError as error:
            assert kind in ("table", "classes", "runs", "shards") and len(str(error).splitlines()) == 1, error
        except Exception as error:
            if kind not in ("table", "runs", "shards"):  # those of DuckDB come late; jobs/query.py tells them
                raise AssertionError(kind) from error


def test_a_lease_that_ends_too_far_away_is_over_when_it_would_have_been(made, tmp_path):
    config, _ = made
    path = tmp_path / "out/lease.json"
    path.write_bytes(b'{"run_id": "r", "place": "x", "pid": 1, "since": 1.0, "until": 1e12}')
    with pytest.raises(JobError, match="is being written by run r"):
        night.label(config)
    os.utime(path, (time.time() - 100, time.time() - 100))
    assert night.label(config).num_skipped == 1


def test_what_an_ended_run_committed_is_counted_in_its_row(made, tmp_path):
    """Its row said fewer than its tables for ever."""
    config, model = made
    (tmp_path / "in/b.tar").write_bytes(make_tar(("x.png", b"1"), ("y.png", b"2")))
    version = storage.stat(f"{config.input}/b.tar")
    source = ShardVersion("b.tar", f"{config.input}/b.tar", version.size, version.etag)
    Sink(config.output, "20261126T213000-aaaaaa", model).write(source, rows_between(0, 2), 0, True)
    row, = ledger.read_runs(config.output, "20261126T213000-aaaaaa.parquet", [])
    assert night.label(config).num_skipped == 2
    after, = ledger.read_runs(config.output, "20261126T213000-aaaaaa.parquet", [])
    assert (after.num_committed, after.num_images) == (row.num_committed + 1, row.num_images + 2)


def test_a_lost_ledger_counts_nothing_twice(made, tmp_path):
    """Its rows are found in the tables again; the run's own row has counted them."""
    config, _ = made
    for path in (tmp_path / "out/shards").iterdir():
        path.unlink()
    assert night.label(config).num_skipped == 1
    after, = ledger.read_runs(config.output, "20261126T213000-aaaaaa.parquet", [])
    assert (after.num_committed, after.num_images) == (1, 4)
