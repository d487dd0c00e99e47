"""The places of all actors, reserved on their nodes before any actor starts.

In: `Pools`, the nodes. Out: a scheduling strategy for each stage.
Each stage reserves its CPUs and GPUs node by node, so the order in which Ray places actors does not matter: no stage
can take what another stage needs, and a decode actor runs beside the GPU that its pixels are for.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from pipeline.actors.nodes import Node, count_cpus, count_gpus, live_nodes
from pipeline.actors.pools import Pools
from pipeline.errors import JobError
from pipeline.stop import Stop

PLACED_WITHIN_S = 120.0


class NotPlaced(JobError):
    """The cluster has no room for the actors; nothing was labelled."""


class NodesGone(Exception):
    """A node that the pools were chosen for is gone.

    Ray notices that only some seconds after the last actor of the node died.
    """


@contextmanager
def reserve_places(pools: Pools, nodes: list[Node], stop: Stop) -> Iterator[dict[str, Any]]:
    """Reserve the places of all actors: a scheduling strategy for each of `decode`, `label`, `commit`.

    When the context is left, the places are free again, and actors that still run there have ended.

    Raises:
        NodesGone: a node is gone, so the pools do not fit any more.
        NotPlaced: another user of the cluster has what the actors need, and kept it for `PLACED_WITHIN_S`.
        Stopped: the process was asked to end meanwhile.
    """
    stages = {"label": ("labellers", pools.labellers, {"CPU": pools.label_cpus, "GPU": pools.label_gpus}),
              "commit": ("sinks", pools.sinks, {"CPU": pools.sink_cpus}),
              "decode": ("decode actors", pools.decoders, {"CPU": pools.decode_cpus})}
    groups: dict[str, Any] = {}
    try:
        for stage, (_, places, resources) in stages.items():
            bundle = {name: number for name, number in resources.items() if number} or {"CPU": 0.001}
            groups[stage] = placement_group([bundle] * len(places),
                                            bundle_label_selector=[{"ray.io/node-id": node} for node in places])
        deadline = time.monotonic() + PLACED_WITHIN_S
        for stage, group in groups.items():
            while not group.wait(1):
                stop.check()
                if {node.id for node in nodes} - {node.id for node in live_nodes()}:
                    raise NodesGone
                if time.monotonic() > deadline:
                    raise NotPlaced(_describe_shortage(*stages[stage], nodes))
        yield {stage: PlacementGroupSchedulingStrategy(group) for stage, group in groups.items()}
    finally:
        for group in groups.values():
            with suppress(Exception):  # the cluster may be gone, and the places with it
                remove_placement_group(group)


def _describe_shortage(name: str, places: tuple[str, ...], resources: dict[str, float], nodes: list[Node]) -> str:
    free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    return (f"{len(places)} {name} of {resources['CPU']:g} CPUs and {resources.get('GPU', 0):g} GPUs each wait for a "
            f"place: of the cluster's {count_cpus(nodes):g} CPUs and {count_gpus(nodes)} GPUs "
            f"{free.get('CPU', 0):g} and {free.get('GPU', 0):g} are free, and that was so for {PLACED_WITHIN_S:.0f} s.")
