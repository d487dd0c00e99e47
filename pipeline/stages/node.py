"""The node that this process is on."""

from __future__ import annotations

import ray


def this_node() -> str:
    """The id that Ray gives the node of this process; empty without Ray."""
    return str(ray.get_runtime_context().get_node_id()) if ray.is_initialized() else ""
