"""The jobs as a user runs them, as processes."""

import os
import subprocess
import sys
from pathlib import Path

import duckdb

ROOT = Path(__file__).parents[2]
SEED = ("--weights", "seed:0", "--precision", "fp32")


def job(name: str, *options: object, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run `jobs/<name>.py` as a user would."""
    return subprocess.run([sys.executable, ROOT / "jobs" / f"{name}.py", *map(str, options)], env=os.environ | environ,
                          cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def digest(shards: object, output: object, **environ: str) -> str:
    proof = job("verify", "--input", shards, "--output", output, **environ)
    assert proof.returncode == 0, proof.stdout + proof.stderr
    return proof.stdout.splitlines()[-1]


def labels(output: object) -> dict[tuple[str, int], int]:
    rows = duckdb.sql(f"SELECT shard, index, label_id FROM '{output}/labels/**/*.parquet'").fetchall()
    return {(shard, index): label_id for shard, index, label_id in rows}
