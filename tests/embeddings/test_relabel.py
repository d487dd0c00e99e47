"""Tables of a new head: the rows of a full run, and the plan, the ledger and the ends of a run."""

import functools
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from pipeline.commands.app import main
from pipeline.embeddings.relabel import tables as relabelling
from pipeline.embeddings.relabel.run import Relabelling, relabel
from pipeline.errors import UserError
from pipeline.formats.kept import KEPT
from pipeline.model import weights
from pipeline.model.spec import EMBEDDING_SIZE
from pipeline.parse import parse_keep
from pipeline.stages.sink import Sink
from pipeline.stop import Stop, Stopped
from pipeline.store.lease import Busy, hold_lease
from pipeline.tables.label_files import ShardVersion
from pipeline.tables.labels import SAMPLES, Answers, make_rows
from tests.support.jobs import digest, job, load_seed
from tests.support.weight_files import hollow_state, save

NAMES = ["cat", "dog", "owl", "newt", "eel", "emu"]
SHARDS = ("a.tar", "dt=2026-11-23/label=x/b.tar", "it's 100%.tar")
NUM = 50


def random_head(num_classes: int, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"last_linear.weight": torch.randn(num_classes, EMBEDDING_SIZE, generator=generator) / 20,
            "last_linear.bias": torch.randn(num_classes, generator=generator)}


def write_classes(path: Path) -> str:
    path.write_text("label_id,wnid,label\n" + "".join(f"{n},,{name}\n" for n, name in enumerate(NAMES)))
    return str(path)


def label(output: str, shard: str, model_id: str, run_id: str = "20260101T000000-aaaaaa", etag: str = "e1",
          embeddings: str = "float32", keep: str | None = None) -> np.ndarray:
    """A table of `NUM` rows, of which the fourth is rejected; returns the embeddings."""
    rng = np.random.default_rng(len(shard) + len(etag))
    embedding_ND = rng.standard_normal((NUM, EMBEDDING_SIZE), dtype=np.float32)
    samples = pa.table([[shard] * NUM, range(NUM), [f"k{i}" for i in range(NUM)], [9] * NUM, [9] * NUM,
                        [f"{i:064}" for i in range(NUM)], [None] * 3 + ["truncated"] + [None] * (NUM - 4)],
                       schema=SAMPLES)
    answers = Answers(np.zeros((NUM, 5), np.int16), np.ones((NUM, 5), np.float32), embedding_ND)
    rows = make_rows(samples, answers, pa.array(["old"]))
    columns = parse_keep(keep)
    if columns:
        rows = rows.append_column("kept", pa.array([[f"caption {i}"] for i in range(NUM)], KEPT))
    assert Sink(output, run_id, model_id, embeddings, columns).write(
        ShardVersion(shard, f"s3://in/{shard}", 10240, etag), rows, 0, True)
    return embedding_ND


@pytest.fixture(scope="module", autouse=True)
def loaded_once() -> Iterator[None]:
    """Each file of weights is loaded once for all tests: that takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "load", functools.cache(weights.load))
        yield


@pytest.fixture(scope="module")
def weight_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two files of weights, all zero but for the head of the second."""
    folder = tmp_path_factory.mktemp("weights")
    state = hollow_state()
    return save(state, folder / "old.pth"), save(state | random_head(len(NAMES)), folder / "new.pth")


@pytest.fixture
def old(weight_files: tuple[str, str]) -> str:
    return weight_files[0]


@pytest.fixture
def asked(tmp_path: Path, weight_files: tuple[str, str]) -> Relabelling:
    """Three tables of the first weights; the second are the new ones."""
    output = tmp_path / "out"
    for shard in SHARDS:
        label(str(output), shard, weights.identify(weight_files[0]).model_id)
    (output / "input.json").write_text(json.dumps({"input": "s3://in"}))
    return Relabelling(str(output), weight_files[1], write_classes(tmp_path / "own.csv"), labelled_by=weight_files[0])


def read(asked: Relabelling, spec: str | None = None) -> pa.Table:
    model_id = weights.identify(spec or asked.weights).model_id
    return duckdb.sql(f"SELECT * FROM read_parquet('{asked.output}/labels/model={model_id}/**/*.parquet', "
                      "hive_partitioning=false) ORDER BY shard, index").to_arrow_table()


