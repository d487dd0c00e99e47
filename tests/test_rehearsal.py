"""The GPU pools of common clusters, rehearsed on raylets with declared GPUs: see `support/rehearsal.py`."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.support.jobs import ROOT, job, make_weights
from tests.support.tars import make_tar

PER_SHARD, SHARDS = 90, 60
CLUSTERS = {
    "one node of 16 CPUs and a GPU": ["16x1"],
    "two nodes of 4 CPUs and a GPU": ["4x1"] * 2,
    "four nodes of 4 CPUs and a GPU": ["4x1"] * 4,
    "cluster/rayjob.yaml": ["7x0"] * 2 + ["7x1"] * 2,
    "cluster/raycluster.yaml": ["7x0", "7x1"],
    "one node of 192 CPUs and 8 GPUs": ["192x8"],
    "CPU nodes beside GPU nodes": ["16x0", "4x2", "2x1"],
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory, photographs) -> Path:
    """Shards of 90 small photographs: two cores must decode for eight GPUs."""
    folder, small = tmp_path_factory.mktemp("shards"), []
    for name, data in photographs:
        with Image.open(io.BytesIO(data)) as image:
            file = io.BytesIO()
            image.convert("RGB").resize((320, 320)).save(file, "JPEG", quality=60)
            small.append((Path(name).stem, file.getvalue()))
    content = make_tar(*((f"{at}-{small[at % len(small)][0]}.jpg", small[at % len(small)][1])
                         for at in range(PER_SHARD)))
    for number in range(SHARDS):
        (folder / f"photos-{number:05}.tar").write_bytes(content)
    return folder


@pytest.mark.cluster
@pytest.mark.rehearsal
@pytest.mark.parametrize("name", CLUSTERS)
def test_every_gpu_of_a_cluster_labels(name, shards, tmp_path):
    (tmp_path / "in").symlink_to(shards)
    done = subprocess.run([sys.executable, "-m", "tests.support.rehearsal", tmp_path, make_weights(), *CLUSTERS[name]],
                          cwd=ROOT,
                          timeout=500, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    print(f"{name:32} {json.dumps(result)}")
    assert (result["images"], result["committed"], result["failed"], result["exit"]) == (
        PER_SHARD * SHARDS, SHARDS, 0, 0)
    assert result["gpus_that_labelled"] == result["gpus"] and result["fill"] >= 0.93
    assert result["busy_least"] >= 0.6
    proof = job("verify", "--input", shards, "--output", tmp_path / "out")
    assert proof.returncode == 0 and "0 missing, 0 double, 0 foreign" in proof.stdout, proof.stdout + proof.stderr
    if name not in ("cluster/rayjob.yaml", "cluster/raycluster.yaml", "CPU nodes beside GPU nodes"):
        assert result["stayed"] >= 0.9  # in these three, nodes without a GPU decode for nodes with one
