"""How a cluster is shared out: all actors fit in any order, every GPU has a labeller, the other CPUs decode."""

import random
from collections import Counter

import pytest

from pipeline.actors.nodes import Node, live_nodes
from pipeline.actors.places import NodesGone, NotPlaced, reserve_places
from pipeline.actors.pools import (
    ENOUGH_THREADS,
    LABELLER_CPUS,
    RAY_CPUS,
    SINK_CPUS,
    Pools,
    choose_pools,
)
from pipeline.config import Config
from pipeline.stop import Stop
from tests.support.processes import wait_until


def cluster(*shapes: tuple[float, int]) -> list[Node]:
    return [Node(f"n{at}", f"10.0.0.{at}", float(cpus), gpus) for at, (cpus, gpus) in enumerate(shapes)]


def pools_of(nodes: list[Node], device: str = "cuda", **options: int) -> Pools:
    return choose_pools(Config(input="i", output="o", **options), nodes, device)


def actors(pools: Pools) -> list[tuple[str, str, float, float]]:
    """Stage, node, CPUs and GPUs of each actor."""
    return [("label", node, pools.label_cpus, pools.label_gpus) for node in pools.labellers] + \
        [("commit", node, pools.sink_cpus, 0) for node in pools.sinks] + \
        [("decode", node, pools.decode_cpus, 0) for node in pools.decoders]


def reserve(pools: Pools, nodes: list[Node]) -> dict[tuple[str, str], list[float]]:
    """What each stage reserves on each node, as CPUs and GPUs; no node may be asked for more than it has."""
    places: dict[tuple[str, str], list[float]] = {}
    for stage, node, cpus, gpus in actors(pools):
        place = places.setdefault((stage, node), [0, 0])
        place[0] += cpus
        place[1] += gpus
    for node in nodes:
        of_node = [place for (_, name), place in places.items() if name == node.id]
        assert sum(cpus for cpus, _ in of_node) <= node.num_cpus + 1e-9, (node, of_node)
        assert sum(gpus for _, gpus in of_node) <= node.num_gpus, (node, of_node)
    return places


def place_greedily(pools: Pools, nodes: list[Node], rng: random.Random) -> None:
    """Place the actors in some order, each on any node where its stage has room left, as Ray may; all must fit."""
    room = reserve(pools, nodes)
    order = actors(pools)
    rng.shuffle(order)
    for stage, _, cpus, gpus in order:
        fits = [key for key, left in room.items() if key[0] == stage and left[0] >= cpus - 1e-9 and left[1] >= gpus]
        assert fits, f"no room for {stage}"
        place = room[rng.choice(fits)]
        place[0] -= cpus
        place[1] -= gpus


def decode_cpus_left(nodes: list[Node], pools: Pools) -> float:
    """CPUs that labellers, sinks and Ray leave; at least half of a node decodes."""
    busy = Counter(pools.labellers)
    return sum(node.num_cpus - min(busy[node.id] * (LABELLER_CPUS + SINK_CPUS) + RAY_CPUS, node.num_cpus / 2)
               for node in nodes)


def generated(seed: int) -> list[Node]:
    rng = random.Random(seed)
    kinds = [(rng.choice([1, 2, 3, 4, 7, 8, 16, 30, 64, 96, 192]), rng.choice([0, 0, 1, 1, 2, 4, 8]))
             for _ in range(rng.randint(1, 3))]
    nodes = [rng.choice(kinds) if rng.random() < 0.9 else (rng.randint(1, 192), rng.randint(0, 8))
             for _ in range(rng.randint(1, 30))]
    if not any(gpus for _, gpus in nodes):
        nodes[0] = (nodes[0][0], 1)
    if rng.random() < 0.2 and len(nodes) > 1:
        nodes[-1] = (0, 1)  # a node that gives a GPU and no CPU
    return cluster(*(shape for shape in nodes if shape != (0, 0)))


@pytest.mark.parametrize("seed", range(300))
def test_all_actors_fit_in_any_order_and_nothing_idles(seed):
    nodes, rng = generated(seed), random.Random(seed)
    pools = pools_of(nodes)
    for _ in range(5):
        place_greedily(pools, nodes, rng)
    assert Counter(pools.labellers) == {node.id: node.num_gpus for node in nodes if node.num_gpus}
    assert pools.sinks == pools.labellers and pools.label_gpus == 1
    left = decode_cpus_left(nodes, pools)
    threads = len(pools.decoders) * pools.decode_threads
    assert ENOUGH_THREADS * left <= threads, (nodes, pools)
    assert threads <= 2 * left, (nodes, pools)  # where nodes have one or two CPUs, threads share them
    assert all(node.id in pools.decoders for node in nodes if node.num_gpus and node.num_cpus / 2 >= 1)


