"""No folder of the input gives a value to a column of the tables, in any engine; each shard has its own table."""

import io
import json
import random
import shutil
from pathlib import Path
from types import SimpleNamespace

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.model.spec import EMBEDDING_SIZE
from pipeline.run import night
from pipeline.stages.sink import Sink
from pipeline.store import storage
from pipeline.store.listing import FILES, list_files
from pipeline.tables import history, label_tables
from pipeline.tables.label_files import ShardVersion, read_footers
from pipeline.tables.labels import ROWS, SAMPLES, Answers, make_rows
from pipeline.tables.layout import label_uri, labels_folder, place_of, tables_glob
from pipeline.tables.owner.claim import check_root
from pipeline.tables.plan import FINISHED, make_plan
from pipeline.tables.table_paths import shard_of, table_path, table_paths
from tests.ask.test_query import LABELS, MODEL
from tests.support.tars import make_tar

COLUMNS = [*ROWS.names, "model", "filename"]
FOLDERS = [*(f"{name}=7" for name in COLUMNS), *(f"{name.upper()}=7" for name in COLUMNS), "dt=2026-11-24/Label=7",
           "label=7/dt=2026-11-24", "lab%65l=7", "a\\label=7", "label=7=8", "in_label=7", "in_in_model=7",
           "model=7/label=7"]


def put(output: str, shard: str, model: str = MODEL, etag: str = "e") -> None:
    """The table of a shard of two images: a dog, and a rejected one."""
    samples = pa.table([[shard] * 2, [0, 1], ["a", "b"], [5, 5], [6, 6], ["s0", "s1"], [None, "truncated"]],
                       schema=SAMPLES)
    answers = Answers(np.array([[1, 0]] * 2, np.int16), np.array([[0.75, 0.25]] * 2, np.float32),
                      np.zeros((2, EMBEDDING_SIZE), np.float32))
    Sink(output, "20261124T030000-aaaaaa", model).write(ShardVersion(shard, f"in/{shard}", 1, etag),
                                                        make_rows(samples, answers, LABELS), 0, True)


def expected(shard: str, model: str = MODEL) -> list[tuple]:
    return [(shard, 0, "a", 5, 6, "s0", 1, "dog", 0.75, None, model),
            (shard, 1, "b", 5, 6, "s1", None, None, None, "truncated", model)]


SIMPLE = [name for name in ROWS.names if name not in ("top5", "embedding")] + ["model"]


def of_frame(frame: pd.DataFrame) -> list[tuple]:
    found = [tuple(None if pd.isna(value) else value for value in row) for row in frame[SIMPLE].itertuples(index=False)]
    return sorted(found, key=lambda row: row[1])


def answers(folder: str, fs: object = None, options: dict | None = None) -> dict[str, list[tuple]]:
    """What each engine reads below `labels/`, with the partitions that it finds by itself."""
    names, order = ", ".join(SIMPLE), " ORDER BY index"
    connection = duckdb.connect()
    if fs:
        connection.register_filesystem(fs)
    found = {"duckdb": connection.sql(f"SELECT {names} FROM {tables_glob(folder)}{order}").fetchall(),
             "duckdb, hive": connection.sql(f"SELECT {names} FROM read_parquet({tables_glob(folder)}, "
                                            f"hive_partitioning=true){order}").fetchall()}
    found["polars"] = pl.read_parquet(folder + "/", storage_options=options).sort("index").select(SIMPLE).rows()
    path = folder.removeprefix("s3://")
    table = ds.dataset(path, partitioning="hive", format="parquet",
                       filesystem=fs).to_table().sort_by("index").select(SIMPLE)
    found["pyarrow"] = [tuple(row.values()) for row in table.to_pylist()]
    found["pandas"] = of_frame(pd.read_parquet(path, filesystem=fs))
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_engines_read_the_models_answers(folder, tmp_path):
    put(str(tmp_path), folder + "/a.tar")
    for engine, found in answers(str(tmp_path / "labels")).items():
        assert found == expected(folder + "/a.tar"), engine


