"""The node that this process is on."""

from __future__ import annotations

import ray


def this_node() -> str:
    """Ray's id of the node that this process is on; empty outside of Ray."""
    return str(ray.get_runtime_context().get_node_id()) if ray.is_initialized() else ""