@pytest.mark.parametrize(("shapes", "decoders", "threads"), [
    ([(4, 1)] * 2, 2, 2), ([(4, 1)] * 4, 4, 2), ([(8, 1)] * 3, 3, 6), ([(16, 1)], 2, 7), ([(192, 8)], 22, 8),
    ([(7, 0)] * 2 + [(7, 1)] * 2, 4, 5), ([(7, 0), (7, 1)], 2, 5), ([(1, 1)], 1, 1), ([(30, 0)] * 2 + [(8, 1)], 15, 4)])
def test_common_clusters(shapes, decoders, threads):
    pools = pools_of(cluster(*shapes))
    assert (len(pools.decoders), pools.decode_threads) == (decoders, threads)
    assert len(pools.labellers) == sum(gpus for _, gpus in shapes)


@pytest.mark.parametrize("seed", range(60))
def test_what_the_user_says_goes_first_and_still_fits(seed):
    nodes, rng = generated(seed), random.Random(seed)
    options = {name: rng.randint(1, 40) for name in ("decoders", "decode_threads", "labellers", "batch_size")
               if rng.random() < 0.6}
    pools = pools_of(nodes, **options)
    place_greedily(pools, nodes, rng)
    if "decoders" in options:
        assert len(pools.decoders) == options["decoders"]
    assert pools.decode_threads == options.get("decode_threads", pools.decode_threads)
    assert len(pools.labellers) == min(options.get("labellers", 240), sum(node.num_gpus for node in nodes))
    assert pools.batch_size == options.get("batch_size", 256)


@pytest.mark.parametrize("shapes", [[1.0], [2.0], [16.0], [64.0, 64.0], [4.0, 32.0], [0.5], [3.0, 3.0, 1.0]])
def test_cpu_pools_fit_the_nodes(shapes):
    nodes = cluster(*((cpus, 0) for cpus in shapes))
    pools = pools_of(nodes, "cpu")
    place_greedily(pools, nodes, random.Random(0))
    part = sorted(shapes)[(len(shapes) - 1) // 2]
    assert Counter(pools.labellers) == {node.id: node.num_cpus // part for node in nodes if node.num_cpus >= part}
    assert pools.label_gpus == 0 and pools.batch_size == pools.block_size == 96 and pools.task_bytes == 0
    assert part < 2 or pools.label_cpus > part / 2


@pytest.mark.parametrize("labellers", [1, 2, 3, 5, 9])
def test_so_many_labellers_on_cpus_as_the_user_says(labellers):
    nodes = cluster((16, 0), (16, 0))
    pools = pools_of(nodes, "cpu", labellers=labellers, decoders=3, decode_threads=2, batch_size=7)
    place_greedily(pools, nodes, random.Random(0))
    assert (len(pools.decoders), pools.decode_threads, len(pools.labellers), pools.batch_size) == (3, 2, labellers, 7)


def test_a_block_is_a_small_part_of_the_object_store():
    small, large = (pools_of([Node("n", "a", 4.0, 1, store)]).block_size for store in (2**30, 2**40))
    assert 256 <= small < large == 2048 and small * 268_203 <= 2**30 / 8 + 256 * 268_203


@pytest.mark.cluster
def test_what_cannot_be_placed_is_said_in_time(monkeypatch):
    import ray

    from pipeline.actors import places as module
    monkeypatch.setattr(module, "PLACED_WITHIN_S", 3.0)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        @ray.remote(num_cpus=1)
        class Other:
            def here(self) -> bool:
                return True

        other = Other.remote()
        ray.get(other.here.remote())
        nodes = live_nodes()
        pools = pools_of(nodes, "cpu")
        says = r"1 labellers of 1.1 CPUs .* wait for a place: of the cluster's 2 CPUs"
        with pytest.raises(NotPlaced, match=says), reserve_places(pools, nodes, Stop()):
            pass
        # Ray notices a lost node only after a while, so it may be chosen.
        gone = [*nodes, Node("f" * 56, "gone", 2.0, 0)]
        with pytest.raises(NodesGone), reserve_places(pools_of(gone, "cpu"), gone, Stop()):
            pass
        ray.kill(other)
        with reserve_places(pools, nodes, Stop()) as places:
            assert sorted(places) == ["commit", "decode", "label"]
        wait_until(lambda: ray.available_resources().get("CPU", 0) == 2, "the place is not given back", 10)
    finally:
        ray.shutdown()
