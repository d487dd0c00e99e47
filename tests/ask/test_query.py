"""Each query on tables whose answers are known, on the local disk and over s3://; and on a run's own output."""

import io
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.ask.query import ask, connect, list_queries
from pipeline.errors import UserError
from pipeline.model.spec import EMBEDDING_SIZE
from pipeline.stages.sink import Sink
from pipeline.store import storage
from pipeline.tables import ledger
from pipeline.tables.label_files import ShardVersion
from pipeline.tables.labels import SAMPLES, Answers, make_rows
from tests.support.jobs import job

MODEL = "inception_v4-00000000"
LABELS = pa.array(["crane", "dog", "crane"])
NIGHTS = datetime(2026, 11, 23, 3, tzinfo=UTC), datetime(2026, 11, 24, 3, tzinfo=UTC)
NAMES = [f"night-{night:%Y-%m-%d}" for night in NIGHTS]
RUNS = [f"{night:%Y%m%dT%H%M%S}-{name}-00000a" for night, name in zip(NIGHTS, NAMES, strict=True)]
# shard, then its images: label_id, prob, what kind of embedding, sha256, error
SHARDS = {"a.tar": [(0, 0.9, 0, "s0", None), (1, 0.8, 1, "s1", None), (1, 0.3, 1, "s2", None),
                    (0, 0.0, 0, "s3", "truncated")],
          "dt=2026-11-24/b.tar": [(2, 0.6, 2, "s4", None), (1, 0.4, 1, "s1", None), (0, 0.0, 0, None, "not_a_file"),
                                  (0, 0.0, 0, "s5", "truncated")]}


def fill(output: str) -> None:
    """An output of two nights, a shard each."""
    buffer = io.BytesIO()
    pq.write_table(pa.table({"label_id": [0, 1, 2], "label": LABELS}), buffer)
    storage.put_whole(f"{output}/classes/{MODEL}.parquet", buffer.getvalue())
    for number, (shard, images) in enumerate(SHARDS.items()):
        indices = list(range(len(images)))
        samples = pa.table([[shard] * len(images), indices, [f"{shard[0]}{i}'" for i in indices], indices, indices,
                            [image[3] for image in images], [image[4] for image in images]], schema=SAMPLES)
        label_id = np.array([[image[0], 1 - image[0] // 2] for image in images], np.int16)
        prob = np.array([[image[1], (1 - image[1]) / 2] for image in images], np.float32)
        embedding = np.eye(3, EMBEDDING_SIZE, dtype=np.float32)[[image[2] for image in images]]
        embedding[:, 3] = np.array(indices) / 10
        Sink(output, "r", MODEL).write(ShardVersion(shard, f"in/{shard}", 1, "e"),
                                       make_rows(samples, Answers(label_id, prob, embedding), LABELS),
                                       0, True)
        row = {"run_id": RUNS[number], "shard": shard, "model_id": MODEL, "status": "committed",
               "labelled_at": NIGHTS[number]}
        ledger.write(output, "shards", f"{RUNS[number]}-0", [row], ledger.SHARDS)
        run = {"run_id": RUNS[number], "model_id": MODEL, "started_at": NIGHTS[number], "seconds": 2.0, "num_images": 4,
               "num_committed": 1, "num_failed": 0, "num_rejected": 1 + number, "device": "cpu", "status": "done"}
        ledger.write(output, "runs", RUNS[number], [run], ledger.RUNS)


ANSWERS = {
    "labels": ({}, [(1, "dog", 3, 0.5), (0, "crane", 1, 0.9), (2, "crane", 1, 0.6)]),
    "top5": ({"label_id": "1", "number": "3"},
             [("a.tar", "a1'", 1, "dog", 0.8), ("dt=2026-11-24/b.tar", "d1'", 1, "dog", 0.4),
                                               ("a.tar", "a2'", 2, "dog", 0.35)]),
    "rejects": ({}, [("truncated", 2, 0.25, "a.tar : a3'"), ("not_a_file", 1, 0.125, "dt=2026-11-24/b.tar : d2'")]),
    "drift": ({}, [(2, "crane", 0, 1, 0.0, 0.5, 0.5), (0, "crane", 1, 0, 0.3333, 0.0, -0.3333),
                   (1, "dog", 2, 1, 0.6667, 0.5, -0.1667)]),
    "neighbours": ({"key": "a1'", "number": "2"},
                   [("dt=2026-11-24/b.tar", "d1'", "dog", 1.0), ("a.tar", "a2'", "dog", 0.99523)]),
    "duplicates": ({}, [("s1", 2, ["a.tar : a1'", "dt=2026-11-24/b.tar : d1'"])]),
    "low_confidence": ({"below": "0.5"}, [("a.tar", "a2'", "dog", 0.3, "dog", 0.35),
                                          ("dt=2026-11-24/b.tar", "d1'", "dog", 0.4, "dog", 0.3)]),
    "throughput": ({}, [(NAMES[0], "20261123T030000", 1, 1, 0, 4, 1, 2.0, 2.0, "cpu"),
                         (NAMES[1], "20261124T030000", 1, 1, 0, 4, 2, 2.0, 2.0, "cpu")]),
}


@pytest.fixture(scope="module", params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def output(request, tmp_path_factory):
    if request.param == "local":
        folder = str(tmp_path_factory.mktemp("it's"))
        fill(folder)
        yield folder
        return
    with pytest.MonkeyPatch.context() as patch:
        for name, value in request.getfixturevalue("s3")[0].items():
            patch.setenv(name, value)
        fill("s3://photos/query")
        yield "s3://photos/query"
        storage.remove("s3://photos/query")


@pytest.mark.parametrize("name", list(list_queries()))
def test_each_query_gives_the_known_answer(output, name):
    settings, expected = ANSWERS[name]
    assert ask(connect(output), name, settings).fetchall() == expected


def test_views_and_settings(output):
    connection = connect(output, MODEL)
    assert ask(connection, "SELECT count(*), count(DISTINCT model) FROM labels").fetchall() == [(8, 1)]
    assert ask(connect(output), "drift", {"before": NAMES[1], "after": NAMES[0], "number": "1"}).fetchall() == [
        (2, "crane", 1, 0, 0.5, 0.0, -0.5)]
    for question, settings, says in (("labels", {"colour": "red"}, "--set colour: .* it has number"),
                                     ("SELEC", {}, "DuckDB: ")):
        with pytest.raises(UserError, match=says):
            ask(connection, question, settings)
    with pytest.raises(UserError, match="no tables can be read there"):
        connect(output, "inception_v4-11111111")


def test_the_job_answers(undisturbed):
    for name, more in (("labels", ()), ("neighbours", ("--set", "key=0/astronaut")), ("throughput", ()),
                       ("rejects", ())):
        done = job("query", "--output", undisturbed, name, *more)
        assert done.returncode == 0 and "│" in done.stdout, done.stderr
    done = job("query", "--output", undisturbed, "--sql", "SELECT count(*) AS images FROM labels")
    assert "25" in done.stdout
    assert job("query", "--output", undisturbed, "--sql", "SELECT nothing").returncode == 2
