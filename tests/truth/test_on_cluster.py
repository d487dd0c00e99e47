"""Truths in shards are read by the nodes of a cluster: the process of the command reads no byte of a shard."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support.cluster import Cluster
from tests.support.jobs import ROOT
from tests.support.label_tables import tables
from tests.support.tars import make_tar

NO_STREAM = """
import sys
import pipeline.inputs.kinds as kinds
from pipeline.commands.app import main
def refuse(uri): raise AssertionError(f"{uri} is read here")
kinds.open_stream = refuse
sys.exit(main(sys.argv[1:]))
"""
ERRORS = """
import sys
from pipeline.actors.tasks import choose_map
from pipeline.errors import UserError
def refuse(item): raise UserError(f"--input {item}: no.")
try:
    with choose_map(1) as run: list(run(refuse, ["a"]))
except UserError as error: sys.exit(str(error))
"""


@pytest.mark.cluster
@pytest.mark.slow
def test_evaluate_on_a_cluster(tmp_path: Path) -> None:
    output = tables(tmp_path, np.eye(4)[[0, 1, 2, 1]])
    (tmp_path / "in").mkdir()
    members = [(f"{key}.{suffix}", data) for key, name in zip(("k0", "k1", "k2", "k3"), ("cat", "dog", "owl", "dog"),
                                                                       strict=True)
               for suffix, data in (("jpg", b"x" * 10**5), ("cls", name.encode()))]
    (tmp_path / "in/a.tar").write_bytes(make_tar(*members))
    command = ["evaluate", "--output", output, "--input", str(tmp_path / "in"), "--truth", "member:cls", "--summary"]
    with Cluster("--num-cpus=0", "--include-dashboard=false") as cluster:
        cluster.add("--num-cpus=2")

        def call(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run([sys.executable, "-c", code, *arguments], env=os.environ | cluster.driver, cwd=ROOT,
                                  capture_output=True, text=True, timeout=100, check=False)

        away = call(NO_STREAM, *command, str(tmp_path / "away.json"))
        refused = call(ERRORS)
    here = subprocess.run([sys.executable, "jobs/evaluate.py", *command[1:], str(tmp_path / "here.json")],
                          cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert away.returncode == 0, away.stderr
    assert away.stdout == here.stdout, here.stderr
    assert json.loads((tmp_path / "away.json").read_text())["top1"] == 1
    assert refused.returncode == 1 and refused.stderr.splitlines()[-1] == "--input a: no.", refused.stderr
