"""How shards become the tasks of readers."""

from itertools import pairwise

import numpy as np
import pytest

from pipeline.actors.graph import MOST_TASKS, TASKS_EACH, split_into_tasks
from pipeline.actors.nodes import Node
from pipeline.actors.pools import TASK_BYTES, choose_pools
from pipeline.config import Config


@pytest.mark.parametrize(("sizes", "readers"), [
    ([1], 4), ([0, 0], 1), ([10] * 10, 2), ([10 * 2**20] * 200, 2), ([2**30] * 7, 2), ([1, 2**30, 1, 1, 2**27, 5], 1),
    ([2**20] * 10**6, 100), ([2**30] * 10**6, 100)])
def test_each_shard_is_in_one_task_and_there_are_tasks_for_all(sizes, readers):
    made = split_into_tasks(np.array(sizes), readers, TASK_BYTES)
    assert made[0][0] == 0 and made[-1][1] == len(sizes)
    assert all(start < stop for start, stop in made) and all(a[1] == b[0] for a, b in pairwise(made))
    if len(set(sizes)) == 1:
        assert min(len(sizes), TASKS_EACH * readers) <= len(made) <= 2 * MOST_TASKS or not sum(sizes)
        most = max(2, 1 + max(TASK_BYTES, sum(sizes) / MOST_TASKS) // max(1, sizes[0]))
        assert max(stop - start for start, stop in made) <= most


def test_without_a_gpu_each_shard_is_a_task_of_its_own():
    pools = choose_pools(Config(input="i", output="o"), [Node("n", "a", 2.0, 0)], "cpu")
    assert split_into_tasks(np.array([5, 10**6, 7]), 2, pools.task_bytes) == [(0, 1), (1, 2), (2, 3)]
