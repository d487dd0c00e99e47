"""Merged files of the ledger: no row is lost or double whenever the merge is killed; plan and history see the same."""

import random
from collections import Counter

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.ask.query import connect
from pipeline.tables import history, ledger
from pipeline.tables.ledger_rows import RUNS, SHARDS
from pipeline.upkeep import compact
from pipeline.upkeep.compact import MOST_LOOSE, compact_ledger
from tests.support.label_tables import MODEL, tables


class Killed(BaseException):
    """The process is gone."""


def fill(output: str, num_runs: int, shards_each: int = 3, month: str = "202611") -> list[str]:
    """Runs of a month, each with a file of `runs` and one of `shards`; the ids."""
    ids = [f"{month}{1 + n // 60 % 28:02}T03{n % 60:02}00-night-{n // 2}-{n:06x}" for n in range(num_runs)]
    for number, run_id in enumerate(ids):
        ledger.write(output, "runs", run_id, [{"run_id": run_id, "status": "done", "model_id": MODEL, "config": "{}",
                                               "num_images": number, "num_rejected": 1}], RUNS)
        rows = [{"run_id": run_id, "shard": f"{at}.tar", "model_id": MODEL, "status": "committed",
                 "file": f"{at}.tar.parquet", "file_size": 1, "file_etag": run_id, "source_size": 2,
                 "source_etag": "e"} for at in range(shards_each)]
        ledger.write(output, "shards", f"{run_id}-00000", rows, SHARDS)
    return ids


def rows(output: str) -> tuple[Counter, Counter]:
    """The rows of `runs` and of `shards`, as a glob over the files has them."""
    return tuple(Counter(duckdb.sql(f"SELECT {columns} FROM '{output}/{table}/*.parquet'").fetchall())
                 for table, columns in (("runs", "run_id, status, num_images"), ("shards", "run_id, shard, file_etag")))


def files(output: str) -> list[str]:
    return sorted(f"{table}/{path}" for table in ("runs", "shards") for path in ledger.list_table(output, table))


def test_few_files_stay_as_they_are(tmp_path):
    fill(str(tmp_path), MOST_LOOSE // 2)
    before = files(str(tmp_path))
    compact_ledger(str(tmp_path), lambda: None)
    assert files(str(tmp_path)) == before and len(before) == MOST_LOOSE


def test_a_file_a_month_with_the_same_rows(tmp_path):
    output = str(tmp_path)
    ids = [*fill(output, 20, month="202610"), *fill(output, 30)]
    before, finished = rows(output), ledger.read_finished(output, MODEL, [])
    nights = [history.count_night(output, "~", MODEL, name) for name in ("night-3", "night-14", None)]
    compact_ledger(output, lambda: None)
    assert files(output) == ["runs/202610.parquet", "runs/202611.parquet", "shards/202610.parquet",
                             "shards/202611.parquet"]
    assert rows(output) == before
    assert Counter(map(str, ledger.read_finished(output, MODEL, []).to_pylist())) == Counter(
        map(str, finished.to_pylist()))
    assert [history.count_night(output, "~", MODEL, name) for name in ("night-3", "night-14", None)] == nights
    assert history.read_settings(output, MODEL) == {}
    assert history.read_settings(output, "another") == {}
    more = fill(output, 40, month="202612")
    compact_ledger(output, lambda: None)
    assert len(files(output)) == 6 and sum(rows(output)[0].values()) == len({*ids, *more})


@pytest.mark.parametrize("large", [1, 20_000, 2**25])
def test_killed_at_any_moment_no_row_is_lost_and_the_next_merge_leaves_none_double(tmp_path, monkeypatch, large):
    """Also where a month has several merged files."""
    monkeypatch.setattr(compact, "LARGE_BYTES", large)
    monkeypatch.setattr(compact, "MOST_LOOSE", 8)
    chance = random.Random(0)
    output = tables(tmp_path, np.full((1, 4), 0.25))
    fill(output, 10, month="202610")
    put, remove, left = ledger.put_rows, compact.storage.remove, [0]

    def count(call):
        def counted(*arguments):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            call(*arguments)
        return counted

    monkeypatch.setattr(ledger, "put_rows", count(put))
    monkeypatch.setattr(compact.storage, "remove", count(remove))
    expected = rows(output)
    for month in ("202611", "202612"):
        left[0] = 10**9
        fill(output, 9, month=month)
        expected = tuple(Counter(dict.fromkeys(one, 1)) for one in rows(output))
        for _ in range(4):
            left[0] = chance.randrange(1, 30)
            try:
                compact_ledger(output, lambda: None)
            except Killed:
                assert all(found.keys() == wanted.keys() for found, wanted in zip(rows(output), expected, strict=True))
                seen = connect(output)
                assert seen.sql("SELECT count(*) FROM runs").fetchall() == [(len(expected[0]),)]
                assert seen.sql("SELECT count(*) FROM shards").fetchall() == [(len(expected[1]),)]
    left[0] = 10**9
    fill(output, 10, month="202701")
    expected = tuple(Counter(dict.fromkeys(one, 1)) for one in rows(output))
    compact_ledger(output, lambda: None)
    assert rows(output) == expected


def test_runs_that_have_not_ended_and_damaged_files_stay(tmp_path):
    output = str(tmp_path)
    ids = fill(output, 30)
    ledger.write(output, "runs", ids[7], [{"run_id": ids[7], "status": "running", "model_id": MODEL, "config": "{}"}],
                 RUNS)
    (tmp_path / f"shards/{ids[9]}-00000.parquet").write_bytes(b"PAR1 no more")
    (tmp_path / "runs/notes.parquet").write_bytes(b"of a person")
    compact_ledger(output, lambda: None)
    assert files(output) == ["runs/202611.parquet", f"runs/{ids[7]}.parquet", "runs/notes.parquet",
                             "shards/202611.parquet", f"shards/{ids[7]}-00000.parquet",
                             f"shards/{ids[9]}-00000.parquet"]
    assert len(pq.read_table(tmp_path / "runs/202611.parquet")) == 29
    (tmp_path / "runs/202611.parquet").write_bytes(b"PAR1 no more")
    fill(output, 40)
    before = files(output)
    compact_ledger(output, lambda: None)
    assert [path for path in before if path.startswith("runs/")] == [
        path for path in files(output) if path.startswith("runs/")]


def test_who_has_lost_the_lease_changes_nothing(tmp_path):
    fill(str(tmp_path), 30)
    before = files(str(tmp_path))

    def check():
        raise RuntimeError("run r2 has taken it")

    with pytest.raises(RuntimeError):
        compact_ledger(str(tmp_path), check)
    assert files(str(tmp_path)) == before
