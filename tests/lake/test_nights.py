"""Runs over an output that is a lake table: what killed runs left, what is gone, what is refused; and the proof."""

import dataclasses
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.commands.app import main
from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.model import weights
from pipeline.run.night import label
from pipeline.store.listing import list_files
from pipeline.tables.lake import log
from pipeline.tables.layout import LAKES
from tests.lake.lakes import listed, put, read_versions
from tests.support.jobs import SEED, digest, job
from tests.support.tars import make_tar


def write_shard(folder: Path, shard: str, number: int, version: int = 0) -> None:
    (folder / shard).parent.mkdir(parents=True, exist_ok=True)
    (folder / shard).write_bytes(make_tar(*((f"{i} v{version}.jpg", b"no image") for i in range(number))))


@pytest.fixture(params=LAKES)
def config(request, tmp_path) -> Config:
    """Three shards, not labelled yet, and an output of this kind."""
    for number, shard in enumerate(("a.tar", "dt=1/b.tar", "dt=2/c d.tar"), start=1):
        write_shard(tmp_path / "in", shard, number)
    return Config(input=str(tmp_path / "in"), output=str(tmp_path / "out"), weights="seed:0",
                  table=request.param)


def lake_of(config: Config) -> log.LakeTable:
    return log.LakeTable(config.output, weights.identify(config.weights).model_id, config.table)


def label_all(config: Config, run_id: str = "20260101T000000-aaaaaa") -> dict[str, str]:
    """The files of all shards as a run puts them that is killed before it writes to the log and the ledger."""
    files = [put(lake_of(config), row["path"], 2, root=config.input, size=row["size"], etag=row["etag"], run_id=run_id)
             for row in list_files(config.input).to_pylist()]
    return {file.path: file.etag for file in files}


def test_what_a_killed_run_left_is_committed_and_not_labelled_again(config):
    files = label_all(config)
    assert listed(lake_of(config)) == {}
    done = label(config)
    assert (done.num_pending, done.num_skipped, done.unrecorded) == (0, 3, "")
    assert listed(lake_of(config)) == files
    assert label(config).num_pending == 0 and len(read_versions(lake_of(config))) == 1  # nothing to do, no version


def test_of_several_files_of_one_version_one_counts_and_stays(config):
    first, second = label_all(config), label_all(config, "20260102T000000-bbbbbb")
    label(config)
    chosen = listed(lake_of(config))
    assert all(chosen[path] in (first[path], second[path]) for path in first) and first != second
    label_all(config, "20260103T000000-cccccc")
    label(config)
    assert listed(lake_of(config)) == chosen and len(read_versions(lake_of(config))) == 1


def test_a_changed_shard_that_changes_back_has_its_old_rows(config):
    label_all(config)
    label(config)
    before, shard = listed(lake_of(config)), Path(config.input) / "a.tar"
    shard.rename(shard.with_name("kept"))
    write_shard(Path(config.input), "a.tar", 4, version=1)
    label_all(config, "20260102T000000-bbbbbb")
    label(config)
    between = listed(lake_of(config))
    assert [path for path in before if before[path] != between[path]] == ["a.tar.parquet"]
    shard.with_name("kept").rename(shard)
    label(config)
    assert listed(lake_of(config)) == before
    assert [version.num_rows for version in read_versions(lake_of(config))] == [6, 6, 6]


def test_gone_shards_leave_and_come_back(config):
    files = label_all(config)
    label(config)
    gone = Path(config.input) / "dt=1/b.tar"
    gone.rename(Path(config.output) / "b.tar")
    done = label(config)
    assert done.num_gone == 1 and done.num_orphans == 0
    assert any("have left the newest version" in note for note in done.notes)
    assert listed(lake_of(config)).keys() == files.keys() - {"dt=1/b.tar.parquet"}
    (Path(config.output) / "b.tar").rename(gone)
    assert label(config).num_pending == 0 and listed(lake_of(config)) == files
    assert [version.num_rows for version in read_versions(lake_of(config))] == [6, 4, 6]


