"""A cluster of three nodes on one machine: a head that takes no work, a node that is killed, a node that joins."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.support.jobs import SEED, digest, job
from tests.support.processes import STAGES, by_kind, family, kill, start
from tests.support.s3 import free_ports
from tests.support.tars import make_tar


@pytest.mark.chaos
@pytest.mark.cluster
def test_a_node_joins_and_another_is_killed(photographs, tmp_path):
    """Each node has an address of its own: 127.0.0.1 Ray takes for this machine's outer address."""
    small = [(name, data) for name, data in photographs if len(data) < 200_000]
    for number in range(30):
        content = make_tar(*((f"{copy}/{name}", data) for copy in range(30 // len(small)) for name, data in small))
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{number:02}.tar").write_bytes(content)
    folder, address = f"/tmp/raynodes{tmp_path.stat().st_ino}", f"127.0.0.2:{free_ports(1)[0]}"
    environ = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4, "NO_PROXY": "127.0.0.2,127.0.0.3,127.0.0.4"}
    nodes: list[subprocess.Popen[bytes]] = []

    def add_node(ip: str, *options: str) -> subprocess.Popen[bytes]:
        ray = [str(Path(sys.executable).parent / "ray"), "start", "--block", f"--node-ip-address={ip}", *options]
        nodes.append(subprocess.Popen(ray, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | environ))
        time.sleep(8)
        return nodes[-1]

    def stages(node: subprocess.Popen[bytes]) -> set[str]:
        return set(STAGES) & by_kind(node.pid).keys()

    try:
        head = add_node("127.0.0.2", "--head", "--num-cpus=0", f"--port={address.split(':')[1]}", "--include-dashboard=false",
                        f"--temp-dir={folder}")
        first = add_node("127.0.0.3", f"--address={address}", "--num-cpus=2")
        run = start("--input", tmp_path / "in", "--output", tmp_path / "out", *SEED, "--batch-size", 8, log=tmp_path / "log",
                    RAY_ADDRESS=address, **environ)
        joined, lost, seen = None, 0, set[str]()
        while run.poll() is None:
            done = len(list((tmp_path / "out").glob("labels/**/*.parquet")))
            if joined is None and done >= 1:
                assert stages(first) == set(STAGES) and not stages(head)
                joined = add_node("127.0.0.4", f"--address={address}", "--num-cpus=2")
            if joined is not None and not lost:
                seen |= stages(joined)
                if "LabelStage" in seen:
                    lost = kill([process for process in psutil.Process(first.pid).children(recursive=True)
                                 if "raylet" in process.name()])
                    print(f"{done} of 30 shards were committed when the first node was killed")
            time.sleep(0.1)
        assert "LabelStage" in seen, "no labeller came to the node that joined"
        assert lost and run.returncode == 0, (tmp_path / "log").read_text()
    finally:
        for node in reversed(nodes):
            kill(family(node.pid))
            node.wait()
        shutil.rmtree(folder, ignore_errors=True)
    digest(tmp_path / "in", tmp_path / "out")
    done = job("label", "--input", tmp_path / "in", "--output", tmp_path / "out", *SEED)
    assert "nothing to do: all 30 shards" in done.stdout
