"""What a run did, told from reports in any order, of any version, or from none."""

import pyarrow.parquet as pq
import pytest

from pipeline.counts import Counts
from pipeline.tally import DIED, Summary, Tally
from tests.test_sink import SOURCE, make_rows, sink_at

SHARD = SOURCE.shard


def report(first: int, number: int, **changes: object) -> dict:
    return {"shard": SHARD, "uri": SOURCE.uri, "size": SOURCE.size, "etag": SOURCE.etag, "first": first, "end": False,
            "failure": None, "passing": False, "num_bytes": 10, "decode_s": 0.1, "label_s": 0.2, "precision": "fp32",
            "file_size": None, "file_etag": None, "pictures": [], "examples": []} | Counts(number).columns() | changes


@pytest.fixture
def tally(tmp_path):
    return Tally(str(tmp_path), Summary("r1", "inception_v4-00000000", 0, 1, 10, 0, False), 2, 0, lambda status: None)


def ledger(tmp_path) -> list[dict]:
    return [row for path in sorted((tmp_path / "shards").glob("*")) for row in pq.read_table(path).to_pylist()]


def test_a_shard_is_committed_when_all_its_batches_are_reported(tally, tmp_path):
    for each in (report(4, 2, end=True, file_size=9, file_etag="f"), report(0, 4, rejected=[{"error": "empty", "num_images": 1}])):
        assert not tally.ended
        tally.add(each)
    tally.close([SHARD])
    row, = ledger(tmp_path)
    assert (row["status"], row["num_images"], row["num_rejected"], row["source_etag"]) == ("committed", 6, 1, "e1")
    assert tally.summary.exit_code(1) == 0 and tally.summary.counts.num_images == 6


def test_two_versions_are_counted_apart(tally):
    tally.add(report(0, 4, etag="e0"))
    tally.add(report(0, 0, etag="e0", failure="Replaced: …", passing=True))
    tally.settle([SHARD], last=False)
    for each in (report(0, 4), report(0, 4, etag="e0"), report(4, 1, end=True, file_size=9, file_etag="f")):
        tally.add(each)
    assert tally.summary.counts.num_images == 5 and tally.summary.failed == {}


@pytest.mark.parametrize(("failure", "passing", "told"), [
    ("PermissionError: no", False, "PermissionError: no"), ("TimeoutError: slow", True, "TimeoutError: slow"),
    (None, False, DIED)])
def test_a_failure_is_final_or_has_three_attempts(tally, tmp_path, failure, passing, told):
    for attempt in range(3):
        if SHARD in tally.ended:
            break
        tally.add(report(0, 4))
        if failure:
            tally.add(report(0, 0, failure=failure, passing=passing))
        tally.settle([SHARD], last=attempt == 2)
        assert (SHARD in tally.ended) == (attempt == 2 or failure is not None and not passing)
    tally.close([SHARD])
    assert tally.summary.failed == {SHARD: told} and tally.summary.counts.num_images == 0
    assert [(row["status"], row["failure"]) for row in ledger(tmp_path)] == [("failed", told)]


def test_a_report_that_was_lost_is_found_in_the_output(tally, tmp_path):
    sink, _ = sink_at(tmp_path)
    sink.write(SOURCE, make_rows(0, 4), 0, True)
    tally.add(report(0, 2))
    tally.settle([SHARD], last=False)
    tally.close([SHARD])
    row, = ledger(tmp_path)
    assert (row["status"], row["num_images"], row["rejected"]) == (
        "committed", 4, [{"error": "truncated", "num_images": 1}])


def test_a_ledger_that_cannot_be_written_is_said(tally, tmp_path):
    tally.add(report(0, 4, end=True, file_size=9, file_etag="f"))
    (tmp_path / "shards").write_text("in the way")
    tally.close([SHARD])
    assert tally.summary.unrecorded and tally.summary.exit_code(1) == 1


@pytest.mark.parametrize(("images", "shards", "crumbs"), [(10, 1, False), (399, 2, True), (400, 2, False), (0, 0, False)])
def test_tables_of_few_rows_are_noticed(tally, images, shards, crumbs):
    tally.summary.counts.num_images, tally.summary.num_committed = images, shards
    assert any("rows on average" in note for note in tally.summary.notes) == crumbs
