"""Chooses the runner of a CUDA device: the fast one if it proves itself on a few images, otherwise the plain one.

In: the state dict of the weights; the user's choice. Out: a runner, and the reason if it is not the fast one.
Not here: the runners (`on_cuda.py`).

Captured graphs, fused layers and parallel copies can give wrong answers without an error; it depends on the device, the
driver and the versions. So each process compares the fast runner with the plain runner in fp32 before its first batch.
The memory is filled with NaN for that.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import UserError
from pipeline.model.spec import INPUT_SIZE
from pipeline.runners.folded import UintNetwork
from pipeline.runners.on_cuda import NUM_SLOTS, FastCuda, PlainCuda, choose_batch_size
from pipeline.store.retry import describe_error

# Of embeddings and those in fp32.
LEAST_COSINE = {torch.float32: 0.999999, torch.float16: 0.9999, torch.bfloat16: 0.9999}


def choose_runner(state: Mapping[str, Tensor], dtype: torch.dtype, num_top: int, batch_size: int | None,
                  choice: str) -> tuple[FastCuda | PlainCuda, str]:
    """A runner for the current CUDA device; and one sentence that says why it is the plain runner, or "".

    Args:
        state: the state dict that `weights.load` returns.
        dtype: of the convolutions.
        num_top: classes in an answer, k.
        batch_size: most images at once; None: by the device.
        choice: `auto`; `plain` (without a trial); or `fast` (no other runner).

    Raises:
        UserError: `choice` is `fast`, and the fast runner is not trusted.
        RuntimeError: from torch: the plain runner does not work either.
    """
    batch_size = choose_batch_size(batch_size, torch.cuda.mem_get_info()[0],
                                   torch.cuda.get_device_properties("cuda").multi_processor_count)
    plain = PlainCuda(UintNetwork(state, dtype, num_top), batch_size)
    image_NHWC = make_probe_images()
    half_NK = plain(image_NHWC)  # a device on which nothing works fails here
    if choice == "plain":
        return plain, ""
    exact_NK = half_NK
    if dtype != torch.float32:
        exact_NK = PlainCuda(UintNetwork(state, torch.float32, num_top), batch_size)(image_NHWC)
    cause: Exception | None = None
    fast: FastCuda | None = None
    try:
        fast = FastCuda(UintNetwork(state, dtype, num_top), batch_size)
        doubt = _find_doubt(fast, image_NHWC, exact_NK, half_NK, state)
        fast.forget_spoiler()
    except Exception as error:  # of any kind: the plain runner may work all the same
        logging.getLogger(__name__).info("the fast runner raised an error in its trial", exc_info=True)
        cause, doubt = error, f"it raised {type(error).__name__}: {describe_error(error, 200)}"
    if fast is not None and not doubt:
        torch.cuda.empty_cache()  # free the memory of the trial
        return fast, ""
    if choice == "fast":
        sentence = f"--runner fast: the fast runner was not trusted: {doubt}; use --runner auto or plain."
        raise UserError(sentence) from cause
    cause = fast = None  # both refer to memory of the device
    torch.cuda.empty_cache()
    plain(image_NHWC)  # raises if the error has broken the device for this process
    return plain, f"the fast runner was not trusted: {doubt}"


def make_probe_images() -> np.ndarray:
    """uint8 [4, 299, 299, 3]: noise; black; white; smooth colours with edges and grain, like a photograph."""
    random = np.random.default_rng(0)
    image_NHWC = np.zeros((4, INPUT_SIZE, INPUT_SIZE, 3), np.uint8)
    image_NHWC[0] = random.integers(0, 256, image_NHWC.shape[1:], np.uint8)
    image_NHWC[2] = 255
    y_HW, x_HW = np.mgrid[0:1:INPUT_SIZE * 1j, 0:1:INPUT_SIZE * 1j]
    photo_HWC = np.stack([160 - 90 * y_HW, 90 + 80 * x_HW * y_HW, 60 + 120 * np.sin(3 * x_HW) * y_HW], 2)
    for _ in range(12):  # discs
        centre_y, centre_x, radius = random.uniform(0, 1), random.uniform(0, 1), random.uniform(0.03, 0.25)
        inside_HW = np.hypot(y_HW - centre_y, x_HW - centre_x) < radius
        photo_HWC[inside_HW] = 0.4 * photo_HWC[inside_HW] + 0.6 * random.uniform(0, 255, 3)
    image_NHWC[3] = np.clip(photo_HWC + random.normal(0, 6, photo_HWC.shape), 0, 255)
    return image_NHWC


def _find_doubt(fast: FastCuda, image_NHWC: np.ndarray, exact_NK: np.ndarray, half_NK: np.ndarray,
                state: Mapping[str, Tensor]) -> str:
    """What is wrong with the answers of the fast runner, or "". Each graph is tried full and with padding."""
    spare = torch.full((fast.input_NHWC.nbytes,), 255, dtype=torch.uint8, device="cuda")
    del spare  # the next allocation gets this memory, which is full of NaN
    for size in fast.sizes:
        for number in {size, size // 2 + 1}:
            batch_NHWC, exact_BK, half_BK = (repeat(rows, number) for rows in (image_NHWC, exact_NK, half_NK))
            fast.spoil()
            answer_BK = fast(batch_NHWC)
            fast.spoil()
            again_BK = fast(batch_NHWC)
            doubt = find_difference(answer_BK, exact_BK, half_BK, state, LEAST_COSINE[fast.network.dtype])
            if not doubt and not np.array_equal(answer_BK, again_BK, equal_nan=True):
                doubt = "the same images got other answers the second time"
            if doubt:
                return f"{doubt} ({number} images in a batch of {size})"
    batches = [np.roll(repeat(image_NHWC, fast.batch_size), turn, 0) for turn in range(NUM_SLOTS)]
    alone = [fast(batch_NHWC) for batch_NHWC in batches]
    with ThreadPoolExecutor(NUM_SLOTS) as pool:
        together = list(pool.map(fast, 2 * batches))
    same = np.array_equal(np.stack(together), np.stack(2 * alone), equal_nan=True)
    return "" if same else f"{NUM_SLOTS} batches at a time got other answers than one after the other"


def repeat(rows: np.ndarray, number: int) -> np.ndarray:
    """`number` rows: the given ones, again and again."""
    return rows[np.arange(number) % len(rows)]


def find_difference(fast_NK: np.ndarray, exact_NK: np.ndarray, half_NK: np.ndarray, state: Mapping[str, Tensor],
                    least_cosine: float) -> str:
    """What is wrong with the answers of the fast runner, or "".

    fp16 ends at 65,504, so with some weights an image has no finite answer. That is no fault of the fast runner if the
    plain runner has no finite answer for the same images.

    Args:
        fast_NK: the answers of the fast runner, float32 [N, 2k + 1536].
        exact_NK: the answers of the plain runner in fp32.
        half_NK: the answers of the plain runner in the precision of the fast one.
    """
    finite = [np.isfinite(answer_NK).all(1) for answer_NK in (fast_NK, exact_NK, half_NK)]
    if not np.array_equal(finite[0], finite[2]):
        return "its answers are finite for other images than the plain runner's"
    comparable = finite[0] & finite[1]
    if not comparable.any():
        return "no probe image has a finite answer, so there is nothing to compare"
    fast_NK, exact_NK, half_NK = (answer_NK[comparable] for answer_NK in (fast_NK, exact_NK, half_NK))
    k = (fast_NK.shape[1] - state["last_linear.weight"].shape[1]) // 2
    cosine_N, plain_N = (row_cosines(answer_NK[:, 2 * k:], exact_NK[:, 2 * k:]) for answer_NK in (fast_NK, half_NK))
    allowed_N = np.minimum(least_cosine, 1 - 2 * (1 - plain_N))  # the error of the precision itself is no fault
    if (cosine_N < allowed_N).any():
        return f"an embedding has cosine {cosine_N.min():.6f} with fp32's, the least is {least_cosine}"
    logits_NC = torch.from_numpy(fast_NK[:, 2 * k:].copy()) @ state["last_linear.weight"].float().cpu().T
    prob_NC = (logits_NC + state["last_linear.bias"].float().cpu()).softmax(1)
    label_id_NK = torch.from_numpy(fast_NK[:, :k].astype(np.int64)).clamp(0, prob_NC.shape[1] - 1)
    # Of these classes; of the best classes.
    expected = prob_NC.gather(1, label_id_NK).numpy(), prob_NC.topk(k).values.numpy()
    if not all(np.allclose(fast_NK[:, k:2 * k], prob_NK, rtol=0.02, atol=1e-3) for prob_NK in expected):
        return "its classes are not those of its embeddings"
    return ""


def row_cosines(a_ND: np.ndarray, b_ND: np.ndarray) -> np.ndarray:
    """The cosine of each row of `a_ND` and the same row of `b_ND`, float64 [N]; 1 for two rows of zeros."""
    a_ND, b_ND = a_ND.astype(np.float64), b_ND.astype(np.float64)
    norms_N = np.linalg.norm(a_ND, axis=1) * np.linalg.norm(b_ND, axis=1)
    is_equal_N = ~(a_ND != b_ND).any(1)
    of_zeros_N = is_equal_N.astype(np.float64)
    cosine_N: np.ndarray = np.divide((a_ND * b_ND).sum(1), norms_N, out=of_zeros_N, where=norms_N > 0)
    return cosine_N
