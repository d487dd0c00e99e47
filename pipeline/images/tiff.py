"""Pillow's TIFF plugin, changed in two ways: it says why a file is refused, and it does not turn the pixels.

In: a TIFF, as a file for Pillow. Out: its first page as an image of Pillow's, with the pixels as stored; `Rejected` if
it cannot be opened.
Not here: decoding (`pillow.py`).
"""

from __future__ import annotations

import io

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from pipeline.images.room import Rejected

WIDTH, HEIGHT = 256, 257
OPTIONAL = ("lzma", "zstd", "webp")  # compressions that not every build of libtiff has
PARTS = ((273, 279), (324, 325))  # tags: offsets and lengths of strips; offsets and lengths of tiles


class Tiff(TiffImageFile):
    """A TIFF. Pillow's own class turns the pixels by EXIF while it loads them, and fails if the EXIF is broken."""

    def _setup(self) -> None:
        try:
            super()._setup()
        except Exception as error:  # Pillow raises a dozen kinds of errors for broken tags
            size = self.tag_v2.get(WIDTH), self.tag_v2.get(HEIGHT)
            if self.is_cut():
                raise Rejected("truncated", *size) from error
            if all(isinstance(side, int) for side in size):  # it is a TIFF
                has_no_decoder = isinstance(error, KeyError | SyntaxError | OSError)  # for its samples or compression
                raise Rejected("unsupported" if has_no_decoder else "corrupt", *size) from error
            raise

    def load_end(self) -> None:
        """Set the size to that of the loaded pixels: Pillow has exchanged width and height for EXIF."""
        self._size = self.im.size

    def is_cut(self) -> bool:
        """Whether the file ends before the end of the first page: of its directory, its data or its pixels."""
        assert isinstance(self._fp, io.BytesIO)
        first, length = self._frame_pos[0], len(self._fp.getbuffer())
        if self.tag_v2.next == first:  # Pillow sets `next` to the next page once it has read the whole directory
            return first < 2**31  # a larger number is no offset
        return any(start + size > length for starts, sizes in PARTS for start, size in zip(
            _numbers(self.tag_v2.get(starts)), _numbers(self.tag_v2.get(sizes)), strict=False))

    def has_decoder(self) -> bool:
        """Whether there is a decoder for the compression. TIFF's old JPEG compression of 1992 counts as none."""
        if self._compression in OPTIONAL:
            try:
                Image.new("L", (8, 8)).save(io.BytesIO(), "TIFF", compression=self._compression)
            except OSError:
                return False
        return self._compression != "tiff_jpeg"


def _numbers(value: object) -> list[int]:
    return [item for item in (value if isinstance(value, tuple) else (value,)) if isinstance(item, int)]
