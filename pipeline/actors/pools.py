"""How a cluster is shared out: which actors on which node, each with how many CPUs and GPUs.

In: the nodes. Out: `Pools`, a pure function of them and the config; and their place reserved on the cluster.
Each stage reserves its CPUs and GPUs node by node before any actor starts, so the order in which Ray places actors does not
matter: no stage can take what another needs, and a decode actor stands beside the GPU that its pixels are for.
Not here: what the actors do (`graph`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from statistics import median_low
from typing import Any

from pipeline.actors.nodes import Node, count_cpus, count_gpus, live_nodes
from pipeline.config import Config
from pipeline.errors import JobError
from pipeline.stages.batch import IMAGE_BYTES
from pipeline.stop import Stop

LABELLER_CPUS = 1.0  # of a labeller with a GPU: copies to it, and Python
SINK_CPUS = 0.5  # of its sink: at 14,000 images/s it encodes 55 batches a second, at 12 ms each
RAY_CPUS = 0.5  # of a node: its raylet and agents
MOST_DECODE_THREADS = 8  # of an actor: its Python reads for all of them
ENOUGH_THREADS = 0.85  # of the CPUs that are left for decoding: the fewest actors that use so many
GPU_BATCH = 256
GPU_BLOCK = 2048  # images, at most
CPU_BATCH = 96  # 25 MB: glibc keeps no more than 32 MB in one piece for the next
TASK_BYTES = 2**30  # of small shards that a reader takes in one task with a GPU: some 40 full batches
BLOCKS_QUEUED = 12  # of a labeller with a GPU: while its queue has room it gets all blocks of its own node, and others none of them
BLOCKS_A_COMMIT = 4  # of a sink with a GPU: the driver pays for each task
PLACED_WITHIN_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Pools:
    """The actors of the three stages: of each the id of its node. All actors of a stage are alike.

    `*_cpus`: Ray's logical CPUs, for an actor. `batch_size`: images that the device takes at once. `block_size`: images that
    travel as one object, at most. `task_bytes`: of shards that a reader takes in one task, one after the other. `blocks_ahead`: of each
    reader and labeller: enough to never wait, few enough to keep memory flat. `shards_at_once`: of a reader: while one shard ends or
    waits for the store, the other decodes. `labels_at_once`, `puts_at_once`: calls of a labeller and of a sink; `labels_queued`: those of a labeller that wait, too.
    """

    decoders: tuple[str, ...]
    decode_threads: int
    decode_cpus: float
    labellers: tuple[str, ...]
    label_threads: int
    label_cpus: float
    label_gpus: float
    sinks: tuple[str, ...]
    sink_cpus: float
    batch_size: int
    block_size: int
    task_bytes: int
    blocks_ahead: int
    shards_at_once: int = 2
    labels_at_once: int = 2
    labels_queued: int = 4
    blocks_a_commit: int = 1
    puts_at_once: int = 4


class NotPlaced(JobError):
    """The cluster has no room for the actors; nothing was labelled."""

    exit_code = 1


def choose_pools(config: Config, nodes: list[Node], device: str) -> Pools:
    """The pools for these nodes; what the config says goes first."""
    return gpu_pools(config, nodes) if device == "cuda" else cpu_pools(config, nodes)


def gpu_pools(config: Config, nodes: list[Node]) -> Pools:
    """A labeller and a sink for each GPU; what they, and Ray, leave of each node's CPUs decodes.

    On a node that has few CPUs for its GPUs, half of them decode.
    """
    slots = [node for turn in range(max(node.num_gpus for node in nodes)) for node in nodes if node.num_gpus > turn]
    labellers = slots[:config.labellers or len(slots)]
    num_labellers = Counter(node.id for node in labellers)
    needed = {node.id: min(num_labellers[node.id] * (LABELLER_CPUS + SINK_CPUS) + RAY_CPUS, node.num_cpus / 2) for node in nodes}
    share = min(1.0, *(needed[node.id] / (num_labellers[node.id] * (LABELLER_CPUS + SINK_CPUS)) for node in labellers))
    free = {node.id: node.num_cpus - needed[node.id] for node in nodes}
    decoders, threads, decode_cpus = _decoders(config, free, set(num_labellers))
    batch_size = config.batch_size or GPU_BATCH
    store = min(node.store_bytes / max(1, num_labellers[node.id]) for node in nodes)
    block_size = max(batch_size, min(GPU_BLOCK, int(store / 8 / IMAGE_BYTES)))
    return Pools(decoders=decoders, decode_threads=threads, decode_cpus=decode_cpus,
                 labellers=tuple(node.id for node in labellers), label_threads=1, label_cpus=_rounded(LABELLER_CPUS * share), label_gpus=1,
                 sinks=tuple(node.id for node in labellers), sink_cpus=_rounded(SINK_CPUS * share),
                 batch_size=batch_size, block_size=block_size, task_bytes=TASK_BYTES, blocks_ahead=4, labels_at_once=3, labels_queued=BLOCKS_QUEUED,
                 blocks_a_commit=BLOCKS_A_COMMIT)


def cpu_pools(config: Config, nodes: list[Node]) -> Pools:
    """Decoding costs 1/30 of the network, so a labeller takes nearly all CPUs of a node, or of a part of one that is as large as
    the median node. Smaller nodes get nothing."""
    part = median_low([node.num_cpus for node in nodes if node.num_cpus])
    parts = [node.id for node in nodes if node.num_cpus for _ in range(int(node.num_cpus // part))]
    small = min(0.25, part / 4)
    threads = config.decode_threads or max(1, int(part) // 8)
    label_cpus = max(part - 1, 0.55 * part) if part >= 2 else part / 2  # the rest is for a decoder, a sink and Ray
    labellers, crowd = _dealt(parts, config.labellers)
    decoders, decode_crowd = _dealt(parts, config.decoders)
    batch_size = config.batch_size or CPU_BATCH
    return Pools(decoders=decoders, decode_threads=threads, decode_cpus=_rounded(small / decode_crowd),
                 labellers=labellers, label_threads=max(1, int(part * len(parts) // len(labellers))),
                 label_cpus=_rounded(label_cpus / crowd), label_gpus=0, sinks=labellers, sink_cpus=_rounded(small / crowd),
                 batch_size=batch_size, block_size=batch_size, task_bytes=0, blocks_ahead=3)


def _decoders(config: Config, free: dict[str, float], with_gpu: set[str]) -> tuple[tuple[str, ...], int, float]:
    """The nodes of the decoders, the threads and the CPUs of each, for so many free CPUs of each node.

    The largest actors that use nearly all free CPUs, and of which each node with a GPU has one.
    """
    def fitting(cpus: float) -> list[str]:
        return [node for node, left in free.items() for _ in range(int((left + 1e-9) / cpus))]

    wanted = config.decoders or 1
    if config.decode_threads or config.decoders:
        threads = config.decode_threads or max(1, int(sum(free.values()) / wanted))
        cpus = float(threads)
        while len(fitting(cpus)) < wanted:  # they share CPUs, since the user wants it so
            cpus /= 2
        cpus = _rounded(cpus)
        turns = Counter(fitting(cpus))
        places = [node for turn in range(max(turns.values())) for node in turns if turns[node] > turn]
        return tuple(places[:config.decoders or len(places)]), threads, cpus
    for cpus in (*range(MOST_DECODE_THREADS, 0, -1), 0.75, 0.5, 0.25):
        threads, places = max(1, int(cpus)), fitting(cpus)
        beside = all(free[node] < 1 or node in places for node in with_gpu)
        if places and beside and threads * len(places) >= ENOUGH_THREADS * sum(free.values()):
            break
    else:
        cpus = max(range(1, MOST_DECODE_THREADS + 1), key=lambda cpus: cpus * len(fitting(cpus)))
        threads, places = int(cpus), fitting(cpus)
    return tuple(places), threads, float(cpus)


def _dealt(parts: list[str], number: int | None) -> tuple[tuple[str, ...], int]:
    """So many actors dealt over the parts, or one a part; and how many share a part at most."""
    number = number or len(parts)
    return tuple(parts[at % len(parts)] for at in range(number)), -(-number // len(parts))


def _rounded(cpus: float) -> float:
    """Rounded down to what Ray counts in."""
    return int(cpus * 10_000 + 1e-6) / 10_000


class NodesGone(Exception):
    """A node that the pools were chosen for is gone; Ray notices only some seconds after its last actor has died."""


@contextmanager
def reserve_places(pools: Pools, nodes: list[Node], stop: Stop) -> Iterator[dict[str, Any]]:
    """The place of all actors, reserved on their nodes: a scheduling strategy for each of `decode`, `label`, `commit`.

    When the context is left, the place is free again, and what still runs there has ended.

    Raises:
        NodesGone: so what was chosen fits no more.
        NotPlaced: somebody else has what the actors need, and kept it for `PLACED_WITHIN_S`.
    """
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    wanted = {"label": ("labellers", pools.labellers, {"CPU": pools.label_cpus, "GPU": pools.label_gpus}),
              "commit": ("sinks", pools.sinks, {"CPU": pools.sink_cpus}),
              "decode": ("decode actors", pools.decoders, {"CPU": pools.decode_cpus})}
    groups: dict[str, Any] = {}
    try:
        for stage, (_, places, resources) in wanted.items():
            bundle = {name: number for name, number in resources.items() if number} or {"CPU": 0.001}
            groups[stage] = placement_group([bundle] * len(places), bundle_label_selector=[{"ray.io/node-id": node} for node in places])
        deadline = time.monotonic() + PLACED_WITHIN_S
        for stage, group in groups.items():
            while not group.wait(1):
                stop.check()
                if {node.id for node in nodes} - {node.id for node in live_nodes()}:
                    raise NodesGone
                if time.monotonic() < deadline:
                    continue
                name, places, resources = wanted[stage]
                free = ray.available_resources()
                raise NotPlaced(f"{len(places)} {name} of {resources['CPU']:g} CPUs and {resources.get('GPU', 0):g} GPUs each wait for a "
                                f"place: of the cluster's {count_cpus(nodes):g} CPUs and {count_gpus(nodes)} GPUs {free.get('CPU', 0):g} and "
                                f"{free.get('GPU', 0):g} are free, and that was so for {PLACED_WITHIN_S:.0f} s.")
        yield {stage: PlacementGroupSchedulingStrategy(group) for stage, group in groups.items()}
    finally:
        for group in groups.values():
            with suppress(Exception):  # the cluster may be gone, and the place with it
                remove_placement_group(group)
