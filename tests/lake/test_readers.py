"""Who reads a lake table: engines by its log, our questions, the index, a relabelling; and kept columns."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.ask.query import ask, connect
from pipeline.embeddings.neighbours import open_neighbours
from pipeline.embeddings.relabel.run import Relabelling, relabel
from pipeline.embeddings.tables import list_tables
from pipeline.formats.kept import KEPT
from pipeline.model import weights
from pipeline.parse import parse_keep
from pipeline.stages.sink import Sink
from pipeline.store.versions import File
from pipeline.tables import ledger
from pipeline.tables.label_files import ShardVersion
from pipeline.tables.labels import SAMPLES, Answers, make_rows
from pipeline.tables.lake import log
from pipeline.tables.layout import LAKES
from tests.embeddings.test_index import update
from tests.embeddings.test_relabel import NAMES, random_head, write_classes
from tests.lake.lakes import MODEL, SCHEMA, commit, lake_at, listed, open_iceberg, put, read_versions
from tests.support.weight_files import hollow_state, save

pytestmark = pytest.mark.filterwarnings("ignore:Iceberg scan planning")


@pytest.fixture(params=LAKES)
def lake(request, tmp_path):
    """Two tables, of which the first has an older version that does not count, and one that nobody committed."""
    lake = lake_at(tmp_path, request.param)
    commit(lake, {put(lake, "a b.tar", 2): 2, put(lake, "é/b.tar", 3): 3})
    commit(lake, {put(lake, "a b.tar", 4, version=1): 4})
    put(lake, "c.tar", 5)
    for name, schema in (("shards", ledger.SHARDS), ("runs", ledger.RUNS)):
        ledger.write(lake.output, name, "r", [{"run_id": "r", "model_id": MODEL}], schema)
    classes = pa.table({"label_id": [0], "wnid": [""], "label": ["cat"]})
    ledger.put_rows(lake.output, "classes", MODEL, classes)
    return lake


def read_polars(lake: log.LakeTable) -> pl.DataFrame:
    scan = pl.scan_delta(lake.folder) if lake.kind == "delta" else pl.scan_iceberg(open_iceberg(lake))
    return scan.collect()


def read_pandas(lake: log.LakeTable):
    if lake.kind == "delta":
        from deltalake import DeltaTable
        return DeltaTable(lake.folder).to_pandas()
    return open_iceberg(lake).scan().to_pandas()


def test_engines_count_the_same(lake):
    """Rows, keys, numbers of the embeddings, and nulls of rejected images."""
    connection = connect(lake.output, MODEL)
    expected = ask(connection, "SELECT shard, index, key, label_id, error, list_sum(embedding::FLOAT[]) AS total "
                               "FROM labels ORDER BY ALL").fetchall()
    assert [row[:3] for row in expected] == [*(("a b.tar", i, f"k{i} v1") for i in range(4)),
                                             *(("é/b.tar", i, f"k{i} v0") for i in range(3))]
    columns = ["shard", "index", "key", "label_id", "error", "embedding"]
    frames = {"polars": read_polars(lake).select(columns).rows(),
              "pandas": read_pandas(lake)[columns].astype(object).itertuples(index=False),
              "arrow": [tuple(row[name] for name in columns)
                        for row in read_versions(lake, tuple(columns))[-1].to_pylist()]}
    for engine, rows in frames.items():
        found = [(shard, index, key, None if label_id != label_id or label_id is None else int(label_id),
                  error if isinstance(error, str) else None, None if embedding is None else np.sum(embedding))
                 for shard, index, key, label_id, error, embedding in rows]
        for ours, theirs in zip(expected, sorted(found, key=lambda row: row[:2]), strict=True):
            assert theirs[:5] == ours[:5], engine
            assert theirs[5] is ours[5] or theirs[5] == pytest.approx(ours[5], abs=1e-3), engine


def test_questions_by_name(lake):
    connection = connect(lake.output)
    assert ask(connection, "labels", {"number": "3"}).fetchall()[0][:3] == (0, "cat", 5)
    assert len(ask(connection, "neighbours", {"key": "k1 v1", "number": "9"}).fetchall()) == 4
    assert ask(connection, "rejects").fetchall()[0][:2] == ("truncated", 2)
    assert ask(connection, f"SELECT DISTINCT model FROM labels WHERE model = '{MODEL}'").fetchall() == [(MODEL,)]


def test_the_index_follows_the_newest_version(lake):
    assert update(lake.output).num_new == 7
    commit(lake, {put(lake, "a b.tar", 6, version=2): 6}, ("é/b.tar.parquet",))
    asking = open_neighbours(lake.output, MODEL)
    assert (asking.num_known, asking.num_unknown) == (0, 6)
    assert len(asking.answer({"key": "k1 v2", "number": "9"})) == 4
    assert update(lake.output).num_new == 6
    assert open_neighbours(lake.output, MODEL).num_unknown == 0
    assert [table.path for table in list_tables(lake.output, MODEL).tables] == ["a b.tar.parquet"]


@pytest.mark.slow
def test_a_relabelling_is_a_table_of_its_own(tmp_path, lake):
    state = hollow_state()
    old, new = save(state, tmp_path / "old.pth"), save(state | random_head(len(NAMES)), tmp_path / "new.pth")
    (Path(lake.output) / "input.json").write_text(json.dumps({"input": "s3://in"}))
    source, target = (log.LakeTable(lake.output, weights.identify(spec).model_id, lake.kind) for spec in (old, new))
    commit(source, {put(source, "a b.tar", 2): 2, put(source, "é/b.tar", 3): 3})
    asked = Relabelling(lake.output, new, write_classes(tmp_path / "own.csv"), model=source.model_id, labelled_by=old)
    assert (relabel(asked).num_committed, relabel(asked).num_pending) == (2, 0)
    assert [version.num_rows for version in read_versions(target)] == [5]
    # A run with the new weights has labelled a newer version, which an older relabelling must not replace.
    newer = put(target, "a b.tar", 4, version=1, run_id="99991231T000000-aaaaaa")
    commit(target, {newer: 4})
    assert relabel(asked).num_pending == 0 and listed(target)["a b.tar.parquet"] == newer.etag
    # A killed relabelling left a table of a version that the old model has by now.
    commit(source, {put(source, "é/b.tar", 2, version=5): 2})
    left = put(target, "é/b.tar", 2, version=5, run_id="99991231T000000-aaaaaa")
    assert relabel(asked).num_pending == 0 and listed(target)["é/b.tar.parquet"] == left.etag


@pytest.mark.parametrize("kind", LAKES)
def test_kept_columns_and_tables_without_embeddings(kind, tmp_path):
    """All in one table: a file that lacks the embeddings has nulls there."""
    lake, keep = lake_at(tmp_path, kind), parse_keep("caption,year:int,taken:time")
    samples = pa.table([["a.tar"], [0], ["k"], [9], [9], ["0" * 64], [None]], schema=SAMPLES)
    answers = Answers(np.zeros((1, 5), np.int16), np.ones((1, 5), np.float32), np.ones((1, 1536), np.float32))
    rows = make_rows(samples, answers, pa.array(["cat"])).append_column(
        "kept", pa.array([["a cat", "2026", "2026-11-24T03:00:00Z"]], KEPT))
    files: list[File] = []
    for embeddings in ("float32", "false"):
        sink = Sink(lake.output, "r", MODEL, embeddings, keep, kind)
        file = sink.write(ShardVersion(f"{embeddings}.tar", "s3://in/x", 1, "e"), rows, 0, True)
        assert file is not None
        files.append(file)
    schema = log.table_schema(keep)
    changed = [{"path": file.path, "size": file.size, "etag": file.etag, "num_images": 1} for file in files]
    assert log.commit(lake, log.Change(pa.Table.from_pylist(changed, log.LISTED), []), schema, "r")
    frame = read_polars(lake)
    assert frame["caption"].to_list() == ["a cat"] * 2 and frame["year"].to_list() == [2026] * 2
    assert sorted(frame["embedding"].is_null().to_list()) == [False, True]
    assert len(read_pandas(lake)) == 2 and read_versions(lake, ("caption", "embedding"))[0].num_rows == 2
    if kind == "iceberg":
        check_ids(lake, open_iceberg(lake))


def test_the_files_have_the_ids_of_the_table(tmp_path):
    lake = lake_at(tmp_path, "iceberg")
    commit(lake, {put(lake, "a.tar", 1): 1})
    check_ids(lake, open_iceberg(lake))
    assert SCHEMA.names == [field.name for field in open_iceberg(lake).schema().fields]


def check_ids(lake: log.LakeTable, table) -> None:
    """Readers of Iceberg find columns by their ids."""
    from pyiceberg.io.pyarrow import pyarrow_to_schema
    for path in Path(lake.folder).glob("data/*/*.parquet"):
        stored = pyarrow_to_schema(pq.read_schema(path))
        for field in stored.fields:
            ours = table.schema().find_field(field.field_id)
            assert (ours.name, str(ours.field_type)) == (field.name, str(field.field_type)), path
