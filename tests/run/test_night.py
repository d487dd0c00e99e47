"""One run: its id, its row, and what is told of what it left out."""

import io
import os
import shutil
import tarfile
import time
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from pipeline.actors.address import NoCluster
from pipeline.config import Config
from pipeline.errors import JobError, UserError
from pipeline.model import weights
from pipeline.model.classes import load_classes
from pipeline.report import render
from pipeline.run import execute, night
from pipeline.run.night import new_run_id
from pipeline.run.record import Record
from pipeline.run.summary import Summary
from pipeline.tables.history import read_settings
from pipeline.tables.ledger_rows import RUNS, to_columns
from pipeline.tables.owner.claim import claim_output
from tests.support.cluster import Cluster
from tests.support.jobs import SEED, digest, job, labels_folder, start_label
from tests.support.tars import make_tar
from tests.support.weight_files import hollow_state

NOW = datetime(2026, 11, 26, 21, 30, tzinfo=UTC)


def test_runs_of_one_name_in_one_second_have_ids_of_their_own():
    ids = {new_run_id(NOW, "night") for _ in range(100)} | {new_run_id(NOW, None) for _ in range(100)}
    assert len(ids) == 200 and all(one.startswith("20261126T213000-") for one in ids)


def row_of(folder: Path) -> dict:
    path, = (folder / "runs").iterdir()
    return pq.read_table(path).to_pylist()[0]


def record_of(config: Config, summary: Summary) -> Record:
    """The record of a run that has begun."""
    record = Record(config, summary, None, load_classes(None), NOW, time.monotonic())
    record.begun = True
    return record


def test_the_row_of_a_run_has_every_column_and_comes_last(tmp_path, monkeypatch):
    """It says how the run ended, and the report is a part of that."""
    config = Config(input=str(tmp_path / "in"), output=str(tmp_path / "out"), max_image_bytes=7)
    summary = Summary("r1", "inception_v4-00000000", 1, 2, 3, 0, False)
    record = record_of(config, summary)
    assert list(to_columns(record.make_row("done"))) == RUNS.names
    page = render.render_page

    def look(*arguments):
        assert not (tmp_path / "out" / "runs").exists()
        return page(*arguments)

    monkeypatch.setattr(render, "render_page", look)
    record.end(failed=False)
    assert row_of(tmp_path / "out")["status"] == "done" and not summary.unrecorded
    assert read_settings(str(tmp_path / "out"), "inception_v4-00000000")["max_image_bytes"] == 7
    assert read_settings(str(tmp_path / "out"), "another") == read_settings(str(tmp_path / "absent"), None) == {}


def test_a_run_whose_report_cannot_be_written_is_not_done(tmp_path, monkeypatch):
    config = Config(input=str(tmp_path / "in"), output=str(tmp_path / "out"))
    summary = Summary("r1", "inception_v4-00000000", 1, 2, 3, 0, False)
    monkeypatch.setattr(render, "render_page", lambda *_: 1 / 0)
    record_of(config, summary).end(failed=False)
    assert row_of(tmp_path / "out")["status"] == "failed" and "zero" in summary.unrecorded and summary.exit_code(1) == 1


def refused(tmp_path: Path, *options: object, own_ray: bool = False) -> str:
    """What a run says that leaves nothing behind, not even an empty folder."""
    done = job("label", "--input", tmp_path / "in", "--output", tmp_path / "deep/out", *options, own_ray=own_ray)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stdout + done.stderr
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".pth"] == ["in"], done.stderr
    return done.stderr


@pytest.fixture
def one_shard(photographs, tmp_path) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.tar").write_bytes(make_tar(("a.jpg", dict(photographs)["china.jpg"])))
    return tmp_path


@pytest.mark.slow
def test_a_run_that_is_refused_leaves_nothing_and_the_mended_one_works(one_shard):
    torch.save(hollow_state(10), one_shard / "ten.pth")
    (one_shard / "bad.pth").write_bytes(b"<html>")
    ten = ("--weights", one_shard / "ten.pth")
    assert "--classes names 1000 classes and --weights has 10" in refused(one_shard, *ten)
    assert "it is an HTML page" in refused(one_shard, "--weights", one_shard / "bad.pth")
    assert "this machine has no GPU that Ray can see" in refused(one_shard, *SEED, "--device", "cuda", own_ray=True)
    (one_shard / "in/ten.csv").write_text(
        "label_id,wnid,label\n" + "".join(f"{number},,class {number}\n" for number in range(10)))
    done = job("label", "--input", one_shard / "in", "--output", one_shard / "deep/out", *ten, "--classes",
               one_shard / "in/ten.csv")
    assert done.returncode == 0 and "1 labelled" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("error", [NoCluster("Ray does not answer."), UserError("--weights: refused.")])
def test_a_run_without_its_cluster_or_weights_leaves_nothing(one_shard, monkeypatch, error):
    def connect(*_):
        assert [path.name for path in (one_shard / "out").iterdir()] == ["lease.json"]
        raise error

    monkeypatch.setattr(execute, "connect", connect)
    with pytest.raises(JobError, match=str(error)):
        night.label(Config(input=str(one_shard / "in"), output=str(one_shard / "out"), weights="seed:0"))
    assert [path.name for path in one_shard.iterdir()] == ["in"]


def test_other_class_names_are_refused_before_anything_is_written(one_shard):
    chosen = weights.identify("seed:0")
    config = Config(input=str(one_shard / "in"), output=str(one_shard / "out"), weights="seed:0", dry_run=True)
    claim_output(config, chosen.model_id, load_classes().slice(0, 10))
    (one_shard / "out/input.json").unlink()
    before = sorted(one_shard.rglob("*"))
    with pytest.raises(UserError, match="with other class names"):
        night.label(config)
    assert sorted(one_shard.rglob("*")) == before


