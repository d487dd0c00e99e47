"""The night in simulation: what follows from arithmetic, and that a lost node loses nothing."""

import dataclasses

import pytest

from pipeline.bench.night.plans import format_table, simulate_all
from pipeline.bench.night.simulate import Costs, Night, Shape, simulate

NODE = Shape("node", gpus=1, decode_rate=4000, gpu_rate=1000, network_bytes_per_s=1e9, price=2.0)
NIGHT, COSTS = Night(2_000_000), Costs()


@pytest.mark.parametrize(("change", "limit", "images_per_s"), [
    ({}, "GPUs", 4000), ({"decode_rate": 500}, "decoding", 2000), ({"network_bytes_per_s": 55e6}, "network", 2000)])
def test_the_slowest_resource_limits(change, limit, images_per_s):
    result = simulate(NIGHT, [dataclasses.replace(NODE, **change)] * 4, COSTS)
    assert result.limit == limit and result.busy[limit] > 0.97
    assert result.images_per_s == pytest.approx(images_per_s, rel=0.03)
    assert result.seconds == pytest.approx(COSTS.plan_s + COSTS.start_s + 2e6 / images_per_s, rel=0.03)
    assert result.cost == pytest.approx(4 * 2.0 * result.seconds / 3600)


@pytest.mark.slow
def test_the_driver_and_the_store_limit_large_clusters():
    slow = dataclasses.replace(COSTS, driver_s=0.5)
    assert simulate(NIGHT, [NODE] * 4, slow).limit == "driver"
    small = Night(200_000, images_per_shard=1)
    result = simulate(small, [dataclasses.replace(NODE, gpus=8)] * 4, dataclasses.replace(COSTS, driver_s=0, get_s=0))
    assert result.limit == "gets" and result.images_per_s == pytest.approx(COSTS.gets_per_s / 2, rel=0.05)


def test_lost_nodes_cost_time_only():
    """Each shard ends once, however often nodes are lost; the same seed gives the same night."""
    calm = simulate(NIGHT, [NODE] * 4, COSTS)
    losses = dataclasses.replace(COSTS, loss_hours=0.1, back_s=60)
    result = simulate(NIGHT, [NODE] * 4, losses)
    assert result.num_lost >= 3 and result.seconds > calm.seconds + 60
    assert vars(simulate(NIGHT, [NODE] * 4, losses)) == vars(result)
    assert vars(simulate(NIGHT, [NODE] * 4, losses, seed=1)) != vars(result)


def test_the_table_has_each_cluster():
    lines = format_table(simulate_all(2_000_000)).splitlines()
    assert len(lines) == 2 + 8 and all(line.count("|") == 9 for line in lines)
