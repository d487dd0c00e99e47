"""What a question to an output, and an output for a question, may not be: one sentence each, exit status 2."""

import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from duckdb_extensions import import_extension

from pipeline.ask.query import ask, connect, explaining_sql_errors, note_foreign_tables
from pipeline.ask.verify import verify
from pipeline.errors import UserError
from pipeline.store import storage
from pipeline.tables import ledger
from pipeline.tables.layout import labels_folder, tables_glob
from pipeline.tables.owner.models import only_model
from tests.ask.test_query import ANSWERS, MODEL, NAMES, fill
from tests.support.jobs import job
from tests.tables.test_table_paths import put

OTHER = "inception_v4-11111111"


@pytest.fixture
def output(tmp_path) -> str:
    fill(str(tmp_path / "out"))
    return str(tmp_path / "out")


def refusal(output: str, *arguments: str) -> str:
    done = job("query", "--output", output, *arguments)
    assert done.returncode == 2 and done.stdout == "" and len(done.stderr.splitlines()) == 1, done.stdout + done.stderr
    return done.stderr


def answer(output: str, question: str, settings: dict | None = None) -> list[tuple]:
    connection = connect(output)
    with explaining_sql_errors(connection):
        return ask(connection, question, settings).fetchall()


def test_two_models_are_not_counted_together(output):
    put(output, "a.tar", OTHER)
    shutil.copy(f"{output}/classes/{MODEL}.parquet", f"{output}/classes/{OTHER}.parquet")
    says = f"has labels of 2 models: name one with --model, of {MODEL}, {OTHER}"
    for call in (lambda: connect(output), lambda: only_model(output), lambda: verify(output, output, None, None)):
        with pytest.raises(UserError, match=says) as raised:
            call()
        assert raised.value.exit_code == 2
    assert says in refusal(output, "labels")
    assert ask(connect(output, OTHER), "SELECT count(*), any_value(model) FROM labels").fetchall() == [(2, OTHER)]


def test_what_is_no_folder_of_tables_is_no_model(output):
    labels = Path(output) / "labels"
    (labels / "model=empty").mkdir()
    (labels / "model=text").mkdir()
    (labels / "model=text/readme.txt").write_text("x")
    (labels / "notes").mkdir()
    (labels / "notes/a.parquet").write_text("x")
    (labels / "_SUCCESS").write_text("")
    assert only_model(output) == MODEL and answer(output, "labels") == ANSWERS["labels"][1]