@pytest.mark.s3
@pytest.mark.parametrize("folder", ["label=7", "model=7/dt=1", "a\\KEY=7"])
def test_engines_read_the_models_answers_over_s3(folder, s3, monkeypatch):
    environ, fs = s3
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    storage.remove("s3://photos/columns")
    put("s3://photos/columns", folder + "/a.tar")
    options = {name.lower(): environ[name]
               for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL")}
    for engine, found in answers("s3://photos/columns/labels", fs,
                                 options | {"aws_region": "us-east-1", "aws_allow_http": "true"}).items():
        assert found == expected(folder + "/a.tar"), engine


@pytest.mark.slow
def test_spark_reads_the_models_answers(tmp_path):
    sql = pytest.importorskip("pyspark.sql", reason="PySpark is not installed (pip install '.[spark]')")
    if shutil.which("java") is None:
        pytest.skip("PySpark needs Java")
    spark = sql.SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").config(
        "spark.driver.bindAddress", "127.0.0.1").config("spark.driver.host", "127.0.0.1").getOrCreate()
    try:
        for number, folder in enumerate(("label=7", "KEY=7", "lab%65l=7", "model=7", "index=7/dt=1", "top5=7")):
            put(str(tmp_path / str(number)), folder + "/a.tar")
            found = spark.read.parquet(f"{tmp_path}/{number}/labels").select(*SIMPLE).orderBy("index").collect()
            assert [tuple(row) for row in found] == expected(folder + "/a.tar"), folder
    finally:
        spark.stop()


def test_other_folders_are_columns_still(tmp_path):
    for day in (23, 24):
        put(str(tmp_path), f"dt=2026-11-{day}/a.tar")
    place = place_of("dt=2026-11-23/a.tar")
    assert label_uri("out", "m", place, "") == "out/labels/model=m/dt=2026-11-23/a.tar.parquet"
    where = f"FROM {tables_glob(str(tmp_path / 'labels'))} WHERE dt = '2026-11-24'"
    assert duckdb.sql(f"SELECT DISTINCT shard {where}").fetchall() == [("dt=2026-11-24/a.tar",)]
    explained = duckdb.sql(f"EXPLAIN ANALYZE SELECT shard {where}").fetchall()[0][1]
    assert "Total Files Read: 1" in explained
    table = ds.dataset(tmp_path / "labels", partitioning="hive")
    assert [len(list(table.get_fragments(ds.field("dt") == f"2026-11-{day}"))) for day in (23, 25)] == [1, 0]
    assert pl.read_parquet(tmp_path / "labels").filter(pl.col("dt") == pl.date(2026, 11, 24)).height == 2


def shards_by_chance(rng: random.Random) -> set[str]:
    words = ["in_", "label", "Key", "x", "%6bey", "=", "/", "\\", "7", "dt", ".tar", "\n"]
    made = {"".join(rng.choices(words, k=rng.randint(1, 9))) for _ in range(3000)}
    return {path for path in made if {"", ".", ".."}.isdisjoint(path.split("/"))}


def test_each_shard_has_a_place_of_its_own_and_back():
    shards = sorted(shards_by_chance(random.Random(0)) | {f"{folder}/a.tar" for folder in FOLDERS}
                    | {"a.tar.parquet", "label=7.tar"})
    places = [table_path(shard) for shard in shards]
    assert len(set(places)) == len(shards) > 1000 and [shard_of(place) for place in places] == shards
    assert table_paths(pa.chunked_array([shards[:9], shards[9:]])).to_pylist() == places
    assert table_paths(pa.array(shards)).to_pylist() == places
    assert table_paths(pa.chunked_array([], pa.string())).to_pylist() == []
    assert shard_of("label=7/a.tar.parquet") is None and shard_of("label=7.tar.parquet") == "label=7.tar"


def test_the_plan_finds_tables_at_their_places():
    files = [("in_label=7/a.tar.parquet", 1, "p"), ("key=7/b.tar.parquet", 1, "p"), ("gone.tar.parquet", 1, "p")]
    known = [(*file, 9, "e") for file in files]
    made = make_plan(table(FILES, [("label=7/a.tar", 9, "e"), ("key=7/b.tar", 9, "e")]), table(FILES, files),
                     table(FINISHED, known))
    assert [each["path"].to_pylist() for each in (made.pending, made.orphans, made.misplaced)] == [
        ["key=7/b.tar"], ["gone.tar.parquet"], ["key=7/b.tar.parquet"]]


def table(schema: pa.Schema, found: list[tuple]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in found], schema)


def test_a_partition_is_found_at_its_place(tmp_path):
    put(str(tmp_path), "label=7/x/a.tar")
    put(str(tmp_path), "b.tar")
    for partition in ("label=7", "label=7/", "label=7/x"):
        listed = label_tables.list_labels(str(tmp_path), MODEL, partition)
        assert listed["path"].to_pylist() == ["in_label=7/x/a.tar.parquet"]
    footers = read_footers(str(tmp_path), MODEL, label_tables.list_labels(str(tmp_path), MODEL))
    history.record_unlogged_tables(str(tmp_path), MODEL, footers, "r")
    assert sorted(pq.read_table(tmp_path / "shards")["shard"].to_pylist()) == ["b.tar", "label=7/x/a.tar"]


