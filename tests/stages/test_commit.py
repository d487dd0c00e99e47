"""The sink on the local disk: a shard's file is whole or absent, whatever the order of its pieces."""

import itertools
import os
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.model.spec import EMBEDDING_SIZE
from pipeline.stages.batch import LABELLED, pack_answers, segments_of
from pipeline.stages.commit import Committer
from pipeline.stages.sink import Sink
from pipeline.tables.label_files import ShardVersion
from pipeline.tables.labels import ROWS, SAMPLES, Answers, make_rows

SOURCE = ShardVersion("dt=2026-11-23/a.tar", "s3://b/dt=2026-11-23/a.tar", 10240, "e1")


def rows_between(first: int, last: int) -> pa.Table:
    ids = list(range(first, last))
    samples = pa.table([[SOURCE.shard] * len(ids), ids, [f"k{i}" for i in ids], ids, ids, [f"{i:064}" for i in ids],
                        ["truncated" if i == 2 else None for i in ids]], schema=SAMPLES)
    values = np.tile(np.array(ids, np.float32)[:, None], (1, EMBEDDING_SIZE))
    return make_rows(samples, Answers(np.zeros((len(ids), 5), np.int16), np.ones((len(ids), 5), np.float32), values),
                     pa.array(["crane"]))


def sink_at(path) -> tuple[Sink, str]:
    return (Sink(str(path), "r1", "inception_v4-00000000"),
            str(path / "labels/model=inception_v4-00000000/dt=2026-11-23/a.tar.parquet"))


def test_one_piece_is_committed_at_once_with_its_footer(tmp_path):
    sink, path = sink_at(tmp_path)
    committed = sink.write(SOURCE, rows_between(0, 4), 0, True)
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
    whole.write(SOURCE, rows_between(0, 9), 0, True)
    for number, order in enumerate(itertools.permutations(bounds)):
        sink, path = sink_at(tmp_path / str(number))
        committed = []
        for first, last in order:
            assert not os.path.exists(path)
            committed.append(sink.write(SOURCE, rows_between(first, last), first, last == 9))
        assert [file is None for file in committed] == [True, True, False]
        assert pq.read_table(path, partitioning=None).equals(pq.read_table(whole_path, partitioning=None))
        assert list((tmp_path / str(number)).rglob("_staging/**/*.parquet")) == []


def test_a_piece_written_again_changes_nothing(tmp_path):
    sink, path = sink_at(tmp_path)
    for first, last in ((0, 3), (0, 3), (3, 9)):
        sink.write(SOURCE, rows_between(first, last), first, last == 9)
    before = Path(path).read_bytes()
    assert sink.write(SOURCE, rows_between(0, 3), 0, False) is None  # a retry after the commit
    assert Path(path).read_bytes() == before


@pytest.mark.parametrize("embeddings", ["float32", "float16", "false"])
def test_embeddings_as_asked_for(tmp_path, embeddings):
    sink = Sink(str(tmp_path), "r1", "inception_v4-00000000", embeddings)
    for first, last in ((0, 3), (3, 9)):
        sink.write(SOURCE, rows_between(first, last), first, last == 9)
    table = pq.read_table(tmp_path / "labels", partitioning=None)
    whole = rows_between(0, 9)
    assert table.drop_columns(["embedding"] if embeddings != "false" else []).equals(whole.drop_columns(["embedding"]))
    if embeddings != "false":
        assert table["embedding"].cast(whole["embedding"].type).equals(whole["embedding"])
        assert str(table["embedding"].type.value_type) == {"float32": "float", "float16": "halffloat"}[embeddings]


