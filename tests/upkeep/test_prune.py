"""What is removed, what stays, and what is told; the removal is completed after a kill."""

import json
import re
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.commands.app import main
from pipeline.errors import UserError
from pipeline.model.classes import load_classes
from pipeline.model.spec import EMBEDDING_SIZE
from pipeline.stages.sink import Sink
from pipeline.store.lease import Busy, hold_lease
from pipeline.tables.label_files import ShardVersion
from pipeline.tables.labels import SAMPLES, Answers, make_rows
from pipeline.tables.layout import classes_uri
from pipeline.upkeep import prune as pruning
from pipeline.upkeep.prune import Gone, prune
from tests.support.jobs import SEED, job
from tests.support.tars import make_tar

OLD, NEW = "inception_v4-00000001", "inception_v4-00000002"
SHARDS = ("a.tar", "dt=2026-11-23/b.tar", "x.png/c.tar.gz", "it's 100%.tar")


def label(folder: Path, shard: str, number: int, model_id: str) -> None:
    samples = pa.table([[shard] * number, range(number), [f"k{i}" for i in range(number)], [9] * number, [9] * number,
                        [f"{i:064}" for i in range(number)], [None] * number], schema=SAMPLES)
    answers = Answers(np.zeros((number, 5), np.int16), np.ones((number, 5), np.float32),
                      np.zeros((number, EMBEDDING_SIZE), np.float32))
    source = ShardVersion(shard, f"{folder}/in/{shard}", 10240, "e1")
    rows = make_rows(samples, answers, load_classes()["label"].combine_chunks())
    assert Sink(str(folder / "out"), "r1", model_id).write(source, rows, 0, True)


@pytest.fixture
def output(tmp_path: Path) -> str:
    """Four shards, labelled by two models, 1 to 4 rows each; the input is beside it."""
    for number, shard in enumerate(SHARDS, start=1):
        (tmp_path / "in" / shard).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / shard).write_bytes(make_tar((f"{number}.png", b"x")))
        for model_id in (OLD, NEW):
            label(tmp_path, shard, number, model_id)
    for model_id in (OLD, NEW):
        place = Path(classes_uri(str(tmp_path / "out"), model_id))
        place.parent.mkdir(exist_ok=True)
        pq.write_table(load_classes(), place)
    (tmp_path / "out/input.json").write_text(json.dumps({"input": str(tmp_path / "in")}))
    return str(tmp_path / "out")


def rows(output: str) -> dict[tuple[str, str], int]:
    """The number of rows by model and shard, as a glob over the tables has them."""
    found = duckdb.sql("SELECT regexp_extract(filename, 'model=([^/]+)/', 1), shard, count(*) FROM "
                       f"read_parquet('{output}/labels/**/*.parquet', filename=true) GROUP BY ALL").fetchall()
    return {(model_id, shard): number for model_id, shard, number in found}


def removed(output: str) -> list[tuple[str, str, str]]:
    """The rows that the ledger has of removals."""
    table = pq.read_table(Path(output) / "shards", partitioning=None).to_pylist()
    return sorted((row["model_id"], row["shard"], row["failure"]) for row in table if row["status"] == "removed")


def test_tables_of_shards_that_left_the_input(output, tmp_path):
    before = rows(output)
    gone = Gone(input=str(tmp_path / "in"))
    assert len(before) == 8 and prune(output, gone, dry_run=True) == [] == prune(output, gone, dry_run=False)
    for shard in SHARDS[1:3]:
        (tmp_path / "in" / shard).unlink()
    found = prune(output, gone, dry_run=True)
    assert [(one.model_id, len(one.tables), one.num_rows) for one in found] == [(OLD, 2, 5), (NEW, 2, 5)]
    assert rows(output) == before and not (tmp_path / "out/shards").exists()
    assert [one.num_rows for one in prune(output, gone, dry_run=False)] == [5, 5]
    assert rows(output) == {key: number for key, number in before.items() if key[1] not in SHARDS[1:3]}
    assert removed(output) == [(model_id, shard, "left the input") for model_id in (OLD, NEW) for shard in SHARDS[1:3]]
    assert not (tmp_path / "out/lease.json").exists() and prune(output, gone, dry_run=False) == []


