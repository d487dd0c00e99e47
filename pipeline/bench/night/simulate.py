"""A night in simulation: shards on their way through the nodes of a cluster, event by event (SimPy).

In: what a night holds, what a node can do, what things cost. Out: a `Result`. A shard is read by its node, decoded,
labelled by one of its GPUs, put as a table, and reported to the driver. Each of these is a resource that others wait
for; between them lie a few shards at most, so what is slow holds up what is before it.
Not in it: how Ray places actors, and pixels that travel to another node (on GPU nodes they stay).
"""

from __future__ import annotations

import random
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import simpy

Process = Generator[Any, Any, None]
AHEAD = 2  # shards that wait before each stage


@dataclass(frozen=True)
class Night:
    """What is labelled: images in shards of one size, with so many encoded bytes, and bytes of a row."""

    num_images: int
    images_per_shard: int = 1000
    image_bytes: int = 110_000
    row_bytes: int = 6500

    @property
    def num_shards(self) -> int:
        """How many shards."""
        return -(-self.num_images // self.images_per_shard)


@dataclass(frozen=True)
class Shape:
    """A node. Rates are images a second: `decode_rate` of all its threads together, `gpu_rate` of a GPU.
    `network_bytes_per_s`: in each direction. `price`: of an hour."""

    name: str
    gpus: int
    decode_rate: float
    gpu_rate: float
    network_bytes_per_s: float = 1.25e9
    price: float = 0.0


@dataclass(frozen=True)
class Costs:
    """What the rest costs, in seconds unless named otherwise.

    `get_s`, `put_s`: until the first byte of a reply. `range_bytes`: of a request. `gets_per_s`, `puts_per_s`: that the
    store takes for one prefix. `driver_s`: of the driver, for the object of a shard. `start_s`: until the first block
    is decoded, at the start and after each change of the cluster. `loss_hours`: between two losses of a node, on
    average; None: none is lost. `back_s`: until a lost node is replaced.
    """

    get_s: float = 0.05
    put_s: float = 0.1
    range_bytes: int = 2**23
    gets_per_s: float = 5500.0
    puts_per_s: float = 3500.0
    driver_s: float = 0.0029
    plan_s: float = 54.0
    start_s: float = 40.0
    loss_hours: float | None = None
    back_s: float = 300.0


@dataclass
class Result:
    """What a night took. `busy`: the share of the time that each resource was busy, by its name. `images_per_s`: from
    the first shard to the last, without the plan and the start."""

    seconds: float
    images_per_s: float
    busy: dict[str, float]
    num_lost: int
    cost: float

    @property
    def limit(self) -> str:
        """The resource that was busy most."""
        return max(self.busy, key=lambda name: self.busy[name])


@dataclass
class _Busy:
    """Seconds in which the resources worked."""

    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds


def simulate(night: Night, nodes: list[Shape], costs: Costs, seed: int = 0) -> Result:
    """The night on a cluster of these nodes. The same seed gives the same night."""
    return _Run(night, nodes, costs, seed).run()


class _Run:
    def __init__(self, night: Night, nodes: list[Shape], costs: Costs, seed: int) -> None:
        self.night, self.nodes, self.costs = night, nodes, costs
        self.random = random.Random(seed)
        self.env = simpy.Environment()
        self.driver = simpy.Resource(self.env)
        self.gets, self.puts = simpy.Resource(self.env), simpy.Resource(self.env)
        self.left, self.num_done, self.num_lost = night.num_shards, 0, 0
        self.busy, self.done = _Busy(), self.env.event()
        self.num_gpus = sum(node.gpus for node in nodes)

    def run(self) -> Result:
        self.env.process(self._keep_going())
        self.env.run(self.done)
        costs, seconds = self.costs, self.env.now
        work_s = seconds - costs.start_s
        capacity = {"driver": 1, "gets": 1, "puts": 1, "GPUs": self.num_gpus, "decoding": len(self.nodes),
                    "network": len(self.nodes)}
        busy = {name: self.busy.seconds.get(name, 0.0) / (work_s * number) for name, number in capacity.items()}
        hours = (seconds + costs.plan_s) / 3600
        return Result(seconds + costs.plan_s, self.night.num_images / work_s, busy, self.num_lost,
                      hours * sum(node.price for node in self.nodes))

    def _keep_going(self) -> Process:
        """All nodes work, until one is lost. Its shards wait. When it is back, all begin anew, as the job does: what
        they had in hand is labelled again."""
        while not self.done.triggered:
            yield self.env.timeout(self.costs.start_s)
            running = [(set[int](), node) for node in self.nodes]
            workers = [self._start(node, in_hand) for in_hand, node in running]
            if self.costs.loss_hours is None:
                yield self.done
                return
            hours = self.costs.loss_hours / len(self.nodes)
            yield self.env.timeout(self.random.expovariate(1 / (3600 * hours))) | self.done
            if self.done.triggered:
                return
            lost = self.random.randrange(len(self.nodes))
            self._stop(workers[lost], running[lost][0])
            self.num_lost += 1
            yield self.env.timeout(self.costs.back_s) | self.done
            for number, (in_hand, _) in enumerate(running):
                if number != lost:
                    self._stop(workers[number], in_hand)

    def _stop(self, workers: list[simpy.Process], in_hand: set[int]) -> None:
        for worker in workers:
            if worker.is_alive:
                worker.interrupt()
        self.left += len(in_hand)
        in_hand.clear()

    def _start(self, node: Shape, in_hand: set[int]) -> list[simpy.Process]:
        env = self.env
        read, decoded = simpy.Store(env, AHEAD), simpy.Store(env, AHEAD * node.gpus)
        stages = [self._read(node, read, in_hand), self._decode(node, read, decoded)]
        stages += [self._label(node, decoded, in_hand) for _ in range(node.gpus)]
        return [env.process(_until_stopped(stage)) for stage in stages]

    def _read(self, node: Shape, out: simpy.Store, in_hand: set[int]) -> Process:
        night, costs = self.night, self.costs
        shard_bytes = night.images_per_shard * night.image_bytes
        num_gets = 2 + shard_bytes / costs.range_bytes
        wire_s = shard_bytes / node.network_bytes_per_s
        while True:
            while not self.left:
                yield self.env.timeout(1.0)  # shards of a lost node may come back
            self.left -= 1
            number = self.random.getrandbits(62)
            in_hand.add(number)
            yield from self._use(self.gets, "gets", num_gets / costs.gets_per_s)
            self.busy.add("network", wire_s)
            yield self.env.timeout(max(wire_s, costs.get_s / AHEAD))  # the next requests are under way meanwhile
            yield out.put(number)

    def _decode(self, node: Shape, read: simpy.Store, out: simpy.Store) -> Process:
        seconds = self.night.images_per_shard / node.decode_rate
        while True:
            number = yield read.get()
            yield self.env.timeout(seconds)
            self.busy.add("decoding", seconds)
            yield out.put(number)

    def _label(self, node: Shape, decoded: simpy.Store, in_hand: set[int]) -> Process:
        seconds = self.night.images_per_shard / node.gpu_rate
        while True:
            number = yield decoded.get()
            yield self.env.timeout(seconds)
            self.busy.add("GPUs", seconds)
            self.env.process(self._finish(node, number, in_hand))

    def _finish(self, node: Shape, number: int, in_hand: set[int]) -> Process:
        costs = self.costs
        yield from self._use(self.puts, "puts", 1 / costs.puts_per_s)
        table_bytes = self.night.images_per_shard * self.night.row_bytes
        yield self.env.timeout(costs.put_s + table_bytes / node.network_bytes_per_s)
        yield from self._use(self.driver, "driver", costs.driver_s)
        if number not in in_hand:
            return  # the shard is in the queue again
        in_hand.remove(number)
        self.num_done += 1
        if self.num_done == self.night.num_shards:
            self.done.succeed()

    def _use(self, resource: simpy.Resource, name: str, seconds: float) -> Process:
        with resource.request() as turn:
            yield turn
            yield self.env.timeout(seconds)
        self.busy.add(name, seconds)


def _until_stopped(stage: Process) -> Process:
    try:
        yield from stage
    except simpy.Interrupt:
        return