def test_a_partition_says_nothing_of_other_folders(config):
    files = label_all(config)
    label(dataclasses.replace(config, partition="dt=1"))
    assert listed(lake_of(config)) == {"dt=1/b.tar.parquet": files["dt=1/b.tar.parquet"]}
    label(config)
    shutil.rmtree(Path(config.input) / "dt=2")
    assert label(dataclasses.replace(config, partition="dt=1")).num_gone == 0
    assert listed(lake_of(config)) == files


def test_a_dry_run_and_a_run_without_a_log_change_nothing(config):
    label_all(config)
    label(dataclasses.replace(config, dry_run=True))
    assert listed(lake_of(config)) == {} and not list(Path(config.output).rglob("*_delta_log*"))


def test_a_lost_mark_is_found_in_the_footers(config):
    label_all(config)
    label(config)
    (Path(config.output) / "input.json").unlink()
    label(config)
    assert json.loads((Path(config.output) / "input.json").read_text()) == {"input": config.input}
    with pytest.raises(UserError, match="belongs to one input"):
        label(dataclasses.replace(config, input=config.input + "/dt=1"))


def test_tables_of_one_kind(config, tmp_path):
    label_all(config)
    label(config)
    for other in {"parquet", *LAKES} - {config.table}:
        with pytest.raises(UserError, match=f"has tables of --table {config.table}, and now there is --table {other}"):
            label(dataclasses.replace(config, table=other))
    plain = dataclasses.replace(config, output=str(tmp_path / "plain"), table="parquet")
    put(log.LakeTable(plain.output, lake_of(config).model_id, "parquet"), "a.tar", 1, root=config.input)
    with pytest.raises(UserError, match="has tables of --table parquet"):
        label(dataclasses.replace(plain, table=config.table))


def test_what_is_refused(config, tmp_path, monkeypatch, capsys):
    odd = dataclasses.replace(config, output=str(tmp_path / "a b"))
    with pytest.raises(UserError, match=r"some readers cannot open a table in .*a b"):
        label(odd)
    with pytest.raises(UserError, match="--output-embeddings float16 has no type in --table"):
        dataclasses.replace(config, output_embeddings="float16")
    monkeypatch.setattr(log, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"pip install 'label-pipeline\[{config.table}\]'"):
        label(config)
    assert not Path(config.output).exists()
    monkeypatch.undo()
    if config.table == "iceberg":
        with pytest.raises(UserError, match="set PYICEBERG_CATALOG__LABELS__URI"):
            label(dataclasses.replace(config, output="s3://photos/out"))
        (tmp_path / "out/iceberg").mkdir(parents=True)
        (tmp_path / "out/iceberg/catalog.db").write_bytes(b"no database")
        (tmp_path / "out/iceberg/model=x").mkdir()
        assert main(["run", "--input", config.input, "--output", config.output, "--table", "iceberg",
                     "--weights", config.weights]) == 2
        assert "the Iceberg catalog labels" in capsys.readouterr().err


def test_two_outputs_in_one_catalog(config, tmp_path, monkeypatch):
    """A catalog has one table of a name, so the second output needs a namespace of its own."""
    if config.table != "iceberg":
        return
    monkeypatch.setenv("PYICEBERG_CATALOG__LABELS__TYPE", "sql")
    monkeypatch.setenv("PYICEBERG_CATALOG__LABELS__URI", f"sqlite:///{tmp_path}/shared.db")
    label_all(config)
    label(config)
    other = dataclasses.replace(config, output=str(tmp_path / "other"))
    label_all(other)
    with pytest.raises(UserError, match=r"has a table labels\.inception_v4-.* already"):
        label(other)
    monkeypatch.setenv("PYICEBERG_CATALOG__LABELS__NAMESPACE", "others")
    assert label(other).unrecorded == "" and len(listed(lake_of(other))) == 3


