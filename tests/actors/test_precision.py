"""One precision for a run, whatever its nodes are good at."""

import pytest

from pipeline.actors import precision
from pipeline.actors.nodes import Node
from pipeline.actors.precision import agree_on_precision
from pipeline.errors import UserError
from pipeline.runners.precision import resolve_precision

NODES = [Node("a", "10.0.0.1", 4, 0), Node("b", "10.0.0.2", 4, 1), Node("c", "10.0.0.3", 4, 1)]


@pytest.mark.parametrize(("answers", "agreed", "says"), [
    (["bf16", "bf16", "bf16"], "bf16", ""), (["bf16", "fp32", "bf16"], "fp32", "node 10.0.0.2 is not fast at bf16"),
    ([], "auto", "")])
def test_nodes_agree_on_what_all_compute_in(monkeypatch, answers, agreed, says):
    monkeypatch.setattr(precision, "ask_nodes", lambda nodes, *_: {
        node.address: (one, "") for node, one in zip(nodes, answers, strict=False)})
    made, note = agree_on_precision("auto", "cpu", NODES)
    assert made == agreed and says in note and bool(says) == bool(note)


def test_only_nodes_that_label_are_asked(monkeypatch):
    asked = []
    monkeypatch.setattr(precision, "ask_nodes", lambda nodes, *_: asked.extend(nodes) or {})
    agree_on_precision("auto", "cuda", NODES)
    assert asked == NODES[1:]


def test_a_node_that_cannot_is_named(monkeypatch):
    monkeypatch.setattr(precision, "ask_nodes", lambda *_: {
        "10.0.0.1": ("fp16", ""), "10.0.0.2": ("", "--precision fp16: this processor does not.")})
    with pytest.raises(UserError, match=r"^--precision fp16: this processor does not \(node 10\.0\.0\.2\)\.$"):
        agree_on_precision("fp16", "cpu", NODES)


@pytest.mark.slow
def test_the_nodes_are_asked_where_they_are():
    import ray
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        here = ray.nodes()[0]
        made, note = agree_on_precision("auto", "cpu", [Node(here["NodeID"], here["NodeManagerAddress"], 1, 0)] * 2)
    finally:
        ray.shutdown()
    assert (made, note) == (resolve_precision("auto", "cpu"), "")