def ledger_rows(asked: Relabelling, table: str) -> list[dict]:
    return pq.read_table(Path(asked.output) / table, partitioning=None).to_pylist()


def test_the_rows_are_those_of_the_head(asked, old):
    done = relabel(asked)
    assert (done.num_committed, done.num_skipped, done.num_failed, done.unrecorded) == (3, 0, 0, "")
    before, after = read(asked, old), read(asked)
    same = ["shard", "index", "key", "width", "height", "sha256", "embedding", "error"]
    assert after.select(same).equals(before.select(same)) and after.schema.equals(before.schema)
    head = {name: tensor.double().numpy() for name, tensor in random_head(len(NAMES)).items()}
    for row in after.to_pylist():
        if row["error"]:
            assert row["error"] == "truncated" and row["label"] is row["top5"] is row["prob"] is None
            continue
        logits = head["last_linear.weight"] @ np.array(row["embedding"]) + head["last_linear.bias"]
        prob = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        best = np.argsort(-prob, kind="stable")[:5]
        assert [answer["label_id"] for answer in row["top5"]] == best.tolist()
        assert (row["label_id"], row["label"]) == (best[0], NAMES[best[0]])
        np.testing.assert_allclose([answer["prob"] for answer in row["top5"]], prob[best], atol=1e-5)


def test_the_ledger_and_the_next_run_know_them(asked):
    done = relabel(asked)
    rows = [row for row in ledger_rows(asked, "shards") if row["run_id"] == done.run_id]
    assert sorted(row["shard"] for row in rows) == sorted(SHARDS)
    assert {(row["status"], row["source_etag"], row["source_size"], row["num_images"], row["num_rejected"])
            for row in rows} == {("committed", "e1", 10240, NUM, 1)}
    run, = ledger_rows(asked, "runs")
    assert (run["status"], run["runner"], run["num_images"], run["num_rejected"]) == ("done", "head", 3 * NUM, 3)
    assert sum(entry["num_images"] for entry in run["labels"]) == 3 * NUM - 3
    assert list((Path(asked.output) / "reports").iterdir())
    again = relabel(asked)
    assert (again.num_pending, again.num_skipped) == (0, 3)
    for path in (Path(asked.output) / "shards").iterdir():
        path.unlink()  # the footers tell the same as the ledger
    assert relabel(asked).num_pending == 0


def test_only_what_is_new_or_changed_is_done_again(asked, old, tmp_path):
    relabel(asked)
    old_model, new_model = (weights.identify(spec).model_id for spec in (old, asked.weights))
    label(asked.output, "a.tar", old_model, "29990101T000000-bbbbbb", etag="e2")  # relabelled before: now it is old
    label(asked.output, "new.tar", old_model)
    label(asked.output, SHARDS[1], new_model, "29990101T000000-cccccc", etag="e9")  # the new model has a newer version
    done = relabel(asked)
    assert (done.num_committed, done.num_skipped) == (2, 2)
    etags = {row["shard"]: row["source_etag"] for row in ledger_rows(asked, "shards") if row["run_id"] == done.run_id}
    assert etags == {"a.tar": "e2", "new.tar": "e1"}


@pytest.mark.parametrize(("embeddings", "keep"), [("float16", None), ("float32", "caption")])
def test_other_columns_stay(asked, old, embeddings, keep):
    label(asked.output, SHARDS[0], weights.identify(old).model_id, embeddings=embeddings, keep=keep)
    relabel(asked)
    place = f"{asked.output}/labels/model=%s/a.tar.parquet"
    before, after = (pq.read_table(place % weights.identify(spec).model_id, partitioning=None)
                     for spec in (old, asked.weights))
    assert before.schema.equals(after.schema) and before["embedding"].equals(after["embedding"])
    assert not keep or after["caption"].to_pylist() == [f"caption {i}" for i in range(NUM)]
    assert (pq.read_metadata(place % weights.identify(asked.weights).model_id).metadata.get(b"keep")
            == (b"caption" if keep else None))


