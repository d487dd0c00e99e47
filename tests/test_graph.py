"""How a cluster is shared out: nothing idle, nothing that can never be placed."""

import os
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from pipeline.config import Config
from pipeline.gallery import Gallery
from pipeline.graph import MOST_TASKS, SINK_CPUS, TASK_BYTES, TASKS_EACH, LabelStage, _BusyTime, choose_pools, tasks
from pipeline.reader import Reader
from tests.test_reader import LIMITS, png
from tests.test_shards import make_tar


@pytest.mark.parametrize("nodes", [[1.0], [2.0], [16.0], [64.0, 64.0], [4.0, 32.0]])
def test_cpu_pools_fit_the_nodes(nodes):
    pools = choose_pools(Config(input="i", output="o"), nodes, 0, "cpu")
    used = pools.num_decoders * pools.decode_cpus + pools.num_labellers * pools.label_cpus + pools.num_labellers * SINK_CPUS
    assert used <= sum(nodes) and pools.label_cpus <= min(nodes) and pools.label_gpus == 0
    assert pools.num_labellers == sum(node // min(nodes) for node in nodes) and pools.batch_size == 96
    assert min(nodes) < 2 or min(nodes) / 2 < pools.label_cpus <= min(nodes) - 2 * SINK_CPUS - pools.decode_cpus  # one a part


@pytest.mark.parametrize(("nodes", "gpus"), [([16.0], 1), ([96.0, 96.0], 16), ([4.0], 1), ([10.0], 8)])
def test_a_labeller_a_gpu_and_the_other_cpus_decode(nodes, gpus):
    pools = choose_pools(Config(input="i", output="o"), nodes, gpus, "cuda")
    assert (pools.num_labellers, pools.label_gpus, pools.batch_size) == (gpus, 1, 256)
    used = pools.num_decoders * pools.decode_cpus + gpus * pools.label_cpus + pools.num_labellers * SINK_CPUS
    assert 0.6 * sum(nodes) <= used <= sum(nodes)


def test_what_the_user_says_goes_first():
    config = Config(input="i", output="o", decoders=3, decode_threads=2, labellers=5, batch_size=7)
    pools = choose_pools(config, [16.0], 0, "cpu")
    assert (pools.num_decoders, pools.decode_threads, pools.num_labellers, pools.batch_size) == (3, 2, 5, 7)
    assert pools.num_labellers * pools.label_cpus <= 16


@pytest.mark.parametrize(("sizes", "readers"), [
    ([1], 4), ([0, 0], 1), ([10] * 10, 2), ([10 * 2**20] * 200, 2), ([2**30] * 7, 2), ([1, 2**30, 1, 1, 2**27, 5], 1),
    ([2**20] * 10**6, 100), ([2**30] * 10**6, 100)])
def test_each_shard_is_in_one_task_and_there_are_tasks_for_all(sizes, readers):
    made = tasks(np.array(sizes), readers, TASK_BYTES)
    assert made[0][0] == 0 and made[-1][1] == len(sizes)
    assert all(start < stop for start, stop in made) and all(a[1] == b[0] for a, b in pairwise(made))
    if len(set(sizes)) == 1:
        assert min(len(sizes), TASKS_EACH * readers) <= len(made) <= 2 * MOST_TASKS or not sum(sizes)
        assert max(stop - start for start, stop in made) <= max(2, 1 + max(TASK_BYTES, sum(sizes) / MOST_TASKS) // max(1, sizes[0]))


def test_without_a_gpu_each_shard_is_a_task_of_its_own():
    assert tasks(np.array([5, 10**6, 7]), 2, choose_pools(Config(input="i", output="o"), [2.0], 0, "cpu").task_bytes) == \
        [(0, 1), (1, 2), (2, 3)]


def test_after_an_error_of_the_network_its_process_ends(tmp_path, monkeypatch):
    (tmp_path / "a.tar").write_bytes(make_tar(("a.png", png(1)), ("b.png", png(2))))
    first, second = Reader(1, 1, 10**6, LIMITS)(pa.table({"shard": ["a.tar"], "uri": [str(tmp_path / "a.tar")]}))

    class Broken:
        precision = "bf16"

        def __call__(self, pixels_NHWC):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    stage = object.__new__(LabelStage)
    stage.labeller, stage.labels, stage.broken = Broken(), pa.array(["crane"]), False
    stage.busy, stage.gallery = _BusyTime(), Gallery()
    labelled = stage(first)
    assert labelled["failure"][0].as_py().startswith("RuntimeError: CUDA error") and labelled["passing"][0].as_py()
    assert len(labelled["rows"][0].as_py()) == 0
    monkeypatch.setattr(os, "_exit", lambda status: (_ for _ in ()).throw(SystemExit(status)))
    with pytest.raises(SystemExit):
        stage(second)
