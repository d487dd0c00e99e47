"""Checks of a run that need no torch: whether classes, runner and weights fit together."""

from __future__ import annotations

import importlib.util

import pyarrow as pa

from pipeline.errors import UserError


def check_classes(num_outputs: int, classes: pa.Table) -> None:
    """Raise UserError unless the weights have one output for each class."""
    if num_outputs != classes.num_rows:
        raise UserError(f"--classes names {classes.num_rows} classes and --weights has {num_outputs}; "
                        "they must be of the same network.")


def check_runner(runner: str, device: str) -> None:
    """Raise UserError if the device, `cuda` or `cpu`, does not have this runner."""
    if runner == "fast" and device == "cpu" and not has_openvino():
        raise UserError("--runner fast: the fast runner needs a CUDA device, or on a CPU the package openvino "
                        "(pip install openvino); use --runner auto.")


def has_openvino() -> bool:
    """Whether this machine has OpenVINO."""
    return importlib.util.find_spec("openvino") is not None