def test_a_broken_off_relabelling_is_completed(asked, monkeypatch):
    stop, write = Stop(), relabelling._relabel
    monkeypatch.setattr(os, "cpu_count", lambda: 1)

    def stopping(*arguments):
        stop.signal = 15
        return write(*arguments)

    monkeypatch.setattr(relabelling, "_relabel", stopping)
    with pytest.raises(Stopped):
        relabel(asked, stop=stop)
    run, = ledger_rows(asked, "runs")
    assert run["status"] == "failed" and not (Path(asked.output) / "lease.json").exists()
    monkeypatch.undo()
    assert relabel(asked).num_failed == 0
    assert len(read(asked)) == 3 * NUM


def test_a_damaged_table_fails_alone(asked, old):
    path = Path(asked.output) / f"labels/model={weights.identify(old).model_id}/a.tar.parquet"
    data = path.read_bytes()
    path.write_bytes(data[:4] + bytes(400) + data[404:])  # the footer is whole
    done = relabel(asked)
    assert (done.num_committed, done.num_failed) == (2, 1) and list(done.failed) == ["a.tar"]
    assert {row["status"] for row in ledger_rows(asked, "shards") if row["shard"] == "a.tar"} == {"failed"}
    assert main(["relabel", "--output", asked.output, "--weights", asked.weights, "--classes", str(asked.classes),
                 "--labelled-by", str(asked.labelled_by)]) == 1


def test_what_is_refused(asked, old, tmp_path):
    def refused(**changes):
        with pytest.raises(UserError) as error:
            relabel(Relabelling(**(vars(asked) | changes)))
        return str(error.value)

    other = hollow_state(len(NAMES)) | random_head(len(NAMES))
    name = next(name for name in sorted(other) if name.endswith("weight"))
    other[name] = torch.ones(()).expand(other[name].shape)
    assert f"({name} differs)" in refused(weights=save(other, tmp_path / "other.pth"))
    assert "these weights are" in refused(labelled_by=asked.weights)
    assert "--labelled-by is needed" in refused(labelled_by=None)
    assert "--classes names 1000 classes" in refused(classes=None)
    assert "no labels of another model" in refused(weights=old, classes=None)
    label(asked.output, "a.tar", "inception_v4-00000009")
    assert "name one with --model" in refused()
    with hold_lease(asked.output, "20260101T000000-dddddd", "--output", "x"), pytest.raises(Busy):
        relabel(Relabelling(**(vars(asked) | {"model": weights.identify(old).model_id})))
    assert not (Path(asked.output) / "runs").exists()


def test_tables_without_embeddings(asked, old):
    for shard in SHARDS:
        label(asked.output, shard, weights.identify(old).model_id, embeddings="false")
    done = relabel(asked)
    assert done.num_failed == 3 and "no column embedding" in done.failed["a.tar"]


@pytest.mark.slow
def test_as_a_full_run_with_the_new_weights(undisturbed, shards, tmp_path):
    """The same rows, the same digest; the job then finds nothing to do."""
    output, full = tmp_path / "out", tmp_path / "full"
    shutil.copytree(undisturbed, output)
    new = save(load_seed() | random_head(len(NAMES)), tmp_path / "new.pth")
    head = ("--weights", new, "--classes", write_classes(tmp_path / "own.csv"))
    asked = job("relabel", "--output", output, *head, "--summary", "-")
    assert asked.returncode == 0 and json.loads(asked.stdout)["num_images"] == 25, asked.stdout + asked.stderr
    done = job("label", "--input", shards, "--output", full, *head, "--precision", "fp32")
    assert done.returncode == 0, done.stdout + done.stderr
    model_id = weights.identify(new).model_id
    ours, theirs = (duckdb.sql(f"SELECT shard, index, label, prob, error FROM '{folder}/labels/model={model_id}/**/"
                               "*.parquet' ORDER BY ALL").fetchall() for folder in (output, full))
    assert [row[:3] for row in ours] == [row[:3] for row in theirs] and len(ours) == 25
    np.testing.assert_allclose([row[3] or 0 for row in ours], [row[3] or 0 for row in theirs], atol=1e-3)
    proof = job("verify", "--input", shards, "--output", output, "--model", model_id)
    assert proof.returncode == 0 and proof.stdout.splitlines()[-1] == digest(shards, full)
    next_run = job("label", "--input", shards, "--output", output, *head, "--precision", "fp32")
    assert "nothing to do: all 5 shards" in next_run.stdout, next_run.stdout + next_run.stderr
