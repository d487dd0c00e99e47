"""What a run did, told from reports in any order, of any version, or from none."""

import gc
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.run.summary import NAMED, Summary
from pipeline.run.tally import DIED, Tally
from pipeline.stages.reports import Report
from pipeline.tables.counts import Counts
from tests.stages.test_commit import SOURCE, rows_between, sink_at

SHARD = SOURCE.shard


def segment(first: int, count: int, **changes: object) -> dict:
    return {"number": 0, "shard": SHARD, "uri": SOURCE.uri, "size": SOURCE.size, "etag": SOURCE.etag, "first": first,
            "end": False,
            "failure": None, "retryable": False, "num_bytes": 10, "decode_s": 0.1, "label_s": 0.2, "file_size": None,
            "file_etag": None, "examples": [], "left_out": []} | Counts(count).to_columns() | changes


def report(*segments: dict) -> Report:
    return Report.from_row({"segments": list(segments), "precision": "fp32", "runner": "cpu", "runner_note": "",
                            "label_s": 0.2, "num_slots": 8,
            "num_blocks": 1, "num_moved": 0, "pictures": []})


def tally_of(folder, shards: list[str]) -> Tally:
    summary = Summary("r1", "inception_v4-00000000", 0, len(shards), 10, 0, False)
    tally = Tally(str(folder), summary, pa.array(shards), lambda status: None)
    tally.label_cpus = 2
    return tally


@pytest.fixture
def tally(tmp_path):
    return tally_of(tmp_path, [SHARD])


def ledger(tmp_path) -> list[dict]:
    return [row for path in sorted((tmp_path / "shards").glob("*")) for row in pq.read_table(path).to_pylist()]


def test_a_shard_is_committed_when_all_its_segments_are_reported(tally, tmp_path):
    for each in (segment(4, 2, end=True, file_size=9, file_etag="f"),
                 segment(0, 4, rejected=[{"error": "empty", "num_images": 1}])):
        assert not tally.ended.any()
        tally.add(report(each))
    tally.close()
    row, = ledger(tmp_path)
    assert (row["status"], row["num_images"], row["num_rejected"], row["source_etag"]) == ("committed", 6, 1, "e1")
    assert tally.summary.exit_code(1) == 0 and tally.summary.counts.num_images == 6
    assert (tally.summary.num_labelled, tally.summary.num_slots, tally.summary.num_blocks,
            tally.summary.runner) == (6, 16, 2, "cpu")


def test_two_versions_are_counted_apart(tally):
    tally.add(report(segment(0, 4, etag="e0")))
    tally.add(report(segment(0, 0, etag="e0", failure="Replaced: …", retryable=True)))
    tally.settle(last=False)
    for each in (segment(0, 4), segment(0, 4, etag="e0"), segment(4, 1, end=True, file_size=9, file_etag="f")):
        tally.add(report(each))
    assert tally.summary.counts.num_images == 5 and tally.summary.failed == {}


@pytest.mark.parametrize(("failure", "retryable", "told"), [
    ("PermissionError: no", False, "PermissionError: no"), ("TimeoutError: slow", True, "TimeoutError: slow"),
    (None, False, DIED)])
def test_a_failure_is_final_or_has_three_attempts(tally, tmp_path, failure, retryable, told):
    for attempt in range(3):
        if tally.ended.all():
            break
        tally.last_attempt = attempt == 2
        tally.add(report(segment(0, 4)))
        if failure:
            tally.add(report(segment(0, 0, failure=failure, retryable=retryable)))
        tally.settle(last=attempt == 2)
        assert tally.ended.all() == (attempt == 2 or (failure is not None and not retryable))
    tally.close()
    assert tally.summary.failed == {SHARD: told}
    assert tally.summary.num_failed == 1
    assert tally.summary.counts.num_images == 0
    assert [(row["status"], row["failure"]) for row in ledger(tmp_path)] == [("failed", told)]