def made_before(output: Path, shard: str) -> Path:
    """A table where it was put before."""
    put(str(output), shard)
    now = Path(label_uri(str(output), MODEL, place_of(shard), ""))
    before = output / "labels" / f"model={MODEL}" / (shard + ".parquet")
    before.parent.mkdir(parents=True, exist_ok=True)
    return now.rename(before)


@pytest.mark.parametrize("refused", [False, True])
def test_tables_at_the_places_of_before_leave_no_twin(tmp_path, monkeypatch, refused):
    """The shard is labelled at its new place, then the old table goes; that of a gone shard stays, and is told."""
    output = tmp_path / "out"
    old, gone = made_before(output, "label=7/a.tar"), made_before(output, "label=7/gone.tar")
    for shard in ("label=7/a.tar", "b.tar"):
        path = tmp_path / "in" / shard
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(make_tar(("a.jpg", b"1")))
    (output / "input.json").write_text(json.dumps({"input": str(tmp_path / "in")}))

    def execute(context, chosen, classes, pending, begin):
        begin()
        assert old.exists()
        for shard in list(pending["path"].to_pylist()):
            put(context.config.output, shard, chosen.model_id)
            context.summary.num_committed += 1

    def refuse(uri):
        if "/labels/" in uri:
            raise PermissionError(uri)

    monkeypatch.setattr(night, "execute", execute)
    monkeypatch.setattr(night.weights, "identify", lambda _: SimpleNamespace(model_id=MODEL, meaningless=False))
    if refused:
        monkeypatch.setattr(storage, "remove", refuse)
    summary = night.label(Config(input=str(tmp_path / "in"), output=str(output)), io.StringIO())
    assert gone.exists() and old.exists() is refused
    assert Path(label_uri(str(output), MODEL, place_of("label=7/a.tar"), "")).exists()
    assert (summary.num_pending, summary.num_misplaced, summary.num_orphans) == (2, 2, 0)
    assert summary.num_replaced == 1 - refused
    assert any(note.startswith(f"{1 + refused} tables are in folders that engines take for columns")
               for note in summary.notes)
    assert any(note.startswith("1 tables were removed") for note in summary.notes) is not refused
    assert pq.read_table(output / "runs")["num_orphans"].to_pylist() == [1 + refused]


@pytest.mark.parametrize("above", ["label=7", "a/KEY=7/b", "model=x"])
def test_an_output_in_such_a_folder_is_refused(tmp_path, above):
    name = above.strip("a/").partition("=")[0]
    with pytest.raises(UserError, match=f"DuckDB takes its folder {name}=… for the column"):
        check_root(Config(input=str(tmp_path / "in"), output=str(tmp_path / above / "out")), [])
    check_root(Config(input=str(tmp_path / "in"), output=str(tmp_path / "dt=7/out")), [])


def test_the_owner_is_read_from_the_first_table_of_ours(tmp_path):
    """Its mark lost: foreign files are passed over, and the folder's place is known."""
    put(str(tmp_path / "out"), "label=7/a.tar")
    folder = Path(labels_folder(str(tmp_path / "out"), MODEL))
    (folder / "a.parquet").write_bytes(b"no Parquet")
    pq.write_table(pa.table({"x": [1]}), folder / "b.parquet")
    (folder.parent / "_SUCCESS").write_bytes(b"")
    with pytest.raises(UserError, match="holds the labels of --input in, and"):
        check_root(Config(input=str(tmp_path / "in"), output=str(tmp_path / "out")), [])
    assert len(list_files(str(folder))) == 3


def test_a_foreign_file_does_not_say_what_an_output_is_of(tmp_path, monkeypatch):
    """It was taken for the table of a tar, and loose images were refused."""
    folder = Path(labels_folder(str(tmp_path / "out"), MODEL))
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"x": [1]}), folder / "b.parquet")
    (folder / "readme.txt").write_text("x")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.jpg").write_bytes(b"1")
    monkeypatch.setattr(night.weights, "identify", lambda _: SimpleNamespace(model_id=MODEL, meaningless=False))
    summary = night.label(Config(input=str(tmp_path / "in"), output=str(tmp_path / "out"), dry_run=True), io.StringIO())
    assert (summary.num_pending, summary.num_skipped, summary.num_orphans) == (1, 0, 1)
