"""The table `proofs`: what is proven once is not read again, and nothing wrong is ever taken for proven."""

import hashlib
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.actors import tasks
from pipeline.ask import verify as proving
from pipeline.ask.verify import Which, verify
from pipeline.commands.app import main
from pipeline.inputs.read import Inputs
from pipeline.tables.lake import log
from pipeline.tables.layout import label_uri
from tests.lake.lakes import put
from tests.support.cluster import Cluster
from tests.support.jobs import ROOT
from tests.support.processes import kill, wait_until
from tests.support.tars import make_tar

SHARDS, NUM = [f"{number:02}.tar" for number in range(12)], 2


def write(folder: Path, shard: str, number: int = NUM) -> None:
    (folder / "in").mkdir(exist_ok=True)
    (folder / "in" / shard).write_bytes(make_tar(*((f"k{i} v0.jpg", b"no image" * (i + 1)) for i in range(number))))


def write_table(folder: Path, shard: str, number: int = NUM) -> Path:
    """A table of the rows that the shard has."""
    table = log.LakeTable(str(folder / "out"), "inception_v4-00000001", "parquet")
    file = put(table, shard, number)
    path = Path(label_uri(table.output, table.model_id, file.path, ""))
    rows = pq.read_table(path, partitioning=None)
    digests = [hashlib.sha256(b"no image" * (i + 1)).hexdigest() for i in range(number)]
    pq.write_table(rows.set_column(rows.schema.get_field_index("sha256"), "sha256", pa.array(digests)), path)
    return path


@pytest.fixture
def folder(tmp_path):
    for shard in SHARDS:
        write(tmp_path, shard)
        write_table(tmp_path, shard)
    return tmp_path


@pytest.fixture
def read(monkeypatch):
    """The shards that are read, in order."""
    names: list[str] = []

    def compare(job, shards, *, original=proving.compare_shards):
        names.extend(listed["path"] for listed, _ in shards)
        return original(job, shards)

    monkeypatch.setattr(proving, "compare_shards", compare)
    return names


def prove(folder: Path, **which: object) -> proving.Proof:
    return verify(str(folder / "in"), str(folder / "out"), None, Inputs(None, None, 10**6, None), which=Which(**which))


def counts(proof: proving.Proof) -> dict:
    return {name: value for name, value in vars(proof).items() if name not in ("num_known", "left_out")}


def test_what_is_proven_is_not_read_again(folder, read):
    first = prove(folder)
    assert sorted(read) == SHARDS and (first.num_known, first.problems, first.num_rows) == (0, [], 24)
    read.clear()
    again = prove(folder)
    assert read == [] and again.num_known == 12 and counts(again) == counts(first)
    assert again.left_out.rows() == first.left_out.rows()
    everything = prove(folder, everything=True)
    assert sorted(read) == SHARDS and counts(everything) == counts(first)
    assert len(list((folder / "out/proofs").iterdir())) == 1  # what is proven once more has no new row


def test_new_and_changed_shards_and_tables_are_read(folder, read):
    prove(folder)
    read.clear()
    write(folder, "00.tar", 3)
    write_table(folder, "01.tar")
    write(folder, "99.tar")
    (folder / "in/02.tar").unlink()
    write_table(folder, "03.tar").unlink()
    proof = prove(folder)
    assert sorted(read) == ["00.tar", "01.tar", "03.tar", "99.tar"] and proof.num_known == 8
    assert [problem.partition(":")[0] for problem in proof.problems] == ["missing", "missing", "missing", "foreign"]
    read.clear()
    assert counts(prove(folder)) == counts(proof) and sorted(read) == ["00.tar", "03.tar", "99.tar"]


def test_a_proof_is_of_a_model_and_of_versions(folder, read):
    prove(folder)
    other = log.LakeTable(str(folder / "out"), "inception_v4-00000002", "parquet")
    put(other, "00.tar", 2)
    read.clear()
    proof = verify(str(folder / "in"), str(folder / "out"), other.model_id, Inputs(None, None, 10**6, None))
    assert sorted(read) == SHARDS and proof.num_known == 0 and proof.num_missing == 22


