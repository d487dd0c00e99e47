"""How a cluster is shared out: which actors run on which node, each with how many CPUs and GPUs.

In: the nodes, the config. Out: `Pools`, which follow from the nodes and the config alone.
Not here: reserving the places (`places`), and the work of the actors (`graph`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from statistics import median_low

from pipeline.actors.nodes import Node
from pipeline.config import Config
from pipeline.stages.batch import IMAGE_BYTES

LABELLER_CPUS = 1.0  # of a labeller with a GPU: copies to the GPU, and Python
SINK_CPUS = 0.5  # of its sink: at 14,000 images/s the sink encodes 55 batches a second, at 12 ms each
RAY_CPUS = 0.5  # of a node: its raylet and agents
MOST_DECODE_THREADS = 8  # of an actor, whose Python reads for all of them
ENOUGH_THREADS = 0.85  # of the CPUs that are left for decoding: the fewest actors that use so many
GPU_BATCH = 256
GPU_BLOCK = 2048  # images, at most
CPU_BATCH = 96  # 25 MB: glibc keeps no more than 32 MB in one piece for the next batch
TASK_BYTES = 2**30  # of small shards that a reader takes in one task with a GPU: some 40 full batches
BLOCKS_QUEUED = 12  # of a labeller with a GPU: while its queue has room, it gets all blocks of its own node
BLOCKS_A_COMMIT = 4  # of a sink with a GPU: the driver pays for each task


@dataclass(frozen=True, kw_only=True)
class Pools:
    """The actors of the three stages, each by the id of its node. All actors of a stage are alike.

    `*_cpus`, `label_gpus`: Ray's logical CPUs and GPUs of an actor. `*_threads`: that an actor computes with.
    `batch_size`: images that the device takes at once. `block_size`: images that travel as one object, at most.
    `task_bytes`: of the shards that a reader takes in one task. `blocks_ahead`: of each reader and labeller; so many
    that no stage waits, so few that memory stays flat. `shards_at_once`: tasks of a reader at once: while one shard
    ends or waits for the store, the other decodes. `labels_at_once`, `puts_at_once`: calls of a labeller and of a
    sink at once. `labels_queued`: calls that a labeller has at hand, running or waiting. `blocks_a_commit`: blocks
    that a sink takes in one call.
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


def choose_pools(config: Config, nodes: list[Node], device: str) -> Pools:
    """The pools for these nodes; numbers that the config gives go first. `device`: `cuda` or `cpu`."""
    return choose_gpu_pools(config, nodes) if device == "cuda" else choose_cpu_pools(config, nodes)


def choose_gpu_pools(config: Config, nodes: list[Node]) -> Pools:
    """A labeller and a sink for each GPU; the CPUs of each node that they and Ray leave decode.

    On a node that has few CPUs for its GPUs, half of the CPUs decode.
    """
    most_gpus = max(node.num_gpus for node in nodes)
    gpu_nodes = [node for turn in range(most_gpus) for node in nodes if node.num_gpus > turn]  # a node for each GPU
    labellers = gpu_nodes[:config.labellers or len(gpu_nodes)]
    num_labellers = Counter(node.id for node in labellers)
    each = LABELLER_CPUS + SINK_CPUS
    needed = {node.id: min(num_labellers[node.id] * each + RAY_CPUS, node.num_cpus / 2) for node in nodes}
    share = min(1.0, *(needed[node.id] / (num_labellers[node.id] * each) for node in labellers))
    free = {node.id: node.num_cpus - needed[node.id] for node in nodes}
    decoders, threads, decode_cpus = _choose_decoders(config, free, set(num_labellers))
    batch_size = config.batch_size or GPU_BATCH
    store_bytes = min(node.store_bytes / max(1, num_labellers[node.id]) for node in nodes)
    block_size = max(batch_size, min(GPU_BLOCK, int(store_bytes / 8 / IMAGE_BYTES)))
    return Pools(
        decoders=decoders, decode_threads=threads, decode_cpus=decode_cpus,
        labellers=tuple(node.id for node in labellers), label_threads=1,
        label_cpus=_round_down(LABELLER_CPUS * share), label_gpus=1, sinks=tuple(node.id for node in labellers),
        sink_cpus=_round_down(SINK_CPUS * share), batch_size=batch_size, block_size=block_size, task_bytes=TASK_BYTES,
        blocks_ahead=4, labels_at_once=3, labels_queued=BLOCKS_QUEUED, blocks_a_commit=BLOCKS_A_COMMIT)


