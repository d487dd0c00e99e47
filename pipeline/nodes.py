"""The nodes that a run finds, and those it waits for.

In: what the user says of the device. Out: CPUs of each node that takes work, GPUs of all.
Not here: how they are shared out (`graph.choose_pools`).
"""

from __future__ import annotations

import time
from typing import TextIO

import ray
from ray.autoscaler.sdk import request_resources

from pipeline.config import Config, UserError

GROWN = 1.25  # times as many CPUs or GPUs as the pools were made for: they are made anew
GROWN_AFTER_S = 60.0  # but not before this, since starting them takes 10 to 15 s
WAIT_S = 15 * 60.0  # for a first node: a cluster that scales to nothing takes minutes to start one
LOOK_EVERY_S = 5.0


class NoNodes(UserError):
    """The cluster has no node that can do the work; nothing was labelled."""

    exit_code = 1


def find_nodes(config: Config, local: bool, stream: TextIO) -> tuple[list[float], int]:
    """CPUs of each live node that has any, and GPUs of all.

    A cluster without CPUs, or with `--device cuda` without GPUs, is asked for some, and waited for.

    Args:
        local: this machine is all there is, and nothing more will come.

    Raises:
        UserError: `--device cuda` and no GPU on this machine; `NoNodes` if none came in time.
    """
    deadline, wants_gpu = time.monotonic() + WAIT_S, config.device == "cuda"

    def enough(node_cpus: list[float], num_gpus: int) -> bool:
        return bool(node_cpus) and (num_gpus > 0 or not wants_gpu)

    found = live_nodes()
    if enough(*found):
        return found
    if local:
        raise UserError("--device cuda: this machine has no GPU that Ray can see; use --device cpu or auto.")
    request_resources(bundles=[{"GPU": 1}] * (config.labellers or 1) if wants_gpu else [{"CPU": 1}])
    stream.write(f"waiting for a node with {'a GPU' if wants_gpu else 'CPUs'} to join the cluster\n")
    try:
        while not enough(*found):
            if time.monotonic() > deadline:
                raise NoNodes(f"--device {config.device}: the cluster has {sum(found[0]):g} CPUs and {found[1]} GPUs, and none "
                              f"joined in {WAIT_S / 60:.0f} minutes.")
            time.sleep(LOOK_EVERY_S)
            found = live_nodes()
    finally:
        request_resources(bundles=[])  # what is asked for stays asked for until this
    return found


def live_nodes() -> tuple[list[float], int]:
    """CPUs of each live node that has any, and GPUs of all."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [node["CPU"] for node in nodes if node.get("CPU")], int(sum(node.get("GPU", 0) for node in nodes))


class Growth:
    """Whether the cluster has grown since pools were made for so many CPUs and GPUs. A smaller one needs no new pools: Ray
    places actors of lost nodes where there is room, once there is."""

    def __init__(self, node_cpus: list[float], num_gpus: int) -> None:
        self.num_cpus, self.num_gpus = sum(node_cpus), num_gpus
        self.looked = time.monotonic() + GROWN_AFTER_S - LOOK_EVERY_S

    def seen(self) -> bool:
        """Look, now and then."""
        if time.monotonic() - self.looked < LOOK_EVERY_S:
            return False
        self.looked = time.monotonic()
        node_cpus, num_gpus = live_nodes()
        return sum(node_cpus) >= GROWN * self.num_cpus or num_gpus > 0 and num_gpus >= GROWN * self.num_gpus