@pytest.mark.parametrize(("question", "settings", "says"), [
    ("top5", {}, "the query needs the setting label_id."),
    ("neighbours", {}, "the query needs the setting key, sha256 or image."),
    ("neighbours", {"key": "nobody"}, "the query knows no image nobody that has an embedding."),
    ("neighbours", {"sha256": "00", "shard": "a.tar"},
     "the query knows no image 00 in shard a.tar that has an embedding."),
    ("neighbours", {"key": "a3'"}, "the query knows no image a3' that has an embedding."),  # it was rejected
    ("drift", {"before": "2026-11-23"}, "the query knows no night 2026-11-23 that labelled something."),
    ("low_confidence", {"below": "half"}, "Could not convert string 'half' to DOUBLE"),
    ("labels", {"number": "1.x"}, "Could not convert string '1.x' to INT32"),
    ("SELECT label::DATE FROM labels", {}, "invalid date field format"),
    ("SELECT sqrt(-1 - index) FROM labels", {}, "cannot take square root of a negative number"),
    ("", {}, "--sql is one SELECT; this holds 0 statements."),
    ("-- nothing", {}, "--sql is one SELECT; this holds 0 statements."),
    ("SELECT 1; SELECT 2", {}, "--sql is one SELECT; this holds 2 statements."),
    ("COPY labels TO 'copied.parquet'", {}, "--sql is one SELECT; this is another statement."),
    ("EXPLAIN ANALYZE COPY labels TO 'copied.parquet'", {}, "--sql is one SELECT; this is another statement."),
    ("ATTACH 'copied.db'", {}, "--sql is one SELECT; this is another statement."),
    ("SELECT 1; ATTACH 'copied.db'", {}, "--sql is one SELECT; this holds 2 statements."),
    ("SELEC 1", {}, "syntax error at or near"),
])
def test_a_question_without_an_answer_is_one_sentence(output, question, settings, says, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as raised:
        answer(output, question, settings)
    told_so = str(raised.value)
    assert says in told_so and "\n" not in told_so and raised.value.exit_code == 2
    assert os.listdir(tmp_path) == ["out"]


def test_the_job_tells_them(output):
    assert refusal(output, "top5") == "error: the query needs the setting label_id.\n"
    assert "holds 0 statements" in refusal(output, "--sql", "")
    assert "DuckDB: Conversion Error" in refusal(output, "--sql", "SELECT label::DATE FROM labels")


ODD = ["it's", "a[b]c", "a[!b]", "[", "a*b", "a?b", "a{b,c}", 'q"q', "labels/model=m/x", "per%20cent", "ü"]


@pytest.mark.parametrize("name", ODD)
def test_any_folder_may_hold_an_output(tmp_path, name):
    for decoy in ("axb", "ab", "acb"):  # what a pattern would match too
        put(str(tmp_path / decoy), "decoy.tar")
    output = str(tmp_path / name)
    fill(output)
    assert answer(output, "SELECT count(*), min(model) FROM labels") == [(8, MODEL)]
    assert answer(output, "labels") == ANSWERS["labels"][1] and answer(output, "SELECT count(*) FROM classes") == [(3,)]
    assert answer(output, "SELECT count(*) FROM runs, shards") == [(4,)]
    tables = tables_glob(labels_folder(output, MODEL))
    printed = f"SELECT label, count(*) AS images FROM {tables} GROUP BY ALL ORDER BY images DESC"
    assert dict(duckdb.sql(printed).fetchall()) == {"dog": 3, "crane": 2, None: 3}


def test_a_backslash_is_told(tmp_path):
    fill(str(tmp_path / "a\\b"))
    assert "DuckDB takes \\ in a path for /" in refusal(str(tmp_path / "a\\b"), "labels")


def test_a_model_is_no_pattern(output):
    put(output, "a.tar", OTHER)
    refused = refusal(output, "labels", "--model", "inception_v4-*")
    assert "--model inception_v4-*: no tables can be read there" in refused
    assert "no tables can be read there" in refusal(output, "labels", "--model", "it's")


@pytest.mark.s3
def test_any_folder_over_s3(s3, monkeypatch):
    environ, _ = s3
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    import_extension("httpfs")  # from its package: a machine that is new has none
    connection = duckdb.connect()
    connection.load_extension("httpfs")
    endpoint = environ["AWS_ENDPOINT_URL"].removeprefix("http://")
    connection.execute(f"CREATE SECRET (TYPE s3, KEY_ID '{environ['AWS_ACCESS_KEY_ID']}', "
                       f"SECRET '{environ['AWS_SECRET_ACCESS_KEY']}', "
                       f"ENDPOINT '{endpoint}', USE_SSL false, URL_STYLE 'path')")
    for name in ("it's", "a[b]c", "a*b"):
        output = f"s3://photos/odd/{name}"
        fill(output)
        assert answer(output, "SELECT count(*), min(shard) FROM labels") == [(8, "a.tar")]
        printed = f"SELECT count(*) FROM {tables_glob(labels_folder(output, MODEL))}"
        assert connection.sql(printed).fetchall() == [(8,)], name
    storage.remove("s3://photos/odd")


def a_run(output: str, run_id: str, **more: object) -> None:
    row = {"run_id": run_id, "model_id": MODEL, "status": "done", "seconds": 1.0, "num_images": 1,
           "config": json.dumps({"partition": None})}
    ledger.write(output, "runs", run_id, [row | more], ledger.RUNS)


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "America/Los_Angeles"])
def test_a_night_is_the_same_in_all_time_zones(output, zone):
    """A run over midnight is one, runs of one name are one, and one without a name is its own."""
    begun = datetime(2026, 11, 25, 23, 59, tzinfo=UTC)
    for run_id, minutes in (("20261125T235900-late-00000b", 0), ("20261126T001000-late-00000c", 11),
                            ("20261126T003000-00000d", 31)):
        a_run(output, run_id, started_at=begun + timedelta(minutes=minutes), num_committed=2)
        rows = [{"run_id": run_id, "shard": shard, "model_id": MODEL, "status": "committed",
                 "labelled_at": begun + timedelta(minutes=minutes + at)}
                for at, shard in enumerate(("a.tar", "c.tar") if "late" in run_id else ("d.tar",))]
        ledger.write(output, "shards", run_id, rows, ledger.SHARDS)
    put(output, "d.tar")
    script = ("from pipeline.ask.query import ask, connect; import sys; c = connect(sys.argv[1]); "
              "print([row[:3] for row in ask(c, 'throughput').fetchall()]); "
              "print(sorted(row[:4] for row in ask(c, 'drift').fetchall()))")
    done = subprocess.run([sys.executable, "-c", script, output], env=os.environ | {"TZ": zone}, capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stderr
    throughput, drift = done.stdout.splitlines()
    assert throughput == str([(NAMES[0], "20261123T030000", 1), (NAMES[1], "20261124T030000", 1),
                              ("late", "20261125T235900", 2),
                                        ("20261126T003000-00000d", "20261126T003000", 1)])
    # a.tar was labelled last in the night `late`, d.tar in the run after it
    assert drift == str([(0, "crane", 1, 0), (1, "dog", 2, 1)])


def test_tables_without_a_shard_are_counted(output):
    connection = connect(output)
    assert note_foreign_tables(connection, "labels") is None  # no run counted them
    a_run(output, "20261125T030000-aaaaaa", num_orphans=3)
    a_run(output, "20261126T030000-bbbbbb", num_orphans=0, config=json.dumps({"partition": "dt=2026-11-26"}))
    a_run(output, "20261127T030000-cccccc", model_id=OTHER, num_orphans=9)
    says = ("3 tables are of shards that the input no longer had at run 20261125T030000-aaaaaa; "
            "their rows are in the answer")
    assert note_foreign_tables(connect(output), "labels") == says
    assert note_foreign_tables(connect(output), "SELECT 1 FROM top5") == says
    assert note_foreign_tables(connect(output), "throughput") is None
    done = job("query", "--output", output, "rejects")
    assert done.returncode == 0 and done.stderr == f"note: {says}\n" and "truncated" in done.stdout
    a_run(output, "20261128T030000-dddddd", num_orphans=0)
    assert note_foreign_tables(connect(output), "labels") is None


@pytest.mark.parametrize("name", ["0.parquet", "zz.parquet"])
@pytest.mark.parametrize("content", [b"no Parquet", "other schema"])
def test_a_foreign_parquet_is_named(output, name, content):
    path = Path(labels_folder(output, MODEL)) / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        pq.write_table(pa.table({"x": [1], "label": [7]}), path)
    assert name in refusal(output, "rejects") and name in refusal(output, "labels")
    assert name in refusal(output, "--sql", "SELECT count(*) FROM labels")
    (path.parent / "notes.txt").write_text("x")
    shutil.copy(path.parent / "a.tar.parquet", path.parent / "a (1).tar.parquet")
    (path.parent / "_SUCCESS").write_text("")
    path.unlink()
    assert answer(output, "labels") == ANSWERS["labels"][1]
