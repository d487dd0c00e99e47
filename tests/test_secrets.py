"""Secrets given to a job by its environment, or by mistake in a URI, are nowhere afterwards."""

import shutil
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support.jobs import SEED, job
from tests.support.s3 import SECRET
from tests.support.tars import make_tar

PLANTED = (SECRET, "hf_plantedInTheEnvironment", "plantedInAUri")


@pytest.mark.s3
@pytest.mark.slow
def test_no_secret_in_any_log_table_or_report(s3, photographs):
    environ, fs = s3
    for name, data in (("a.tar", make_tar(*photographs)), ("b.tar", b"not a tar")):
        fs.pipe_file(f"photos/secrets/in/{name}", data)
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # short, for the paths of Ray's sockets
    options = ("--input", "s3://photos/secrets/in", "--output", "s3://photos/secrets/out")
    environ = environ | {"HF_TOKEN": PLANTED[1], "RAY_TMPDIR": str(folder)}
    try:
        runs = [job("label", *options, *SEED, "--batch-size", 4, **environ)]
        assert runs[0].returncode == 1 and "1 labelled" in runs[0].stdout, runs[0].stdout + runs[0].stderr
        for uri in (f"s3://key:{PLANTED[2]}@photos/secrets", f"s3://key:a/{PLANTED[2]}@photos/secrets"):
            for name, more in (("label", SEED), ("verify", ())):
                runs.append(job(name, "--input", uri, "--output", "s3://photos/secrets/out", *more, **environ))
                assert runs[-1].returncode == 2 and "--input holds credentials" in runs[-1].stderr
        runs.append(job("label", *options, "--weights", f"https://host/w.pth?token={PLANTED[2]}", **environ))
        assert "--weights holds credentials" in runs[-1].stderr
        runs.append(job("label", *options, "--weights", "pretrained", **environ, HF_ENDPOINT="http://127.0.0.1:9",
                        HF_HOME=str(folder / "hf")))
        assert runs[-1].returncode == 2
        texts = {f"run {number}": run.stdout + run.stderr for number, run in enumerate(runs)}
        texts |= {str(path): path.read_bytes().decode("latin-1") for path in folder.rglob("*")
                  if path.is_file() and "logs" in path.parts}
        assert sum("logs" in name for name in texts) > 10
        for path in fs.find("photos/secrets/out"):
            texts[path] = path
            if path.endswith(".parquet"):
                with fs.open(path) as file:
                    table = pq.read_table(file)
                texts[path] += str(table.schema.metadata) + str([row | {"embedding": 0} for row in table.to_pylist()])
            else:
                texts[path] += fs.cat_file(path).decode()
        assert [path for path in texts if "/runs/" in path] and [path for path in texts if "/labels/" in path]
        found = [(secret, where) for where, text in texts.items() for secret in PLANTED if secret in text]
        assert not found
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        fs.rm("photos/secrets", recursive=True)
