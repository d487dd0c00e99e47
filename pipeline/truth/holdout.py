"""Images that are held out to judge by: which they are, and how sure a share of them is.

In: the SHA-256 of an image; a share that was found in a number of images. Out: whether it is held out; an interval.
"""

from __future__ import annotations

from math import sqrt


def is_held_out(sha256: str, share: float, salt: int = 0) -> bool:
    """Whether an image is held out: of all digests a share is, always the same ones, so copies stay together."""
    return int(sha256[8 * salt:8 * salt + 8], 16) < share * 2**32


def wilson_interval(share: float, number: int) -> tuple[float, float]:
    """The 95 % interval of a share that was found in `number` images, by Wilson's formula; of none, from 0 to 1."""
    if not number:
        return 0.0, 1.0
    z = 1.96
    centre, spread = share + z**2 / (2 * number), z * sqrt(share * (1 - share) / number + z**2 / (4 * number**2))
    whole = 1 + z**2 / number
    return max(0.0, (centre - spread) / whole), min(1.0, (centre + spread) / whole)
