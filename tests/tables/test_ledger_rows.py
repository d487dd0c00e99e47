"""A row of the ledger and its schema are the same columns, so a renamed attribute cannot become a null column."""

from dataclasses import fields

import pyarrow.parquet as pq
import pytest

from pipeline.tables import ledger
from pipeline.tables.ledger_rows import RUNS, SHARDS, RunRow, ShardRow, to_columns


@pytest.mark.parametrize(("row", "schema"), [(ShardRow, SHARDS), (RunRow, RUNS)])
def test_the_fields_of_a_row_are_the_columns_of_its_schema(row, schema):
    assert [field.name for field in fields(row)] == schema.names
    with pytest.raises(TypeError, match="missing"):
        row(run_id="r1")  # no field has a default: a forgotten column is an error, not null


def test_a_row_is_read_as_it_was_written(tmp_path):
    row = ShardRow(**dict.fromkeys(SHARDS.names) | {"run_id": "r1", "shard": "a.tar", "model_id": "m",
                                                    "status": "committed",
                                                    "file": "a.tar.parquet", "num_images": 3})
    ledger.write_shards(str(tmp_path), "r1-00000", [row])
    assert ledger.read_shards(str(tmp_path), "r1", []) == [row]
    run = RunRow(**dict.fromkeys(RUNS.names) | {"run_id": "r1", "status": "done", "model_id": "m", "config": "{}"})
    ledger.write_run(str(tmp_path), run)
    assert ledger.read_runs(str(tmp_path), "r1.parquet", []) == [run]
    assert pq.read_table(tmp_path / "runs/r1.parquet").to_pylist() == [to_columns(run)]


def test_a_column_that_the_schema_lacks_is_refused(tmp_path):
    with pytest.raises(KeyError, match="num_pictures"):
        ledger.write(str(tmp_path), "shards", "r1", [{"run_id": "r1", "num_pictures": 3}], SHARDS)
    assert not list(tmp_path.rglob("*.parquet"))
