"""Rows of runs that could not write their own."""

import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.tables import history, label_tables, ledger
from pipeline.tables.counts import Counts
from pipeline.tables.label_files import read_footers
from tests.stages.test_commit import SOURCE, rows_between, sink_at

MODEL = "inception_v4-00000000"


def run(output: str, run_id: str, status: str, **more: object) -> None:
    ledger.write(output, "runs", run_id, [{"run_id": run_id, "status": status} | Counts().to_columns() | more],
                 ledger.RUNS)


def statuses(tmp_path) -> dict[str, str]:
    return {row["run_id"]: row["status"] for row in pq.read_table(tmp_path / "runs").to_pylist()}


def test_what_a_killed_run_owes_is_written_once(tmp_path):
    output, dead = str(tmp_path), "20261124T030000-aaaaaa"
    sink, _ = sink_at(tmp_path)
    type(sink)(output, dead, MODEL).write(SOURCE, rows_between(0, 4), 0, True)
    run(output, "20261123T030000-bbbbbb", "done")
    run(output, dead, "running")
    files = label_tables.list_labels(output, MODEL)
    history.record_unlogged_tables(output, MODEL, read_footers(output, MODEL, files), "20261125T030000-cccccc")
    history.mark_killed_runs(output, "20261125T030000-cccccc", [])
    assert statuses(tmp_path) == {"20261123T030000-bbbbbb": "done", dead: "killed"}
    row, = pq.read_table(tmp_path / "shards").to_pylist()
    assert (row["run_id"], row["shard"], row["source_uri"], row["num_images"], row["num_rejected"], row["status"],
            str(row["labelled_at"])) == (dead, SOURCE.shard, SOURCE.uri, 4, 1, "committed", "2026-11-24 03:00:00+00:00")
    killed = pq.read_table(tmp_path / "runs" / f"{dead}.parquet").to_pylist()[0]
    assert (killed["num_committed"], killed["num_images"], killed["num_rejected"]) == (1, 4, 1)
    assert ledger.read_finished(output, MODEL, []).num_rows == 1  # and its footer is not read again


def test_runs_after_ours_are_left_alone(tmp_path):
    run(str(tmp_path), "20261125T030000-aaaaaa", "running")
    history.mark_killed_runs(str(tmp_path), "20261124T030000-aaaaaa", [])
    assert statuses(tmp_path) == {"20261125T030000-aaaaaa": "running"}


@pytest.mark.parametrize(("images", "found"), [(0, "20261122T030000-aaaaaa"), (3, "20261123T030000-aaaaaa")])
def test_the_run_before_is_the_last_that_labelled_something(tmp_path, images, found):
    output = str(tmp_path)
    for day, number in (("22", 5), ("23", images), ("25", 9)):
        counts = Counts(number)
        counts.labels[7] = number
        run(output, f"202611{day}T030000-aaaaaa", "done", **counts.to_columns())
    row = history.read_run_before(output, "20261124T030000-aaaaaa")
    assert row and row.run_id == found
    assert history.read_run_before(output, "20261101T030000-aaaaaa") is None


def test_a_table_whose_footer_is_damaged_says_nothing_of_itself_at_once(tmp_path):
    """pyarrow calls it an OSError without a number, which was tried again for 24 s and then stopped the run."""
    folder = tmp_path / "labels/model=m"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"x": [1]}), folder / "a.tar.parquet")
    data = bytearray((folder / "a.tar.parquet").read_bytes())
    data[-60:-8] = b"\xff" * 52
    (folder / "a.tar.parquet").write_bytes(data)
    with pytest.raises(OSError, match=r"thrift|TProtocol"):
        pq.read_metadata(folder / "a.tar.parquet")
    begun = time.monotonic()
    files = label_tables.list_labels(str(tmp_path), "m")
    assert len(files) == 1 and len(read_footers(str(tmp_path), "m", files)) == 0 and time.monotonic() - begun < 5


def test_a_night_is_the_runs_of_one_name(tmp_path):
    output = str(tmp_path)
    for second, name, model, images, rejected in (
            ("01", "-night-1", MODEL, 10, 1), ("02", "-night-1", "other", 70, 70), ("03", "-night-10", MODEL, 50, 50),
            ("04", "-night-1", MODEL, 5, 4), ("05", "", MODEL, 6, 2), ("06", "-night-2", MODEL, 0, 0)):
        run(output, f"20261122T0300{second}{name}-aaaaaa", "done", model_id=model, num_images=images,
            num_rejected=rejected)
    assert history.count_night(output, "~", MODEL, "night-1") == (15, 5)
    assert [history.count_night(output, "~", MODEL, name) for name in ("night-2", "absent")] == [(0, 0), (0, 0)]
    before = "20261122T030003-night-1-bbbbbb"
    assert history.count_night(output, before, MODEL, "night-1") == (10, 1)
    assert history.count_night(output, "~", MODEL, None) == (6, 2)  # the last run that labelled something
    assert history.count_night(str(tmp_path / "absent"), "~", MODEL, None) == (0, 0)


def test_what_is_expected_follows_the_run_before(tmp_path):
    counts = Counts(100)
    counts.labels[7] = 100
    run(str(tmp_path), "20261122T030000-aaaaaa", "done", **counts.to_columns() | {
        "pending_bytes": 1000, "seconds": 60.0, "held_cpu_s": 3600.0, "held_gpu_s": 1800.0})
    found = history.expect_run(str(tmp_path), "~", 3000, {"cpu": 0.5, "gpu": 2.0})
    assert found == history.Expected(300, 180.0, pytest.approx(3 * (0.5 + 1.0)))
    assert history.expect_run(str(tmp_path), "~", 3000, {}) == history.Expected(300, 180.0, None)
    assert history.expect_run(str(tmp_path / "absent"), "~", 3000, {}) is None
