"""Other engines than DuckDB on the same tables: same rows, same labels, same embeddings; and their SQL files."""

import hashlib
import re
import shutil
from importlib.resources import files

import numpy as np
import pandas as pd
import polars as pl
import pyarrow.dataset as ds
import pytest
import sqlglot

from pipeline.ask.query import ask, connect
from tests.ask.test_query import ANSWERS, MODEL, NAMES, NIGHTS, fill

SQL = files("pipeline.tables") / "sql"
EXPECTED = {name: rows for name, (_, rows) in ANSWERS.items()}
EXPECTED |= {  # what the files for other engines ask for less of
    "rejects": [(row[0], row[1], row[3]) for row in EXPECTED["rejects"]],
    "drift": [(0, "crane", 1, 0), (1, "dog", 2, 1), (2, "crane", 0, 1)],
    "duplicates": [row[:2] for row in EXPECTED["duplicates"]],
    "low_confidence": [row[:4] for row in EXPECTED["low_confidence"]],
    "neighbours": [*EXPECTED["neighbours"], ("a.tar", "a0'", "crane", 0.0),
                   ("dt=2026-11-24/b.tar", "d0'", "crane", 0.0)],
    "throughput": [(name, f"{night:%Y%m%dT%H%M%S}", 1, 4, 0, 2.0) for name, night in zip(NAMES, NIGHTS, strict=True)],
    "top5": [*EXPECTED["top5"], ("dt=2026-11-24/b.tar", "d0'", 2, "dog", 0.2), ("a.tar", "a0'", 2, "dog", 0.05)]}


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    fill(str(folder))
    return folder


def statements(name: str, output: object = "") -> list[str]:
    text = (SQL / name).read_text(encoding="utf-8")
    text = text.replace("s3://BUCKET/TABLES", str(output)).replace("'KEY'", "'a1'''")
    return [part.strip() for part in re.sub(r"^--.*\n", "", text, flags=re.MULTILINE).split(";") if part.strip()]


def questions(name: str) -> list[str]:
    """The names of the questions of a file, in its order."""
    return re.findall(r"^-- (\w+): ", (SQL / name).read_text(encoding="utf-8"), re.MULTILINE)


def test_the_files_ask_the_same_questions():
    named = sorted(EXPECTED)
    assert sorted(questions("trino.sql")) == named and sorted([*questions("spark.sql"), "top5"]) == named


def state(keys, label_ids, embeddings) -> tuple[str, np.ndarray]:
    order = np.argsort(np.array(keys))
    rows = [(keys[at], None if pd.isna(label_ids[at]) else int(label_ids[at])) for at in order]
    vectors = np.array([np.zeros(1536, np.float32) if embeddings[at] is None else embeddings[at] for at in order],
                       np.float32)
    return hashlib.sha256(repr(rows).encode()).hexdigest(), vectors


def by_spark(spark, output):
    table = spark.read.option("recursiveFileLookup", "true").parquet(f"{output}/labels").collect()
    return [row.key for row in table], [row.label_id for row in table], [row.embedding for row in table]


def test_engines_agree(output):
    table = ds.dataset(output / "labels", partitioning=None).to_table()
    found = {"pyarrow": state(*(table[name].to_pylist() for name in ("key", "label_id", "embedding")))}
    frame = pd.read_parquet(output / "labels", partitioning=None)
    found["pandas"] = state(*(list(frame[name]) for name in ("key", "label_id", "embedding")))
    polars = pl.read_parquet(f"{output}/labels/**/*.parquet", hive_partitioning=False)
    found["polars"] = state(*(polars[name].to_list() for name in ("key", "label_id", "embedding")))
    rows = ask(connect(str(output)), "SELECT key, label_id, embedding FROM labels").fetchall()
    found["duckdb"] = state(*(list(column) for column in zip(*rows, strict=True)))
    assert len(table) == 8 and len({digest for digest, _ in found.values()}) == 1
    assert all(np.array_equal(vectors, found["pyarrow"][1]) for _, vectors in found.values())


@pytest.mark.slow
def test_spark(output, tmp_path):
    sql = pytest.importorskip("pyspark.sql", reason="PySpark is not installed (pip install '.[spark]')")
    if shutil.which("java") is None:
        pytest.skip("PySpark needs Java")
    spark = sql.SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").config(
        "spark.driver.bindAddress", "127.0.0.1").config("spark.driver.host", "127.0.0.1").config(
        "spark.sql.session.timeZone", "UTC").config("spark.sql.warehouse.dir", str(tmp_path)).getOrCreate()
    try:
        table = ds.dataset(output / "labels", partitioning=None).to_table()
        ours = state(*(table[name].to_pylist() for name in ("key", "label_id", "embedding")))
        theirs = state(*by_spark(spark, output))
        assert theirs[0] == ours[0] and np.array_equal(theirs[1], ours[1])
        answers = [spark.sql(statement).collect() for statement in statements("spark.sql", output)]
        answers = [[tuple(round(value, 5) if isinstance(value, float) else value for value in row) for row in rows]
                   for rows in answers[-len(questions("spark.sql")):]]
        for name, rows in zip(questions("spark.sql"), answers, strict=True):
            assert rows == [pytest.approx(row, abs=1e-4) for row in EXPECTED[name]], name
        assert spark.sql("SELECT DISTINCT model FROM labels").collect() == [(MODEL,)]
        assert spark.sql("SELECT count(*) FROM top5").collect() == [(10,)]
    finally:
        spark.stop()


def test_trino_in_duckdbs_dialect(output):
    """There is no Trino here: its SQL is translated by sqlglot, and asked of DuckDB, all that it can translate."""
    connection = connect(str(output))
    for name, statement in zip(questions("trino.sql"), statements("trino.sql"), strict=True):
        translated, = sqlglot.transpile(statement, read="trino", write="duckdb")
        if name in ("top5", "neighbours"):  # UNNEST of rows, functions of pairs
            continue
        rows = ask(connection, translated).fetchall()
        assert rows == [pytest.approx(row, abs=1e-4) for row in EXPECTED[name]], name


def test_athenas_tables_have_our_columns(output):
    for statement in statements("athena.sql"):
        table = sqlglot.parse_one(statement, read="athena")
        if isinstance(table, sqlglot.exp.Create):
            folder = table.this.this.name
            names = [column.name for column in table.this.expressions]
            assert names == ds.dataset(output / folder, partitioning=None).schema.names, folder
