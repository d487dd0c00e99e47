"""The nodes of the cluster: those that a run finds, and those that a run waits for.

In: the device that the user wants. Out: the nodes that take work, and whether they have changed.
Not here: how actors are shared out over the nodes (`pools`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, TextIO

import ray
from ray.autoscaler.sdk import request_resources

from pipeline.config import Config
from pipeline.errors import JobError, UserError
from pipeline.stop import Stop

GROWN = 1.25  # times as many CPUs or GPUs as the pools use, for which new pools are worth their start
GROWN_AFTER_S = 60.0  # at the earliest, since a start of the pools takes 10 to 15 s
WAIT_S = 15 * 60.0  # for a first node: a cluster that scales to nothing takes minutes to start one
LOOK_EVERY_S = 5.0


class NoNodes(JobError):
    """The cluster has no node that can do the work; nothing was labelled."""


@dataclass(frozen=True)
class Node:
    """A live node. `id`: that Ray gives the node. `store_bytes`: size of its object store."""

    id: str
    address: str
    num_cpus: float
    num_gpus: int
    store_bytes: int = 2**33


def find_nodes(config: Config, local: bool, stream: TextIO, stop: Stop) -> list[Node]:
    """The live nodes that have CPUs or GPUs.

    If a cluster has no CPUs, or has no GPUs for `--device cuda`, this function asks the autoscaler for a node, and
    waits.

    Args:
        local: this machine is the whole cluster, and no node will join.

    Raises:
        UserError: `--device cuda`, and this machine has no GPU.
        NoNodes: no node joined in time.
        Stopped: the process was asked to end meanwhile.
    """
    deadline, wants_gpu = time.monotonic() + WAIT_S, config.device == "cuda"

    def are_enough(nodes: list[Node]) -> bool:
        return count_cpus(nodes) > 0 and (count_gpus(nodes) > 0 or not wants_gpu)

    nodes = live_nodes()
    if are_enough(nodes):
        return nodes
    if local:
        raise UserError("--device cuda: this machine has no GPU that Ray can see; use --device cpu or auto.")
    request_resources(bundles=[{"GPU": 1}] * (config.labellers or 1) if wants_gpu else [{"CPU": 1}])
    stream.write(f"waiting for a node with {'a GPU' if wants_gpu else 'CPUs'} to join the cluster\n")
    try:
        while not are_enough(nodes):
            if time.monotonic() > deadline:
                raise NoNodes(f"--device {config.device}: the cluster has {count_cpus(nodes):g} CPUs and "
                              f"{count_gpus(nodes)} GPUs, and none joined in {WAIT_S / 60:.0f} minutes.")
            for _ in range(int(LOOK_EVERY_S)):
                stop.check()
                time.sleep(1)
            nodes = live_nodes()
    finally:
        request_resources(bundles=[])  # until this call the autoscaler keeps the request
    return nodes


def live_nodes() -> list[Node]:
    """The live nodes that have CPUs or GPUs."""
    described: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    nodes = [Node(node.get("NodeID", ""), node.get("NodeManagerAddress", ""), node["Resources"].get("CPU", 0.0),
                  int(node["Resources"].get("GPU", 0)), int(node["Resources"].get("object_store_memory", 2**33)))
             for node in described if node["Alive"]]
    return [node for node in nodes if node.num_cpus or node.num_gpus]


def count_cpus(nodes: list[Node]) -> float:
    """CPUs of all nodes."""
    return sum(node.num_cpus for node in nodes)


def count_gpus(nodes: list[Node]) -> int:
    """GPUs of all nodes."""
    return sum(node.num_gpus for node in nodes)


class Growth:
    """Watches whether the cluster has changed since pools were made for some nodes, so that new pools are worth
    their start.

    That is so if the cluster has grown, has replaced lost nodes, or has lost all its GPUs. Actors are bound to their
    nodes, and a new node gets no actor until new pools are made. So the nodes that are there now are compared with
    those that are left of the old.
    """

    def __init__(self, nodes: list[Node]) -> None:
        self.ids, self.num_gpus = {node.id for node in nodes}, count_gpus(nodes)
        self.looked_s = time.monotonic() + GROWN_AFTER_S - LOOK_EVERY_S

    def has_changed(self) -> bool:
        """Ask Ray every `LOOK_EVERY_S` seconds; between, the answer is no."""
        if time.monotonic() - self.looked_s < LOOK_EVERY_S:
            return False
        self.looked_s = time.monotonic()
        now = live_nodes()
        used = [node for node in now if node.id in self.ids]
        has_more_cpus = count_cpus(now) >= GROWN * count_cpus(used)
        has_more_gpus = count_gpus(now) > 0 and count_gpus(now) >= GROWN * count_gpus(used)
        has_lost_gpus = self.num_gpus > 0 and count_gpus(used) == 0
        return count_cpus(now) > 0 and (has_more_cpus or has_more_gpus or has_lost_gpus)
