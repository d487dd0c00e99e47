"""The memory that one image may take: a limit for its pixels, and a turn for each large image.

In: sizes from headers. Out: nothing, or `Rejected`.
Not here: reading headers.
"""

from __future__ import annotations

import threading
from typing import Self

from pipeline.memory import give_freed_memory_back

# Pixels. Images with more pixels in memory are decoded one at a time: Pillow may take ten bytes for a pixel.
LARGE = 2**24

_one_large_image = threading.Lock()


class Rejected(Exception):
    """An image gets no label. `reason`: a key of `decode.REASONS`; `width`, `height`: as stored, None if unknown."""

    def __init__(self, reason: str, width: int | None = None, height: int | None = None) -> None:
        super().__init__(reason)
        self.reason, self.width, self.height = reason, width, height


class Room:
    """Lets one image of at most `max_pixels` be decoded. A large image keeps its turn until the context is left."""

    def __init__(self, max_pixels: int) -> None:
        self.max_pixels = max_pixels
        self.has_turn = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.has_turn:
            give_freed_memory_back()
            _one_large_image.release()

    def take(self, width: int, height: int, num_in_memory: int | None = None) -> None:
        """Wait for the turn of an image of this size.

        Args:
            num_in_memory: pixels in memory at a time. None: all of them. A JPEG may be decoded at a smaller scale.

        Raises:
            Rejected: the image is too large, or has no pixels.
        """
        if width * height > self.max_pixels or not width * height:
            raise Rejected("too_large" if width * height else "corrupt", width, height)
        if (width * height if num_in_memory is None else num_in_memory) > LARGE and not self.has_turn:
            _one_large_image.acquire()
            self.has_turn = True
