"""The ledger of a year of nights in a store, before and after it is merged: what planning costs."""

import io
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs

from pipeline.tables import ledger
from pipeline.tables.ledger_rows import RUNS, SHARDS
from pipeline.upkeep.compact import compact_ledger
from tests.support.label_tables import MODEL
from tests.support.s3 import forget_s3

NIGHTS, FILES_A_NIGHT, ROWS_A_FILE = 365, 10, 20  # 3,650 files; the first of a night is its row in `runs`
OUTPUT = "s3://photos/year"


def encode(rows: list[dict], schema: pa.Schema) -> bytes:
    buffer = io.BytesIO()
    full = [{name: row.get(name) for name in schema.names} for row in rows]
    pq.write_table(pa.Table.from_pylist(full, schema), buffer, compression="zstd")
    return buffer.getvalue()


def make_year() -> dict[str, bytes]:
    """The files of the ledger, by their paths in the output."""
    files = {}
    for night in range(NIGHTS):
        run_id = f"2026{1 + night // 31:02}{1 + night % 31:02}T010000-night-{night}-{night:06x}"
        files[f"runs/{run_id}.parquet"] = encode(
            [{"run_id": run_id, "status": "done", "model_id": MODEL, "config": "{}", "num_images": 9}], RUNS)
        for number in range(FILES_A_NIGHT - 1):
            shards = [f"{night}-{number}-{at}.tar" for at in range(ROWS_A_FILE)]
            rows = [{"run_id": run_id, "shard": shard, "model_id": MODEL, "status": "committed", "file_size": 1,
                     "file": f"{shard}.parquet", "file_etag": "f", "source_size": 2, "source_etag": "e"}
                    for shard in shards]
            files[f"shards/{run_id}-{number:05}.parquet"] = encode(rows, SHARDS)
    return files


@pytest.mark.s3
@pytest.mark.slow
def test_planning_reads_tens_of_files_after_a_year_not_thousands(s3, monkeypatch):
    environ, fs = s3
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    files = make_year()
    fs.pipe({f"photos/year/{path}": data for path, data in files.items()})
    requests: list[str] = []
    call = s3fs.S3FileSystem._call_s3

    async def count(self, method: str, *args, **options):
        requests.append(method)
        return await call(self, method, *args, **options)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", count)

    def plan() -> tuple[int, int, float]:
        """The rows that planning finds, its requests without those of the listing, and its seconds."""
        forget_s3()
        requests.clear()
        begun = time.monotonic()
        finished = ledger.read_finished(OUTPUT, MODEL, [])
        return len(finished), len(requests), time.monotonic() - begun

    rows, requests_before, s_before = plan()
    compact_ledger(OUTPUT, lambda: None)
    rows_after, requests_after, s_after = plan()
    left = [len(ledger.list_table(OUTPUT, table)) for table in ("runs", "shards")]
    print(f"\na year of nights, {len(files):,} files, {rows:,} rows: planning made {requests_before:,} requests in "
          f"{s_before:.1f} s; merged into {sum(left)} files: {requests_after} requests in {s_after:.2f} s")
    assert rows == rows_after == NIGHTS * (FILES_A_NIGHT - 1) * ROWS_A_FILE
    assert left == [12, 12]
    assert requests_before == NIGHTS * (FILES_A_NIGHT - 1) and requests_after == 12
    forget_s3()
