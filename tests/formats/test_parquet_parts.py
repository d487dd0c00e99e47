"""Large Parquet files: split at row groups into parts that stand for shards, each with its rows and no others."""

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.formats import parquet_parts
from pipeline.inputs.find import find_shards
from pipeline.inputs.read import Inputs, group_of, shard_uri
from pipeline.store.retry import Replaced
from tests.stages.test_read import png

READ = Inputs(None, None, 2**26, 100)


@pytest.fixture
def small_parts(monkeypatch):
    """Files of more than 20 rows are large, and parts have up to 10."""
    monkeypatch.setattr(parquet_parts, "MIN_BYTES", 1)
    monkeypatch.setattr(parquet_parts, "MAX_ROWS", 20)
    monkeypatch.setattr(parquet_parts, "PART_ROWS", 10)


def write(path, rows, group_rows, **columns):
    images = {"image": [png(number) for number in range(rows)]}
    pq.write_table(pa.table(images | columns), path, row_group_size=group_rows)


def read_all(found):
    """The samples by shard, and the size of each shard."""
    samples_of = {}
    for row in found.shards.to_pylist():
        with READ.open(shard_uri(found.root, row), group_of(row)) as (samples, version):
            samples_of[row["path"]] = list(samples)
        assert (version.size, version.etag) == (row["size"], row["etag"])
    return samples_of


def test_parts_have_all_rows_once(tmp_path, small_parts):
    write(tmp_path / "a.parquet", 25, 4)
    write(tmp_path / "b.parquet", 20, 4)
    found = find_shards(str(tmp_path))
    samples_of = read_all(found)
    assert [(path, len(samples)) for path, samples in samples_of.items()] == [
        ("a.parquet/rows-000000000000.parquet", 8), ("a.parquet/rows-000000000008.parquet", 8),
        ("a.parquet/rows-000000000016.parquet", 9), ("b.parquet", 20)]
    of_a = [sample for path, samples in samples_of.items() if path.startswith("a.") for sample in samples]
    assert [sample.key for sample in of_a] == [str(row) for row in range(25)]  # the number of the row in the file
    assert [sample.encoded for sample in of_a] == [png(row) for row in range(25)]
    assert [sample.index for sample in of_a[:9]] == [*range(8), 0]
    assert sum(row["size"] for row in found.shards.to_pylist()[:3]) < (tmp_path / "a.parquet").stat().st_size
    keys = [truth.key for row in found.shards.to_pylist()
            for truth in READ.read_truths(shard_uri(found.root, row), group_of(row))]
    assert keys == [*map(str, range(25)), *map(str, range(20))]


def test_a_row_group_that_is_larger_than_a_part_is_one(tmp_path, small_parts):
    write(tmp_path / "a.parquet", 31, 15)
    assert [len(samples) for samples in read_all(find_shards(str(tmp_path))).values()] == [15, 15, 1]


def test_one_file_as_the_input_and_a_list_of_files(tmp_path, small_parts):
    write(tmp_path / "a.parquet", 24, 8)
    (tmp_path / "list.txt").write_text("a.parquet\n")
    for place in ("a.parquet", "list.txt", "{a,b}.parquet"):
        found = find_shards(str(tmp_path / place))
        parts = found.shards.to_pylist()[:3]
        assert [row["path"] for row in parts] == [f"a.parquet/rows-{row:012}.parquet" for row in (0, 8, 16)]
        for row in parts:
            with READ.open(shard_uri(found.root, row), group_of(row)) as (samples, _):
                assert len(list(samples)) == 8


def test_a_file_of_few_rows_and_a_damaged_one_stay_whole(tmp_path, small_parts):
    write(tmp_path / "a.parquet", 24, 8)
    data = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(data[:-100])
    (tmp_path / "text.parquet").write_bytes(b"hello" * 100)
    paths = find_shards(str(tmp_path)).shards["path"].to_pylist()
    assert paths[-2:] == ["cut.parquet", "text.parquet"] and len(paths) == 5


def test_a_file_replaced_since_it_was_split(tmp_path, small_parts):
    write(tmp_path / "a.parquet", 24, 8)
    found = find_shards(str(tmp_path))
    write(tmp_path / "a.parquet", 24, 6)
    os.utime(tmp_path / "a.parquet", (1, 1))
    row = found.shards.to_pylist()[1]
    with pytest.raises(Replaced, match="was replaced since it was listed"), \
            READ.open(shard_uri(found.root, row), group_of(row)) as (samples, _):
        list(samples)
