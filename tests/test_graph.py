"""How a cluster is shared out: nothing idle, nothing that can never be placed."""

import pytest

from pipeline.config import Config
from pipeline.graph import SINK_CPUS, choose_pools


@pytest.mark.parametrize("nodes", [[1.0], [2.0], [16.0], [64.0, 64.0], [4.0, 32.0]])
def test_cpu_pools_fit_the_nodes(nodes):
    pools = choose_pools(Config(input="i", output="o"), nodes, 0, "cpu")
    used = pools.num_decoders * pools.decode_cpus + pools.num_labellers * pools.label_cpus + pools.num_labellers * SINK_CPUS
    assert used <= sum(nodes) and pools.label_cpus <= min(nodes) and pools.label_gpus == 0
    assert pools.num_labellers == len(nodes) and pools.batch_size == 64


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