def test_an_interrupt_says_nothing_of_shards_that_were_never_begun(tmp_path):
    """A million pending shards were a million failed rows."""
    tally = tally_of(tmp_path, [f"{number}.tar" for number in range(1000)])
    tally.add(report(segment(0, 4, number=3, shard="3.tar"),
                     segment(0, 2, number=4, shard="4.tar", end=True, file_size=9, file_etag="f")))
    tally.close()
    assert [(row["shard"], row["status"], row["num_images"]) for row in ledger(tmp_path)] == [
        ("4.tar", "committed", 2), ("3.tar", "failed", 0)]
    assert tally.summary.num_failed == 1 and len(tally.list_left()) == 998


def test_of_many_failed_shards_the_summary_names_some_and_the_ledger_all(tmp_path):
    tally = tally_of(tmp_path, [f"{number}.tar" for number in range(300)])
    for number in range(300):
        tally.add(report(segment(0, 0, number=number, shard=f"{number}.tar", failure="PermissionError: no")))
    tally.close()
    assert tally.summary.num_failed == 300 and len(tally.summary.failed) == NAMED and len(ledger(tmp_path)) == 300


def traced_bytes() -> int:
    """What our own code has allocated, without the weights: a thread of another test may still be loading some."""
    filters = tracemalloc.Filter(True, "*/pipeline/*"), tracemalloc.Filter(False, "*/pipeline/model/*")
    ours = tracemalloc.take_snapshot().filter_traces(filters)
    return sum(trace.size for trace in ours.traces)


@pytest.mark.parametrize("failing", [False, True])
def test_what_is_kept_of_a_shard_that_ended_is_small(tmp_path, failing):
    """It was 2 to 50 KB a shard, by the labels that occur in it: up to 50 GB at a million."""
    number, labels = 4_000, [{"label_id": label, "num_images": 1} for label in range(400)]
    tally = tally_of(tmp_path, [f"dt=2026-11-23/photos-{at:08}.tar" for at in range(number)])

    def add(at: int) -> None:
        shard = f"dt=2026-11-23/photos-{at:08}.tar"
        done = {"failure": "TimeoutError: slow", "retryable": True} if failing else {"end": True, "file_size": 9,
                                                                                     "file_etag": "f"}
        tally.add(report(segment(0, 400, number=at, shard=shard, labels=labels) | done))

    tally.flushed_s = -1e9  # a flush at once, so that rows that wait are not counted
    tracemalloc.start()
    try:
        for at in range(number):
            if at == number // 2:
                tally.flush()
                gc.collect()  # what waits for it is not kept
                before = traced_bytes()
            add(at)
        tally.flush()
        gc.collect()
        kept = (traced_bytes() - before) / (number // 2)
    finally:
        tracemalloc.stop()
    print(f"{kept:.0f} bytes a shard")
    assert kept < 300


def test_a_report_that_was_lost_is_found_in_the_output(tally, tmp_path):
    sink, _ = sink_at(tmp_path)
    sink.write(SOURCE, rows_between(0, 4), 0, True)
    tally.add(report(segment(0, 2)))
    tally.settle(last=False)
    tally.close()
    row, = ledger(tmp_path)
    assert (row["status"], row["num_images"], row["rejected"]) == (
        "committed", 4, [{"error": "truncated", "num_images": 1}])


def test_a_ledger_that_cannot_be_written_is_said(tally, tmp_path):
    tally.add(report(segment(0, 4, end=True, file_size=9, file_etag="f")))
    (tmp_path / "shards").write_text("in the way")
    tally.close()
    assert tally.summary.unrecorded and tally.summary.exit_code(1) == 1


@pytest.mark.parametrize(("images", "shards", "crumbs"),
                         [(10, 1, False), (399, 2, True), (400, 2, False), (0, 0, False)])
def test_tables_of_few_rows_are_noticed(tally, images, shards, crumbs):
    tally.summary.counts.num_images, tally.summary.num_committed = images, shards
    assert any("rows on average" in note for note in tally.summary.notes) == crumbs
