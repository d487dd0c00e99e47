"""What one image may take: its pixels, and its turn if it is large; and how a decoder says that it rejects one.

In: sizes from headers. Out: nothing, or `Rejected`. Not here: reading headers.
"""

from __future__ import annotations

import threading
from typing import Self

from pipeline.memory import give_freed_memory_back

LARGE = 2**24  # pixels; images that hold more in memory are decoded one at a time: Pillow may take ten bytes a pixel

_large = threading.Lock()


class Rejected(Exception):
    """An image that gets no label: a key of `decode.REASONS`, and width and height as stored, None where unknown."""

    def __init__(self, reason: str, width: int | None = None, height: int | None = None) -> None:
        super().__init__(reason)
        self.reason, self.width, self.height = reason, width, height


class Room:
    """The pixels an image may have, and its turn if it is large, until the context is left."""

    def __init__(self, max_pixels: int) -> None:
        self.max_pixels = max_pixels
        self.mine = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.mine:
            give_freed_memory_back()
            _large.release()

    def take(self, width: int, height: int, held: int | None = None) -> None:
        """Wait for the turn of an image of this size; `Rejected` if it is too large, or has no pixels.

        `held`: how many of its pixels are in memory at a time, if not all: a JPEG may be decoded at a smaller scale.
        """
        if width * height > self.max_pixels or not width * height:
            raise Rejected("too_large" if width * height else "corrupt", width, height)
        if (width * height if held is None else held) > LARGE and not self.mine:
            _large.acquire()
            self.mine = True