@pytest.mark.slow
def test_what_is_left_out_is_told_everywhere(photographs, tmp_path):
    jpeg = dict(photographs)["china.jpg"]
    (tmp_path / "in").mkdir()
    odd = tmp_path / "in" / "b\udcff.tar"
    (tmp_path / "in/a.tar").write_bytes(make_tar(("a.1.jpg", jpeg), ("a.2.jpg", jpeg), ("b.jfif", jpeg),
                                                 ("._c.jpg", b"x")))
    odd.write_bytes(make_tar(("x\udcfe.jpg", jpeg)))
    (tmp_path / "in/none.tar").write_bytes(make_tar(("a.heic", b"1"), ("b.tar", b"2")))
    (tmp_path / "in/loose.png").write_bytes(b"x")
    options = ("--input", tmp_path / "in", "--output", tmp_path / "out")
    done = job("label", *options, *SEED, "--batch-size", 4)
    assert done.returncode == 0, done.stdout + done.stderr
    for told in ("2 labelled, 1 without any image",
                 "1 left out, share a key with an image before them (.jpg 1), such as a.tar: a.2.jpg",
                 "1 left out, hidden, or leftovers of other tools (.jpg 1), such as a.tar: ._c.jpg",
                 ("1 left out, of another kind than the one that is read, which --format chooses (.png 1), "
                  "such as loose.png"),
                 "3 left out, no images by their names (.heic 1, .jfif 1, .tar 1)",
                 "none.tar holds no image: its members are .heic 1, .tar 1"):
        assert told in done.stdout, done.stdout
    assert row_of(tmp_path / "out")["num_left_out"] == 6
    shards = {row["shard"]: row for path in (tmp_path / "out/shards").iterdir()
              for row in pq.read_table(path).to_pylist()}
    assert {shard: row["num_left_out"] for shard, row in shards.items()} == {"a.tar": 3, "b\\xff.tar": 0, "none.tar": 2}
    page = next((tmp_path / "out/reports").iterdir()).read_text()
    assert "none.tar holds no image" in page and "1 left out, share a key" in page
    proof = job("verify", *options)
    assert proof.returncode == 0 and "left out: 1 left out, share a key" in proof.stdout, proof.stdout + proof.stderr
    assert "nothing to do: all 3 shards" in job("label", *options, *SEED).stdout
    table, = pq.read_table(labels_folder(tmp_path / "out") / "b\\xff.tar.parquet", partitioning=None).to_pylist()
    assert (table["shard"], table["key"]) == ("b\\xff.tar", "x\\xfe")


@pytest.mark.slow
def test_an_output_of_failed_shards_says_so(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.tar").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    options = ("--input", tmp_path / "in", "--output", tmp_path / "out")
    done = job("label", *options, *SEED)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "failed    a.tar: it is a Git LFS pointer, not the file itself" in done.stdout, done.stdout + done.stderr
    proof = job("verify", *options)
    assert proof.returncode == 2, proof.stderr
    assert "failed at every shard, such as a.tar: it is a Git LFS pointer" in proof.stderr, proof.stderr
    assert "does not exist" in job("verify", "--input", tmp_path / "in", "--output", tmp_path / "absent").stderr


@pytest.mark.slow
def test_a_folder_of_odd_names_is_packed_and_the_output_may_be_below_the_input(photographs, tmp_path):
    jpeg = dict(photographs)["china.jpg"]
    for name in ("in/a.jpg", "in/odd\udcff.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(jpeg)
    os.utime(tmp_path / "in/a.jpg", (0, 0))
    (tmp_path / "in/dead.jpg").symlink_to("absent")
    packed = job("pack", "--input", tmp_path / "in", "--output", tmp_path / "in/packed")
    assert packed.returncode == 0 and "2 images in 1 shards" in packed.stdout, packed.stdout + packed.stderr
    assert "left out: 1 left out, no files but links to nothing" in packed.stdout
    with tarfile.open(fileobj=io.BytesIO((tmp_path / "in/packed/images-00000.tar").read_bytes())) as tar:
        assert tar.getnames() == ["a.jpg", "odd\\xff.jpg"]
    shutil.rmtree(tmp_path / "in/packed")
    options = ("--input", tmp_path / "in", "--output", tmp_path / "in/out")
    done = job("label", *options, *SEED, "--max-rejected", 1)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 at" in done.stdout and "1 rejected (not_a_file 1)" in done.stdout, done.stdout + done.stderr
    assert "nothing to do" in job("label", *options, *SEED).stdout
    digest(*options[1::2])


@pytest.mark.slow
@pytest.mark.cluster
def test_a_relative_output_on_a_running_cluster_is_where_the_user_stands(photographs, tmp_path):
    for name in ("elsewhere", "here/in"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "here/in/a.tar").write_bytes(make_tar(("a.jpg", dict(photographs)["china.jpg"])))
    with Cluster("--num-cpus=2", "--include-dashboard=false", cwd=tmp_path / "elsewhere") as cluster:
        run = start_label("--input", "in", "--output", "out", *SEED, log=tmp_path / "log", cwd=tmp_path / "here",
                          **cluster.driver)
        status, text = run.wait(200), (tmp_path / "log").read_text()
    assert status == 0 and "1 labelled" in text, text
    assert len(list((tmp_path / "here/out").rglob("labels/**/*.parquet"))) == 1
    assert not list((tmp_path / "elsewhere").iterdir())