@pytest.mark.parametrize("seed", range(40))
def test_pieces_of_two_attempts_may_overlap(tmp_path, seed):
    """Small shards share blocks, so a second attempt cuts a shard elsewhere; the first one's pieces are still there."""
    rng, last = random.Random(seed), 30
    pieces = []
    for attempt in range(2):
        cuts = sorted({0, last, *(rng.randint(1, last - 1) for _ in range(rng.randint(1, 4)))})
        written = list(itertools.pairwise(cuts))
        rng.shuffle(written)
        pieces += written[:rng.randint(1, len(written))] if attempt == 0 else written
    sink, path = sink_at(tmp_path)
    for first, stop in pieces:
        sink.write(SOURCE, rows_between(first, stop), first, stop == last)
    table = pq.read_table(path, partitioning=None)
    assert table["index"].to_pylist() == list(range(last)) and table.equals(rows_between(0, last).cast(table.schema))


def labelled_blocks(sizes: list[list[tuple[int, int, int]]], total: int) -> pa.Table:
    """Blocks of (shard, first, stop) segments of shards of `total` images, as the labeller gives them."""
    made = []
    for block in sizes:
        segments = [{"number": number, "shard": f"{number}.tar", "uri": f"in/{number}.tar", "size": 1, "etag": "e",
                     "first": first,
                     "num_images": stop - first, "end": stop == total, "failure": None, "retryable": False,
                     "left_out": [], "num_bytes": stop - first,
                     "decode_s": 0.5} for number, first, stop in block]
        indices = [index for _, first, stop in block for index in range(first, stop)]
        answer_NK = np.zeros((len(indices), 10 + EMBEDDING_SIZE), np.float32)
        answer_NK[:, :5] = np.arange(5)
        samples = [{"shard": f"{number}.tar", "index": index, "key": str(index), "width": 1, "height": 1,
                    "sha256": "0" * 64, "error": None}
                   for number, first, stop in block for index in range(first, stop)]
        values = {"segments": pa.array([segments], LABELLED.field("segments").type),
                  "samples": pa.array([samples], LABELLED.field("samples").type),
                  "label_s": [1.0], "num_slots": [len(indices)], "precision": ["fp16"], "runner": ["fast"],
                  "runner_note": [""],
                  "moved": [False], "answers": pack_answers(answer_NK),
                  "pictures": pa.array([[]], LABELLED.field("pictures").type)}
        values["kept"] = pa.array([None], LABELLED.field("kept").type)
        made.append(pa.table([values[name] for name in LABELLED.names], schema=LABELLED))
    return pa.concat_tables(made)


def test_a_shard_that_is_here_as_a_whole_is_put_at_once(tmp_path):
    """One block, or neighbours in several: no staging."""
    committer = Committer(Sink(str(tmp_path), "r1", "m"), [f"label {n}" for n in range(5)])
    report, = committer(labelled_blocks([[(0, 0, 9), (1, 0, 4)], [(1, 4, 9), (2, 0, 5)]], 9))
    told = {segment["number"]: segment for segment in segments_of(report)}
    assert [(told[number]["num_images"], told[number]["file_size"] is not None)
            for number in range(3)] == [(9, True), (9, True), (5, False)]
    assert told[1]["num_bytes"] == 9 and told[1]["decode_s"] == 1.0
    assert len(list((tmp_path / "_staging").rglob("*.parquet"))) == 1
    report, = committer(labelled_blocks([[(2, 5, 9)]], 9))
    assert segments_of(report)[0]["file_size"] and not list((tmp_path / "_staging").rglob("*.parquet"))
    for number in range(3):
        table = pq.read_table(tmp_path / f"labels/model=m/{number}.tar.parquet", partitioning=None)
        assert table["index"].to_pylist() == list(range(9)) and set(table["shard"].to_pylist()) == {f"{number}.tar"}


@pytest.mark.s3
def test_requests_of_a_shard_of_a_thousand_images(proxy):
    """17 when each batch of 256 was a piece of its own."""
    committer = Committer(Sink("s3://photos/faults/out", "r1", "m"), [f"label {n}" for n in range(5)])
    list(committer(labelled_blocks([[(0, 0, 1000)]], 1000)))
    proxy.requests.clear()
    report, = committer(labelled_blocks([[(1, 0, 1000)]], 1000))
    assert segments_of(report)[0]["file_size"] > 0
    print(f"requests of a shard of 1,000 images: {proxy.requests}")
    assert len(proxy.requests) <= 4
