"""A cluster of three nodes on one machine: a head that takes no work, a node that joins, a node that is killed."""

import subprocess

import psutil
import pytest

from tests.support.cluster import Cluster
from tests.support.jobs import SEED, digest, job, start_label
from tests.support.processes import STAGES, by_kind, kill, wait_until
from tests.support.tars import make_tar


def stages_of(node: subprocess.Popen[bytes]) -> set[str]:
    """The stages that have an actor on the node."""
    return set(STAGES) & by_kind(node.pid).keys()


@pytest.mark.chaos
@pytest.mark.cluster
def test_a_node_joins_and_another_is_killed(photographs, tmp_path):
    small = [(name, data) for name, data in photographs if len(data) < 200_000]
    (tmp_path / "in").mkdir()
    for number in range(30):
        content = make_tar(*((f"{copy}/{name}", data) for copy in range(30 // len(small)) for name, data in small))
        (tmp_path / "in" / f"{number:02}.tar").write_bytes(content)
    log = tmp_path / "log"

    def num_committed() -> int:
        return len(list((tmp_path / "out").glob("labels/**/*.parquet")))

    with Cluster("--num-cpus=0", "--include-dashboard=false") as cluster:
        first = cluster.add("--num-cpus=2")
        run = start_label("--input", tmp_path / "in", "--output", tmp_path / "out", *SEED, "--batch-size", 8, log=log,
                          **cluster.driver)
        wait_until(lambda: run.poll() is not None or num_committed() >= 1, "no shard is committed")
        assert run.poll() is None, log.read_text()
        assert stages_of(first) == set(STAGES) and not stages_of(cluster.nodes[0])
        second = cluster.add("--num-cpus=2")
        wait_until(lambda: run.poll() is not None or "LabelStage" in stages_of(second),
                   "no labeller comes to the node that joined")
        assert run.poll() is None, log.read_text()
        raylets = [process for process in psutil.Process(first.pid).children(recursive=True)
                   if "raylet" in process.name()]
        assert kill(raylets)
        print(f"{num_committed()} of 30 shards were committed when the first node was killed")
        assert run.wait(300) == 0, log.read_text()
    digest(tmp_path / "in", tmp_path / "out")
    done = job("label", "--input", tmp_path / "in", "--output", tmp_path / "out", *SEED)
    assert "nothing to do: all 30 shards" in done.stdout
