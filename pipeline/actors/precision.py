"""The arithmetic that the network of a run computes in: the same for all actors.

In: the precision that the user wants, the nodes. Out: `fp32`, `bf16` or `fp16`. If one model labelled in two
precisions, nobody could tell the labels apart in the tables.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import ray

from pipeline.actors.nodes import Node
from pipeline.errors import JobError, UserError
from pipeline.runners.precision import resolve_precision
from pipeline.stages.node import this_node

ANSWER_S = 60.0  # for the nodes to answer


def agree_on_precision(name: str, device: str, nodes: list[Node]) -> tuple[str, str]:
    """The precision that all nodes compute in, and a note for the user if some nodes could compute faster.

    The actors of one node agree by themselves: with a GPU they are asked when they start. A node that does not
    answer within a minute is passed over.

    Args:
        name: `auto`, `fp32`, `bf16` or `fp16`, as the user says.

    Raises:
        UserError: a node does not compute in this precision; the sentence names the node.
    """
    if name in ("fp32", "bf16"):  # any processor computes in these; a GPU that cannot refuses when its actor starts
        return name, ""
    if len(nodes) == 1 and (device == "cuda" or nodes[0].id == this_node()):
        return (name if device == "cuda" else resolve_precision(name, device)), ""
    address_of: dict[str, str] = {}  # of the first node that computes in a precision
    asked = [node for node in nodes if node.num_gpus or device == "cpu"]
    for address, (precision, refusal) in ask_nodes(asked, name, device).items():
        if refusal:
            raise UserError(f"{refusal.rstrip('.')} (node {address}).")
        address_of.setdefault(precision, address)
    if not address_of:
        return name, ""
    agreed = next(precision for precision in ("fp32", "bf16", "fp16") if precision in address_of)
    if len(address_of) == 1:
        return agreed, ""
    others = " or ".join(precision for precision in address_of if precision != agreed)
    return agreed, (f"the network runs in {agreed}: node {address_of[agreed]} is not fast at {others}, "
                    "and a run has one precision")


def ask_nodes(nodes: list[Node], name: str, device: str) -> dict[str, tuple[str, str]]:
    """The answers of `answer` on the nodes, by address. A node that is gone or late has no answer."""
    address_of: dict[Any, str] = {}
    for node in nodes:
        task = ray.remote(answer).options(num_cpus=0, num_gpus=0.01 if device == "cuda" else 0, max_retries=0,
                                          label_selector={"ray.io/node-id": node.id})
        address_of[task.remote(name, device)] = node.address
    answered, late = ray.wait(list(address_of), num_returns=len(address_of), timeout=ANSWER_S)
    for reference in late:
        ray.cancel(reference, force=True)
    answers: dict[str, tuple[str, str]] = {}
    for reference in answered:
        with suppress(ray.exceptions.RayError):  # the node is gone
            answers[address_of[reference]] = ray.get(reference)
    return answers


def answer(name: str, device: str) -> tuple[str, str]:
    """The precision of this node, and why it refuses; one of the two is empty."""
    try:
        return resolve_precision(name, device), ""
    except JobError as error:
        return "", str(error)
