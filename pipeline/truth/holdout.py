"""Which images are held out to judge a model by, and how sure a share of them is.

In: the SHA-256 of an image; counts. Out: whether the image is held out; the interval of a share.
"""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist

Z = NormalDist().inv_cdf(0.975)  # standard deviations on both sides that hold 95 %


def is_held_out(sha256: str, share: float, salt: int = 0) -> bool:
    """Whether an image is held out. Equal digests have equal answers, so copies of an image stay together.

    Args:
        sha256: 64 hexadecimal digits.
        share: the share of all digests that is held out, 0 to 1.
        salt: 0 to 7; another salt chooses other digests.
    """
    return int(sha256[8 * salt:8 * salt + 8], 16) < share * 2**32


def wilson_interval(num_hits: int, num_images: int) -> tuple[float, float]:
    """The 95 % interval of the share `num_hits` / `num_images`, by Wilson's formula; from 0 to 1 without images."""
    if not num_images:
        return 0.0, 1.0
    share, scale = num_hits / num_images, 1 + Z**2 / num_images
    centre = (share + Z**2 / (2 * num_images)) / scale
    spread = Z * sqrt(share * (1 - share) / num_images + Z**2 / (4 * num_images**2)) / scale
    return max(0.0, centre - spread), min(1.0, centre + spread)


def share_interval(share: float, num_images: int) -> tuple[float, float]:
    """Wilson's interval of a share that was found in `num_images` images, such as an accuracy."""
    return wilson_interval(round(share * num_images), num_images)
