"""Chooses the runner of a CPU: OpenVINO if it is installed, agrees with torch and is faster here; otherwise torch.

In: the network, the user's choice. Out: a runner, and the reason if OpenVINO is there and not used.
Not here: the runners (`on_cpu.py`, `on_openvino.py`).

Which one is faster depends on the processor and the versions. So each process times both on a few images.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

import numpy as np
from torch import Tensor

from pipeline.errors import UserError
from pipeline.runners.checks import has_openvino
from pipeline.runners.folded import UintNetwork
from pipeline.runners.on_cpu import IMAGES_IN_CACHE, OnCpu
from pipeline.runners.on_openvino import HINTS, OnOpenVino
from pipeline.runners.probe import LEAST_COSINE, find_difference, make_probe_images, repeat
from pipeline.store.retry import describe_error

ROUNDS = 2


def choose_cpu_runner(state: Mapping[str, Tensor], network: UintNetwork, num_threads: int,
                      choice: str) -> tuple[OnCpu | OnOpenVino, str]:
    """A runner for this processor; and one sentence that says why OpenVINO is not trusted, or "".

    Args:
        state: the state dict that `weights.load` returns.
        choice: `auto`; `plain` (torch, without a trial); or `fast` (OpenVINO or nothing, however fast).

    Raises:
        UserError: `choice` is `fast`, and OpenVINO is not trusted.
    """
    torch_runner = OnCpu(network, num_threads)
    if choice == "plain" or (choice == "auto" and not (has_openvino() and network.dtype in HINTS)):
        return torch_runner, ""
    cause: Exception | None = None
    try:
        runner = OnOpenVino(network, num_threads)
        doubt = _find_doubt(runner, torch_runner, state)
    except Exception as error:  # of any kind: torch works all the same
        logging.getLogger(__name__).info("OpenVINO raised an error in its trial", exc_info=True)
        cause, doubt = error, f"it raised {type(error).__name__}: {describe_error(error, 200)}"
    if not doubt:
        return (runner if choice == "fast" or _is_faster(runner, torch_runner) else torch_runner), ""
    if choice == "fast":
        raise UserError(f"--runner fast: OpenVINO was not trusted: {doubt}; use --runner auto or plain.") from cause
    return torch_runner, f"OpenVINO was not trusted: {doubt}"


def _find_doubt(runner: OnOpenVino, torch_runner: OnCpu, state: Mapping[str, Tensor]) -> str:
    """What is wrong with the answers of OpenVINO, or ""."""
    image_NHWC = make_probe_images()
    torchs_NK = torch_runner(image_NHWC)
    many_NHWC = repeat(image_NHWC, IMAGES_IN_CACHE * runner.num_threads + 1)  # on all threads, and a part of a batch
    answer_NK = runner(many_NHWC)
    expected_NK = repeat(torchs_NK, len(many_NHWC))
    doubt = find_difference(answer_NK, expected_NK, expected_NK, state, LEAST_COSINE[runner.network.dtype])
    if not doubt and not np.array_equal(answer_NK, runner(many_NHWC), equal_nan=True):
        return "the same images got other answers the second time"
    return doubt


def _is_faster(runner: OnOpenVino, torch_runner: OnCpu) -> bool:
    image_NHWC = repeat(make_probe_images(), IMAGES_IN_CACHE * runner.num_threads)
    seconds: dict[str, list[float]] = {runner.name: [], torch_runner.name: []}
    for _ in range(ROUNDS):
        for run in (runner, torch_runner):
            begun = time.perf_counter()
            run(image_NHWC)
            seconds[run.name].append(time.perf_counter() - begun)
    return min(seconds[runner.name]) < min(seconds[torch_runner.name])
