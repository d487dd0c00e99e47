"""Which arithmetic the network of a run computes in: one for all of its actors.

In: what the user asked for, the nodes. Out: `fp32`, `bf16` or `fp16`. Labels of one model that were computed in two precisions
could not be told apart in the tables.
"""

from __future__ import annotations

from contextlib import suppress

import ray

from pipeline.actors.nodes import Node
from pipeline.errors import UserError
from pipeline.runners.precision import resolve_precision
from pipeline.stages.node import this_node

ANSWER_S = 60.0  # for the nodes to say what they compute in


def agree_on_precision(name: str, device: str, nodes: list[Node]) -> tuple[str, str]:
    """The precision that all nodes compute in; and a note for the user if some could do better.

    One node's own actors agree by themselves: on a GPU they are asked when they start. A node that does not answer within a minute
    has no say.

    Raises:
        UserError: a precision that a node does not compute in; the sentence names the node.
    """
    if name in ("fp32", "bf16"):  # any processor computes in these; a GPU that does not refuses when its actor starts
        return name, ""
    if len(nodes) == 1 and (device == "cuda" or nodes[0].id == this_node()):
        return (name if device == "cuda" else resolve_precision(name, device)), ""
    answers: dict[str, str] = {}  # a node's address by what it computes in
    for address, (precision, refusal) in _ask([node for node in nodes if node.num_gpus or device == "cpu"], name, device).items():
        if refusal:
            raise UserError(f"{refusal.rstrip('.')} (node {address}).")
        answers.setdefault(precision, address)
    if not answers:
        return name, ""
    agreed = next(one for one in ("fp32", "bf16", "fp16") if one in answers)
    if len(answers) == 1:
        return agreed, ""
    return agreed, (f"the network runs in {agreed}: node {answers[agreed]} is not fast at "
                    f"{' or '.join(one for one in answers if one != agreed)}, and a run has one precision")


def _ask(nodes: list[Node], name: str, device: str) -> dict[str, tuple[str, str]]:
    """What `_answer` says on each node that does say something, by its address."""
    asked = {ray.remote(_answer).options(num_cpus=0, num_gpus=0.01 if device == "cuda" else 0, max_retries=0,
                                         label_selector={"ray.io/node-id": node.id}).remote(name, device): node.address
             for node in nodes}
    answered, late = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_S)
    for reference in late:
        ray.cancel(reference, force=True)
    answers: dict[str, tuple[str, str]] = {}
    for reference in answered:
        with suppress(ray.exceptions.RayError):  # the node is gone
            answers[asked[reference]] = ray.get(reference)
    return answers


def _answer(name: str, device: str) -> tuple[str, str]:
    """The precision of this node, or why it has none."""
    try:
        return resolve_precision(name, device), ""
    except UserError as error:
        return "", str(error)