def test_prune(config):
    files = label_all(config)
    label(config)
    old = put(lake_of(config), "a.tar", 3, version=7)  # a version that never counted
    shards = Path(config.output) / "names"
    shards.write_text("a.tar\n")
    assert main(["prune", "--output", config.output, "--shards", str(shards), "--yes"]) == 0
    left = listed(lake_of(config))
    assert left.keys() == files.keys() - {"a.tar.parquet"}
    assert not list(Path(lake_of(config).folder).glob("data/a.tar/*")) and old.etag not in left.values()
    assert label(dataclasses.replace(config, dry_run=True)).num_pending == 1  # it is labelled again
    model_id = lake_of(config).model_id
    assert main(["prune", "--output", config.output, "--whole-model", "--model", model_id, "--yes"]) == 0
    assert listed(lake_of(config)) == {} and not Path(lake_of(config).folder).exists()
    label_all(config)
    label(config)
    assert listed(lake_of(config)) == files


def test_old_versions(config, capsys):
    label_all(config)
    label(config)
    write_shard(Path(config.input), "a.tar", 4, version=1)
    label_all(config, "20260102T000000-bbbbbb")
    label(config)
    now = listed(lake_of(config))
    folder = Path(lake_of(config).folder)
    num_files = len(list(folder.glob("data/**/*.parquet")))
    assert main(["prune", "--output", config.output, "--old-versions", "1", "--yes"]) == 0
    assert len(list(folder.glob("data/**/*.parquet"))) == num_files and len(read_versions(lake_of(config))) == 2
    assert main(["prune", "--output", config.output, "--old-versions", "0"]) == 0
    assert "would remove" in capsys.readouterr().out and len(list(folder.glob("data/**/*.parquet"))) == num_files
    assert main(["prune", "--output", config.output, "--old-versions", "0", "--yes"]) == 0
    assert len(list(folder.glob("data/**/*.parquet"))) == 3 and listed(lake_of(config)) == now
    assert read_versions(lake_of(config))[-1].num_rows == 6 if config.table == "iceberg" else True
    assert label(config).num_pending == 0


def test_old_versions_of_plain_parquet(tmp_path, capsys):
    put(log.LakeTable(str(tmp_path), "inception_v4-00000001", "parquet"), "a.tar", 1)
    assert main(["prune", "--output", str(tmp_path), "--old-versions", "1"]) == 2
    assert "has no old versions" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("kind", LAKES)
def test_a_run_as_of_plain_parquet(kind, shards, undisturbed, tmp_path):
    """The same rows as of plain Parquet; a second night with a changed and a removed shard."""
    for shard in ("a.tar", "b.tar", "dt=2026-11-23/d.tar"):
        (tmp_path / "in" / shard).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(shards / shard, tmp_path / "in" / shard)
    options = ("--input", tmp_path / "in", "--output", tmp_path / "out", "--table", kind, *SEED, "--batch-size", 4)
    done = job("label", *options)
    assert done.returncode == 0 and "label-images query" in done.stdout, done.stdout + done.stderr
    lake = log.LakeTable(str(tmp_path / "out"), weights.identify(str(SEED[1])).model_id, kind)
    plain = pa.concat_tables(pq.read_table(path, columns=["shard", "index", "embedding"], partitioning=None)
                             for path in sorted((undisturbed / "labels").rglob("[abd].tar.parquet")))
    ours, = read_versions(lake, ("shard", "index", "embedding"))
    order = [("shard", "ascending"), ("index", "ascending")]
    assert ours.sort_by(order).to_pylist() == plain.sort_by(order).to_pylist()
    shutil.copy(tmp_path / "in/b.tar", tmp_path / "in/a.tar")
    (tmp_path / "in/b.tar").unlink()
    done = job("label", *options)
    assert done.returncode == 0 and "1 labelled, 1 skipped" in done.stdout, done.stdout + done.stderr
    assert [version.num_rows for version in read_versions(lake)] == [15, 10]
    digest(tmp_path / "in", tmp_path / "out")
    question = job("query", "--output", tmp_path / "out", "--sql", "SELECT count(*) + 1000 AS n FROM labels")
    assert "1010" in question.stdout, question.stdout + question.stderr
