"""Pillow's TIFF plugin, which is told what to do where it refuses a file, and does not turn it.

In: a TIFF, as a file for Pillow. Out: its first page as an image of Pillow's, in the pixels as stored; `Rejected` for
one that cannot be opened. Not here: decoding (`with_pillow.py`).
"""

from __future__ import annotations

import io

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from pipeline.images.room import Rejected

WIDTH, HEIGHT = 256, 257
OPTIONAL = ("lzma", "zstd", "webp")  # compressions that not every build of libtiff has
PARTS = ((273, 279), (324, 325))  # the tags of where strips are and how long; of tiles


class Tiff(TiffImageFile):
    """A TIFF. Pillow's own turns the pixels by EXIF while it loads them, and fails if that is broken."""

    def _setup(self) -> None:
        try:
            super()._setup()
        except Exception as error:  # Pillow raises a dozen kinds for what tags may contain
            size = self.tag_v2.get(WIDTH), self.tag_v2.get(HEIGHT)
            if self.is_cut():
                raise Rejected("truncated", *size) from error
            if all(isinstance(side, int) for side in size):  # it is one: of samples or a compression without a decoder?
                known = not isinstance(error, KeyError | SyntaxError | OSError)
                raise Rejected("corrupt" if known else "unsupported", *size) from error
            raise

    def load_end(self) -> None:
        self._size = self.im.size  # Pillow has swapped the sides already

    def is_cut(self) -> bool:
        """Whether the first page's directory, what it refers to, or its pixels lie behind the end of the file."""
        assert isinstance(self._fp, io.BytesIO)
        first, length = self._frame_pos[0], len(self._fp.getbuffer())
        if self.tag_v2.next == first:  # Pillow sets it to the next page once it has read the whole directory
            return first < 2**31  # else it is no offset
        return any(start + size > length for starts, sizes in PARTS for start, size in zip(
            _numbers(self.tag_v2.get(starts)), _numbers(self.tag_v2.get(sizes)), strict=False))


    def is_known(self) -> bool:
        """Whether there is a decoder for its compression; that of 1992 for JPEGs fits only some of the files."""
        if self._compression in OPTIONAL:
            try:
                Image.new("L", (8, 8)).save(io.BytesIO(), "TIFF", compression=self._compression)
            except OSError:
                return False
        return self._compression != "tiff_jpeg"


def _numbers(value: object) -> list[int]:
    return [item for item in (value if isinstance(value, tuple) else (value,)) if isinstance(item, int)]