def choose_cpu_pools(config: Config, nodes: list[Node]) -> Pools:
    """A labeller takes nearly all CPUs of a node, since decoding costs 1/30 of the network.

    A part is as many CPUs as the median node has. A larger node is cut into parts, each with a labeller of its own.
    Smaller nodes get no actor.
    """
    part = median_low([node.num_cpus for node in nodes if node.num_cpus])
    parts = [node.id for node in nodes if node.num_cpus for _ in range(int(node.num_cpus // part))]
    small = min(0.25, part / 4)
    threads = config.decode_threads or max(1, int(part) // 8)
    label_cpus = max(part - 1, 0.55 * part) if part >= 2 else part / 2  # the rest is for a decoder, a sink and Ray
    labellers, labellers_a_part = _deal(parts, config.labellers)
    decoders, decoders_a_part = _deal(parts, config.decoders)
    batch_size = config.batch_size or CPU_BATCH
    return Pools(
        decoders=decoders, decode_threads=threads, decode_cpus=_round_down(small / decoders_a_part),
        labellers=labellers, label_threads=max(1, int(part * len(parts) // len(labellers))),
        label_cpus=_round_down(label_cpus / labellers_a_part), label_gpus=0, sinks=labellers,
        sink_cpus=_round_down(small / labellers_a_part), batch_size=batch_size, block_size=batch_size, task_bytes=0,
        blocks_ahead=3)


def _choose_decoders(config: Config, free: dict[str, float], with_gpu: set[str]) -> tuple[tuple[str, ...], int, float]:
    """The nodes of the decode actors, and the threads and CPUs of each actor.

    Without numbers of the user: the largest actors that use nearly all free CPUs, at least one on each node with a GPU.

    Args:
        free: CPUs by node.
        with_gpu: the nodes that have a labeller.
    """
    if config.decode_threads or config.decoders:
        return _place_decoders(config, free)
    for cpus in (*range(MOST_DECODE_THREADS, 0, -1), 0.75, 0.5, 0.25):
        threads, places = max(1, int(cpus)), _fill(free, cpus)
        is_beside_gpus = all(free[node] < 1 or node in places for node in with_gpu)
        if places and is_beside_gpus and threads * len(places) >= ENOUGH_THREADS * sum(free.values()):
            break
    else:
        cpus = max(range(1, MOST_DECODE_THREADS + 1), key=lambda cpus: cpus * len(_fill(free, cpus)))
        threads, places = int(cpus), _fill(free, cpus)
    return tuple(places), threads, float(cpus)


def _place_decoders(config: Config, free: dict[str, float]) -> tuple[tuple[str, ...], int, float]:
    """The same for the numbers that the user gives. If so many actors do not fit, they share CPUs."""
    num_decoders = config.decoders or 1
    threads = config.decode_threads or max(1, int(sum(free.values()) / num_decoders))
    cpus = float(threads)
    while len(_fill(free, cpus)) < num_decoders:
        cpus /= 2
    cpus = _round_down(cpus)
    num_on = Counter(_fill(free, cpus))
    places = [node for turn in range(max(num_on.values())) for node in num_on if num_on[node] > turn]
    return tuple(places[:config.decoders or len(places)]), threads, cpus


def _fill(free: dict[str, float], cpus: float) -> list[str]:
    """A node for each actor of so many CPUs that fits into the free CPUs."""
    return [node for node, num_cpus in free.items() for _ in range(int((num_cpus + 1e-9) / cpus))]


def _deal(parts: list[str], number: int | None) -> tuple[tuple[str, ...], int]:
    """So many actors dealt over the parts (None: one for each), and the most that share a part."""
    number = number or len(parts)
    return tuple(parts[at % len(parts)] for at in range(number)), -(-number // len(parts))


def _round_down(cpus: float) -> float:
    """CPUs in the steps of 1/10,000 that Ray counts in."""
    return int(cpus * 10_000 + 1e-6) / 10_000