def test_shards_by_name_and_one_model(output, tmp_path, capsys):
    (tmp_path / "gone.txt").write_text("it's 100%.tar\n\nx.png/c.tar.gz\nabsent.tar\n")
    command = ["prune", "--output", output, "--shards", str(tmp_path / "gone.txt"), "--model", OLD]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert f"would remove 2 tables of {OLD} (7 rows, " in out and "--yes removes these tables" in out
    assert len(rows(output)) == 8
    assert main([*command, "--yes", "--summary", str(tmp_path / "summary.json")]) == 0
    assert f"removed 2 tables of {OLD} (7 rows, " in capsys.readouterr().out
    assert json.loads((tmp_path / "summary.json").read_text()) == {
        "removed": True, "models": {OLD: {"num_tables": 2, "num_rows": 7}}, "exit_code": 0}
    assert rows(output).keys() == {(NEW, shard) for shard in SHARDS} | {(OLD, shard) for shard in SHARDS[:2]}
    assert main([*command, "--yes"]) == 0 and capsys.readouterr().out == "nothing to remove\n"


def test_a_whole_model(output):
    gone = Gone(whole_model=True, model=OLD)
    assert [one.num_rows for one in prune(output, gone, dry_run=False)] == [10]
    assert rows(output).keys() == {(NEW, shard) for shard in SHARDS}
    assert not (Path(output) / f"labels/model={OLD}").exists() and not Path(classes_uri(output, OLD)).exists()
    assert Path(classes_uri(output, NEW)).exists() and len(removed(output)) == 4
    with pytest.raises(UserError, match=f"--model {OLD}: .* has no table of it; it has {NEW}"):
        prune(output, gone, dry_run=False)


def test_a_killed_removal_is_completed(output, tmp_path, monkeypatch):
    for shard in SHARDS[:3]:
        (tmp_path / "in" / shard).unlink()
    remove, left = pruning.storage.remove, [2]

    def die(uri):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        remove(uri)

    monkeypatch.setattr(pruning, "REMOVALS_AT_ONCE", 1)
    monkeypatch.setattr(pruning.storage, "remove", die)
    with pytest.raises(KeyboardInterrupt):
        prune(output, Gone(input=str(tmp_path / "in")), dry_run=False)
    monkeypatch.setattr(pruning.storage, "remove", remove)
    (tmp_path / "out/lease.json").unlink(missing_ok=True)
    assert len(rows(output)) == 6
    prune(output, Gone(input=str(tmp_path / "in")), dry_run=False)
    assert rows(output).keys() == {(OLD, SHARDS[3]), (NEW, SHARDS[3])}
    assert {shard for _, shard, _ in removed(output)} == {*SHARDS[:3]}


def test_what_is_refused(output, tmp_path, capsys):
    with hold_lease(output, "r9", "--output", "--no-lease"), pytest.raises(Busy, match="run r9"):
        prune(output, Gone(input=str(tmp_path / "in")), dry_run=False)
    (tmp_path / "empty").mkdir()
    for options, says in (((), "give one of --input, --shards, --whole-model and --old-versions"),
                          (("--input", "x", "--whole-model"), "give one of"),
                          (("--whole-model",), "--whole-model needs --model"),
                          (("--input", tmp_path / "empty"), "--input .*/empty holds no tar shards"),
                          (("--input", tmp_path / "absent"), "--input .*/absent does not exist"),
                          (("--shards", tmp_path / "absent"), "--shards .*/absent does not exist")):
        assert main(["prune", "--output", output, *map(str, options)]) == 2
        assert re.search(says, capsys.readouterr().err), says
    other = tmp_path / "other"
    other.mkdir()
    (other / "z.tar").write_bytes(make_tar(("a.png", b"x")))
    with pytest.raises(UserError, match="holds the labels of --input"):
        prune(output, Gone(input=str(other)), dry_run=False)
    assert len(rows(output)) == 8


@pytest.mark.slow
def test_after_a_removal_the_job_and_the_proof_agree(few_photographs, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a.tar", "b.tar"):
        (tmp_path / "in" / name).write_bytes(make_tar(few_photographs[-1]))
    options = ("--input", tmp_path / "in", "--output", tmp_path / "out")
    assert job("label", *options, *SEED).returncode == 0
    (tmp_path / "in/b.tar").unlink()
    assert job("verify", *options).returncode == 1
    done = job("prune", *options, "--yes")
    assert done.returncode == 0 and "removed 1 tables" in done.stdout, done.stdout + done.stderr
    assert job("verify", *options).returncode == 0
    again = job("label", *options, *SEED)
    assert "nothing to do: all 1 shards" in again.stdout and "no longer in the input" not in again.stdout
    (tmp_path / "in/b.tar").write_bytes(make_tar(few_photographs[-1]))
    assert "1 labelled, 1 skipped" in job("label", *options, *SEED).stdout
