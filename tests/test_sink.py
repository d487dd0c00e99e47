"""The sink on the local disk: a shard's file is whole or absent, whatever the order of its pieces."""

import itertools
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.sink import Sink, Source
from pipeline.table import EMBEDDING, ROWS, SAMPLES, Answers, rows

SOURCE = Source("dt=2026-11-23/a.tar", "s3://b/dt=2026-11-23/a.tar", 10240, "e1")


def make_rows(first: int, last: int) -> pa.Table:
    ids = list(range(first, last))
    samples = pa.table([[SOURCE.shard] * len(ids), ids, [f"k{i}" for i in ids], ids, ids, [f"{i:064}" for i in ids],
                        ["truncated" if i == 2 else None for i in ids]], schema=SAMPLES)
    values = np.tile(np.array(ids, np.float32)[:, None], (1, EMBEDDING))
    return rows(samples, Answers(np.zeros((len(ids), 5), np.int16), np.ones((len(ids), 5), np.float32), values), pa.array(["crane"]))


def sink_at(path) -> tuple[Sink, str]:
    return (Sink(str(path), "r1", "inception_v4-00000000"),
            str(path / "labels/model=inception_v4-00000000/dt=2026-11-23/a.tar.parquet"))


def test_one_piece_is_committed_at_once_with_its_footer(tmp_path):
    sink, path = sink_at(tmp_path)
    committed = sink.write(SOURCE, make_rows(0, 4), 0, True)
    assert committed is not None and committed.size == os.path.getsize(path)
    footer = pq.read_metadata(path).metadata
    assert {key: footer[key] for key in footer if key != b"ARROW:schema"} == {
        b"source_uri": SOURCE.uri.encode(), b"source_size": b"10240", b"source_etag": b"e1",
        b"model_id": b"inception_v4-00000000", b"run_id": b"r1", b"num_rows": b"4", b"num_rejected": b"1"}
    assert pq.read_table(path, partitioning=None).schema.remove_metadata().equals(ROWS)
    assert not (tmp_path / "_staging").exists()


def test_an_empty_shard_has_a_file_of_no_rows(tmp_path):
    sink, path = sink_at(tmp_path)
    assert sink.write(SOURCE, ROWS.empty_table(), 0, True) is not None
    assert pq.read_metadata(path).num_rows == 0


def test_pieces_in_any_order_make_the_same_file(tmp_path):
    bounds = [(0, 3), (3, 5), (5, 9)]
    whole, whole_path = sink_at(tmp_path / "whole")
    whole.write(SOURCE, make_rows(0, 9), 0, True)
    for number, order in enumerate(itertools.permutations(bounds)):
        sink, path = sink_at(tmp_path / str(number))
        committed = []
        for first, last in order:
            assert not os.path.exists(path)
            committed.append(sink.write(SOURCE, make_rows(first, last), first, last == 9))
        assert [file is None for file in committed] == [True, True, False]
        assert pq.read_table(path, partitioning=None).equals(pq.read_table(whole_path, partitioning=None))
        assert list((tmp_path / str(number)).rglob("_staging/**/*.parquet")) == []


def test_a_piece_written_again_changes_nothing(tmp_path):
    sink, path = sink_at(tmp_path)
    for first, last in ((0, 3), (0, 3), (3, 9)):
        sink.write(SOURCE, make_rows(first, last), first, last == 9)
    before = Path(path).read_bytes()
    assert sink.write(SOURCE, make_rows(0, 3), 0, False) is None  # a retry after the commit
    assert Path(path).read_bytes() == before


@pytest.mark.parametrize("embeddings", ["float32", "float16", "false"])
def test_embeddings_as_asked_for(tmp_path, embeddings):
    sink = Sink(str(tmp_path), "r1", "inception_v4-00000000", embeddings)
    for first, last in ((0, 3), (3, 9)):
        sink.write(SOURCE, make_rows(first, last), first, last == 9)
    table = pq.read_table(tmp_path / "labels", partitioning=None)
    whole = make_rows(0, 9)
    assert table.drop_columns(["embedding"] if embeddings != "false" else []).equals(whole.drop_columns(["embedding"]))
    if embeddings != "false":
        assert table["embedding"].cast(whole["embedding"].type).equals(whole["embedding"])
        assert str(table["embedding"].type.value_type) == {"float32": "float", "float16": "halffloat"}[embeddings]
