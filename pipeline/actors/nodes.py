"""The nodes that a run finds, and those it waits for.

In: what the user says of the device. Out: the nodes that take work, and whether more have come.
Not here: how they are shared out (`pools`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TextIO

import ray
from ray.autoscaler.sdk import request_resources

from pipeline.config import Config
from pipeline.errors import JobError, UserError
from pipeline.stop import Stop

GROWN = 1.25  # times as many CPUs or GPUs as the pools use: they are made anew
GROWN_AFTER_S = 60.0  # but not before this, since starting them takes 10 to 15 s
WAIT_S = 15 * 60.0  # for a first node: a cluster that scales to nothing takes minutes to start one
LOOK_EVERY_S = 5.0


class NoNodes(JobError):
    """The cluster has no node that can do the work; nothing was labelled."""

    exit_code = 1


@dataclass(frozen=True)
class Node:
    """A live node. `id`: Ray's. `store_bytes`: of its object store."""

    id: str
    address: str
    num_cpus: float
    num_gpus: int
    store_bytes: int = 2**33


def find_nodes(config: Config, local: bool, stream: TextIO, stop: Stop) -> list[Node]:
    """The live nodes that have CPUs or GPUs.

    A cluster without CPUs, or with `--device cuda` without GPUs, is asked for some, and waited for.

    Args:
        local: this machine is all there is, and nothing more will come.

    Raises:
        UserError: `--device cuda` and no GPU on this machine; `NoNodes` if none came in time.
    """
    deadline, wants_gpu = time.monotonic() + WAIT_S, config.device == "cuda"

    def enough(nodes: list[Node]) -> bool:
        return count_cpus(nodes) > 0 and (count_gpus(nodes) > 0 or not wants_gpu)

    nodes = live_nodes()
    if enough(nodes):
        return nodes
    if local:
        raise UserError("--device cuda: this machine has no GPU that Ray can see; use --device cpu or auto.")
    request_resources(bundles=[{"GPU": 1}] * (config.labellers or 1) if wants_gpu else [{"CPU": 1}])
    stream.write(f"waiting for a node with {'a GPU' if wants_gpu else 'CPUs'} to join the cluster\n")
    try:
        while not enough(nodes):
            if time.monotonic() > deadline:
                raise NoNodes(f"--device {config.device}: the cluster has {count_cpus(nodes):g} CPUs and {count_gpus(nodes)} GPUs, "
                              f"and none joined in {WAIT_S / 60:.0f} minutes.")
            for _ in range(int(LOOK_EVERY_S)):
                stop.check()
                time.sleep(1)
            nodes = live_nodes()
    finally:
        request_resources(bundles=[])  # what is asked for stays asked for until this
    return nodes


def live_nodes() -> list[Node]:
    """The live nodes that have CPUs or GPUs."""
    found = [Node(node.get("NodeID", ""), node.get("NodeManagerAddress", ""), node["Resources"].get("CPU", 0.0),
                  int(node["Resources"].get("GPU", 0)), int(node["Resources"].get("object_store_memory", 2**33)))
             for node in ray.nodes() if node["Alive"]]
    return [node for node in found if node.num_cpus or node.num_gpus]


def count_cpus(nodes: list[Node]) -> float:
    """CPUs of all nodes."""
    return sum(node.num_cpus for node in nodes)


def count_gpus(nodes: list[Node]) -> int:
    """GPUs of all nodes."""
    return sum(node.num_gpus for node in nodes)


class Growth:
    """Whether the cluster has grown since pools were made for some nodes, has replaced nodes that were lost, or lost all its GPUs.

    Compared is what there is now with what is left of those nodes: actors are bound to their nodes, and a new one gets none
    until the pools are made anew.
    """

    def __init__(self, nodes: list[Node]) -> None:
        self.ids, self.num_gpus = {node.id for node in nodes}, count_gpus(nodes)
        self.looked = time.monotonic() + GROWN_AFTER_S - LOOK_EVERY_S

    def seen(self) -> bool:
        """Look, now and then."""
        if time.monotonic() - self.looked < LOOK_EVERY_S:
            return False
        self.looked = time.monotonic()
        now = live_nodes()
        used = [node for node in now if node.id in self.ids]
        return count_cpus(now) > 0 and (count_cpus(now) >= GROWN * count_cpus(used)
                                        or count_gpus(now) > 0 and count_gpus(now) >= GROWN * count_gpus(used)
                                        or self.num_gpus > 0 and count_gpus(used) == 0)
