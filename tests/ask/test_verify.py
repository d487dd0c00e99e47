"""verify must find what is wrong: each fault is planted in a sound output."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.ask.verify import verify
from pipeline.inputs.read import Inputs
from pipeline.model.spec import EMBEDDING_SIZE
from pipeline.stages.sink import Sink
from pipeline.tables.label_files import ShardVersion
from pipeline.tables.labels import SAMPLES, Answers, make_rows
from tests.support.jobs import job
from tests.support.tars import make_tar

MODEL = "inception_v4-00000000"


@pytest.fixture
def output(tmp_path):
    """Two shards of three images and their tables; yields the two folders and the first table's path."""
    (tmp_path / "in").mkdir()
    for shard in ("a.tar", "b.tar"):
        images = [(f"k{n}.jpg", f"{shard}{n}".encode()) for n in range(3)]
        (tmp_path / "in" / shard).write_bytes(make_tar(*images))
        samples = pa.table([[shard] * 3, [0, 1, 2], ["k0", "k1", "k2"], [1] * 3, [1] * 3,
                            [hashlib.sha256(content).hexdigest() for _, content in images],
                            ["not_an_image", None, None]], schema=SAMPLES)
        made = make_rows(samples, Answers(np.zeros((3, 5), np.int16), np.ones((3, 5), np.float32),
                                     np.zeros((3, EMBEDDING_SIZE), np.float32)), pa.array(["crane"]))
        Sink(str(tmp_path / "out"), "r", MODEL).write(ShardVersion(shard, "", 0, ""), made, 0, True)
    return tmp_path / "in", tmp_path / "out", tmp_path / "out/labels" / f"model={MODEL}" / "a.tar.parquet"


def prove(output):
    return verify(str(output[0]), str(output[1]), None, Inputs(None, None, 10**6, None))


def rewrite(path: Path, change) -> None:
    pq.write_table(change(pq.read_table(path, partitioning=None)), path)


def test_a_sound_output_is_proven(output):
    proof = prove(output)
    assert (proof.num_shards, proof.num_samples, proof.num_rows, proof.problems) == (2, 6, 6, [])
    assert proof.rejected == {"not_an_image": 2} and proof.digest == prove(output).digest


@pytest.mark.parametrize(("change", "counts", "says"), [
    (lambda table: table.slice(1), (1, 0, 0), "missing: a.tar: sample 0 'k0'"),
    (lambda table: pa.concat_tables([table, table.slice(2)]), (0, 1, 0), "double: a.tar: sample 2 'k2'"),
    (lambda table: table.set_column(5, "sha256", pa.array(["x"] * 3)), (0, 0, 3), "foreign: a.tar: row 0 'k0'"),
])
def test_a_planted_fault_is_found(output, change, counts, says):
    sound = prove(output).digest
    rewrite(output[2], change)
    proof = prove(output)
    assert (proof.num_missing, proof.num_double, proof.num_foreign) == counts
    assert proof.problems[0].startswith(says) and proof.digest != sound


def test_lost_cut_and_foreign_files_are_found(output):
    data = output[2].read_bytes()
    output[2].write_bytes(data[:-100])
    assert prove(output).problems[0].startswith("unreadable: a.tar.parquet")
    output[2].rename(output[2].with_name("c.tar.parquet"))
    proof = prove(output)
    assert proof.num_missing == 3 and proof.num_foreign == 1
    (output[0] / "b.tar").write_bytes(b"not a tar")
    assert any(problem.startswith("unreadable: b.tar") for problem in prove(output).problems)


def test_a_format_that_is_none_is_wrong_usage(tmp_path):
    done = job("verify", "--input", tmp_path, "--output", tmp_path, "--format", "tars")
    assert done.returncode == 2 and "--format is 'tars'; it takes one of auto, tar" in done.stderr
