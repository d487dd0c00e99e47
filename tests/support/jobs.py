"""The jobs as a user runs them, as processes."""

import os
import subprocess
import sys
from pathlib import Path

import duckdb
from filelock import FileLock
from torch import Tensor

from pipeline.model import weights
from tests.support.cluster import shared_cluster
from tests.support.forked import run_forked

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / ".pytest_cache" / f"seed-0-{weights.identify('seed:0').digest[:8]}.safetensors"
# The weights of seed:0 in a file. The seed itself costs each process several seconds of computing, and so does a trial
# of OpenVINO.
SEED = ("--weights", WEIGHTS, "--precision", "fp32", "--runner", "plain")
FORKED = ("label", "verify", "query", "pack", "evaluate", "finetune", "relabel", "duplicates", "index")


def load_seed() -> dict[str, Tensor]:
    """The state dict of seed:0."""
    return weights.load(weights.identify(str(make_weights())))


def make_weights() -> Path:
    """The file of SEED. The first test that needs this file makes it; it stays for later sessions."""
    import safetensors.torch

    WEIGHTS.parent.mkdir(exist_ok=True)
    with FileLock(f"{WEIGHTS}.lock"):
        if not WEIGHTS.exists():
            safetensors.torch.save_file(weights.load(weights.identify("seed:0")), f"{WEIGHTS}.part")
            Path(f"{WEIGHTS}.part").rename(WEIGHTS)
    return WEIGHTS


def job(name: str, *options: object, own_ray: bool = False, timeout_s: float = 300,
        **environ: str) -> subprocess.CompletedProcess[str]:
    """Run `jobs/<name>.py` as a user would.

    A labelling job joins the Ray that the tests of a session share. It starts a Ray of its own with `own_ray`, or if it
    has variables of its own (`environ`): the workers of the shared Ray would not have these variables. What starts
    no Ray is forked from a Python that has imported the jobs.
    """
    if WEIGHTS in options:
        make_weights()
    starts_ray = name not in FORKED or own_ray or bool(environ)
    if name == "label" and not starts_ray:
        environ = shared_cluster().driver
    command = [str(ROOT / "jobs" / f"{name}.py"), *map(str, options)]
    if not starts_ray:
        return run_forked(command, os.environ | environ, ROOT, timeout_s)
    return subprocess.run([sys.executable, *command], env=os.environ | environ, cwd=ROOT, capture_output=True,
                          text=True, timeout=timeout_s, check=False)


def start_label(*options: object, log: Path, program: tuple[object, ...] = (ROOT / "jobs/label.py",), cwd: Path = ROOT,
                **environ: str) -> subprocess.Popen[bytes]:
    """Start `jobs/label.py` with a Ray of its own (or that of RAY_ADDRESS in `environ`), and do not wait for its end.

    `program`: what Python runs instead, such as ("-c", code). Both output streams are appended to `log`.
    """
    make_weights()
    with log.open("ab") as out:
        return subprocess.Popen([sys.executable, *map(str, program), *map(str, options)], cwd=cwd, stdout=out,
                                stderr=out,
                                env=os.environ | environ)


def labels_folder(output: Path) -> Path:
    """The folder with the tables of an output's only model."""
    folder, = (output / "labels").iterdir()
    return folder


def digest(shards: object, output: object, **environ: str) -> str:
    """The digest of an output that `jobs/verify.py` has proven whole."""
    proof = job("verify", "--input", shards, "--output", output, **environ)
    assert proof.returncode == 0, proof.stdout + proof.stderr
    return proof.stdout.splitlines()[-1]


def labels(output: object) -> dict[tuple[str, int], int]:
    """The label of each image of an output: (shard, index) -> label_id."""
    rows = duckdb.sql(f"SELECT shard, index, label_id FROM '{output}/labels/**/*.parquet'").fetchall()
    return {(shard, index): label_id for shard, index, label_id in rows}