def test_a_sample_leaves_the_rest_unproven(folder, read, capsys):
    proof = prove(folder, sample=0.5)
    chosen = sorted(read)
    assert 0 < len(chosen) < 12 and proof.num_unproven == 12 - len(chosen) and proof.digest == ""
    read.clear()
    assert prove(folder, sample=0.5).num_unproven == proof.num_unproven and read == []
    assert main(["verify", "--input", str(folder / "in"), "--output", str(folder / "out"), "--sample", "0.5",
                 "--summary", str(folder / "s.json")]) == 0
    assert f"{proof.num_unproven} shards are not proven" in capsys.readouterr().out
    assert json.loads((folder / "s.json").read_text())["num_unproven"] == proof.num_unproven
    whole = prove(folder)
    assert sorted(read) == sorted({*SHARDS} - {*chosen}) and whole.digest and whole.num_known == len(chosen)


def test_a_proof_that_breaks_off_is_continued(folder, monkeypatch):
    def compare(job, shards, *, original=proving.compare_shards):
        if shards[0][0]["path"] == "07.tar":
            raise KeyboardInterrupt
        return original(job, shards)

    whole = prove(folder).digest
    for path in (folder / "out/proofs").iterdir():
        path.unlink()
    monkeypatch.setattr(proving, "MOST_TOGETHER", 1)
    with monkeypatch.context() as patch:
        patch.setattr(proving, "compare_shards", compare)
        with pytest.raises(KeyboardInterrupt):
            prove(folder)
    proof = prove(folder)
    assert proof.num_known == 7 and proof.digest == whole


def test_a_damaged_file_of_proofs_is_passed_over(folder, read):
    prove(folder)
    path, = (folder / "out/proofs").iterdir()
    path.write_bytes(b"no parquet")
    read.clear()
    assert prove(folder).num_known == 0 and sorted(read) == SHARDS


def test_where_proofs_cannot_be_written(folder, monkeypatch, capsys):
    def refuse(*_):
        raise PermissionError("read only")

    monkeypatch.setattr(proving.proofs, "write_proofs", refuse)
    assert main(["verify", "--input", str(folder / "in"), "--output", str(folder / "out")]) == 0
    assert "the table proofs is not written, so the next proof reads all again: " in capsys.readouterr().out


@pytest.mark.slow
def test_processes_prove_the_same(folder, monkeypatch):
    here = prove(folder)
    monkeypatch.setattr(tasks, "LARGE_BYTES", 0)
    assert counts(prove(folder, everything=True)) == counts(here)


@pytest.mark.cluster
@pytest.mark.slow
def test_four_nodes_killed_half_way_and_resumed(tmp_path):
    """A proof on four raylets is killed, and the next one reads only what is left."""
    for shard in (shards := [f"{number:03}.tar" for number in range(200)]):
        write(tmp_path, shard)
        write_table(tmp_path, shard)
    whole = prove(tmp_path)
    for path in (tmp_path / "out/proofs").iterdir():
        path.unlink()
    slow = ("import pipeline.ask.verify as proving, sys; from pipeline.commands.app import main; "
            "proving.FLUSH_S, proving.SHOW_S, proving.MOST_TOGETHER = 0.1, 0.5, 1; sys.exit(main(sys.argv[1:]))")
    options = ["verify", "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    with Cluster("--num-cpus=0", "--include-dashboard=false") as cluster:
        for _ in range(3):
            cluster.add("--num-cpus=1")
        environ = cluster.driver | {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
        first = subprocess.Popen([sys.executable, "-c", slow, *options], env=environ, cwd=ROOT,
                                 stdout=subprocess.DEVNULL)
        wait_until(lambda: first.poll() is not None or len(list((tmp_path / "out").glob("proofs/*"))) >= 3,
                   "nothing is proven", 120, 0.05)
        assert first.poll() is None
        first.send_signal(signal.SIGKILL)
        first.wait()
        proven = sum(len(pq.read_table(path)) for path in (tmp_path / "out/proofs").glob("*.parquet"))
        assert 0 < proven < len(shards)
        assert kill([psutil.Process(cluster.nodes[2].pid)])
        begun = time.monotonic()
        done = subprocess.run([sys.executable, "-c", slow, *options], env=environ, cwd=ROOT, capture_output=True,
                              text=True, timeout=200, check=False)
        print(f"{proven} of {len(shards)} shards were proven when the first proof was killed; the rest took "
              f"{time.monotonic() - begun:.1f} s on the nodes that were left")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{proven} shards of these versions were proven before" in done.stdout
    assert done.stdout.splitlines()[-1] == f"digest {whole.digest}"
    assert re.search(r"[\d,]+ samples, [\d,]+/s, \d+ of \d+ shards", done.stderr)
