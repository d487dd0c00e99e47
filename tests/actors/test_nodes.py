"""Which nodes a run finds, and how it waits for the first."""

import io

import pytest
import ray

from pipeline.actors import nodes
from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.stop import Stop

HEAD = {"Alive": True, "Resources": {"node:127.0.0.2": 1.0}}
CPU = {"Alive": True, "Resources": {"CPU": 4.0}}
GPU = {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 2.0}}
DEAD = {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}


def config(device: str = "auto", labellers: int | None = None) -> Config:
    return Config(input="i", output="o", device=device, labellers=labellers)


@pytest.fixture
def asked(monkeypatch):
    """What the autoscaler was asked for, in order; time passes by itself."""
    now, asked = [0.0], []
    monkeypatch.setattr(nodes.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(nodes.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    monkeypatch.setattr(nodes, "request_resources", lambda bundles: asked.append(bundles))
    monkeypatch.setattr(ray, "nodes", lambda: [HEAD, DEAD, CPU] if now[0] < 60 else [HEAD, DEAD, CPU, GPU])
    return asked


def shapes(found: list[nodes.Node]) -> list[tuple[float, int]]:
    return [(node.num_cpus, node.num_gpus) for node in found]


def test_what_is_there_is_taken(asked):
    assert shapes(nodes.find_nodes(config(), True, io.StringIO(), Stop())) == [(4.0, 0)] and asked == []


def test_a_gpu_is_asked_for_and_waited_for(asked):
    stream = io.StringIO()
    assert shapes(nodes.find_nodes(config("cuda", 3), False, stream, Stop())) == [(4.0, 0), (8.0, 2)]
    assert asked == [[{"GPU": 1}] * 3, []]
    assert stream.getvalue() == "waiting for a node with a GPU to join the cluster\n"


def test_nobody_waits_for_ever(asked, monkeypatch):
    monkeypatch.setattr(ray, "nodes", lambda: [HEAD])
    with pytest.raises(nodes.NoNodes, match="0 CPUs and 0 GPUs, and none joined in 15 minutes"):
        nodes.find_nodes(config(), False, io.StringIO(), Stop())
    assert asked == [[{"CPU": 1}], []]


def test_this_machine_alone_gets_no_gpu(asked):
    with pytest.raises(UserError, match="--device cuda"):
        nodes.find_nodes(config("cuda"), True, io.StringIO(), Stop())


@pytest.mark.parametrize(("before", "now", "grown"), [
    ("ab", "ab", False), ("abcdefgh", "abcdefghi", False), ("abcd", "abcde", True), ("ab", "a", False),
    ("abcd", "abce", True),
    ("a", "", False), ("a", "b", True)])
def test_growth_is_seen_and_so_is_a_node_in_another_ones_place(monkeypatch, before, now, grown):
    """A spot node that is lost and replaced adds nothing to the sum, but its successor would idle all night."""
    growth = nodes.Growth([nodes.Node(name, name, 4.0, 1) for name in before])
    growth.looked_s = -1e9
    monkeypatch.setattr(ray, "nodes", lambda: [HEAD] + [
        {"Alive": True, "NodeID": name, "NodeManagerAddress": name, "Resources": {"CPU": 4.0, "GPU": 1.0}}
        for name in now])
    assert growth.has_changed() == grown


def test_a_cluster_that_has_lost_its_gpus_is_looked_at_again(monkeypatch):
    """What is left has CPUs alone: the labellers' blocks would wait for ever."""
    growth = nodes.Growth([nodes.Node("cpu", "cpu", 4.0, 0), nodes.Node("gpu", "gpu", 8.0, 2)])
    left = [{"Alive": True, "NodeID": "cpu", "NodeManagerAddress": "cpu", "Resources": {"CPU": 4.0}}]
    gpu = {"Alive": True, "NodeID": "gpu", "NodeManagerAddress": "gpu", "Resources": {"CPU": 8.0, "GPU": 2.0}}
    for now, seen in (([*left, gpu], False), (left, True)):
        growth.looked_s = -1e9
        monkeypatch.setattr(ray, "nodes", lambda now=now: [HEAD, *now])
        assert growth.has_changed() == seen
