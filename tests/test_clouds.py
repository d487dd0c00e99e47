"""Whole runs on Google's and on Azure's store, and from one store to another: killed, resumed, asked, verified."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest

from pipeline.store import storage
from pipeline.store.listing import list_files
from tests.support.clouds import forget_stores
from tests.support.jobs import ROOT, SEED, digest, job, start_label
from tests.support.processes import family, kill, wait_until

pytestmark = [pytest.mark.s3, pytest.mark.slow]


@pytest.mark.parametrize("scheme", ["gs", "abfs"])
def test_killed_and_resumed_on_another_cloud(request, scheme, shards, undisturbed, tmp_path, monkeypatch):
    server = request.getfixturevalue(scheme)
    for name, value in server.environ().items():
        monkeypatch.setenv(name, value)
    forget_stores()
    for path in shards.rglob("*.tar*"):
        server.put(f"in/{path.relative_to(shards)}", path.read_bytes())
    source, output = f"{scheme}://photos/in", f"{scheme}://photos/out"
    options = ("--input", source, "--output", output, *SEED, "--batch-size", 4)
    log = tmp_path / "log"
    run = start_label(*options, log=log, **server.environ())

    def is_in_the_middle() -> bool:
        return storage.exists(output + "/labels") and storage.exists(output + "/_staging")

    wait_until(lambda: run.poll() is not None or is_in_the_middle(), "no shard is committed", look_s=0.05)
    assert run.poll() is None, log.read_text()
    kill(family(run.pid))
    run.wait()
    done = job("label", *options, **server.environ())
    assert done.returncode == 0, done.stdout + done.stderr
    assert digest(source, output, **server.environ()) == digest(shards, undisturbed)
    assert not [path for path in list_files(output)["path"].to_pylist() if "_staging" in path or "lease" in path]
    sql = "SELECT (SELECT count(*) FROM labels), (SELECT string_agg(status ORDER BY run_id) FROM runs)"
    asked = job("query", "--output", output, "--sql", sql, **server.environ())
    assert re.search(r"│ +25 +│ killed,done +│", asked.stdout), asked.stdout + asked.stderr
    forget_stores()


def test_from_one_store_to_another(s3, gs, shards, undisturbed, monkeypatch):
    """The input is a bucket of another endpoint than the AWS variables name, the output is Google's."""
    environ, fs = s3
    fs.put(str(shards) + "/", "photos/between/in/", recursive=True)
    here = {name: value for name, value in environ.items() if name != "AWS_ENDPOINT_URL"} | gs.environ() | {
        "LABEL_S3": f"photos={environ['AWS_ENDPOINT_URL']}"}
    options = ("--input", "s3://photos/between/in", "--output", "gs://photos/between", *SEED, "--batch-size", 4)
    done = job("label", *options, **here)
    assert done.returncode == 0, done.stdout + done.stderr
    assert digest("s3://photos/between/in", "gs://photos/between", **here) == digest(shards, undisturbed)


@pytest.mark.parametrize(("uri", "module", "extra"), [("gs://photos/in", "gcsfs.core", "[gcs]"),
                                                      ("abfs://photos/in", "azure.storage.blob", "[azure]")])
def test_a_package_that_is_not_installed_is_told_as_an_extra(uri, module, extra, shards, tmp_path: Path):
    program = f"import sys; sys.modules[{module!r}] = None; from pipeline.commands.app import main; sys.exit(main())"
    for flags in (("--input", uri, "--output", str(tmp_path)), ("--input", str(shards), "--output", uri)):
        command = [sys.executable, "-c", program, "run", *flags, "--weights", "seed:0"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT,
                              timeout=120, check=False)
        assert done.returncode == 2 and f"pip install 'label-pipeline{extra}'" in done.stderr, done.stderr
        assert done.stderr.count("\n") == 1




@pytest.mark.filterwarnings("ignore:Sending a large body")  # of gcsfs
@pytest.mark.parametrize("scheme", ["gs", "abfs"])
def test_files_that_others_write_and_read_through_our_filesystem(request, scheme, monkeypatch):
    """As Ray writes checkpoints and pyarrow reads tables."""
    for name, value in request.getfixturevalue(scheme).environ().items():
        monkeypatch.setenv(name, value)
    forget_stores()
    fs, path = storage.locate(f"{scheme}://photos/others")
    data = os.urandom(12 * 2**20)
    with fs.open(f"{path}/large", "wb") as file:
        for start in range(0, len(data), 2**20):
            file.write(data[start:start + 2**20])
    assert storage.read_bytes(f"{scheme}://photos/others/large") == data
    with pa.fs.PyFileSystem(pa.fs.FSSpecHandler(fs)).open_output_stream(f"{path}/a.parquet") as out:
        pq.write_table(pa.table({"a": [1, 2]}), out)
    assert pq.read_table(path + "/a.parquet", filesystem=fs)["a"].to_pylist() == [1, 2]
    forget_stores()
