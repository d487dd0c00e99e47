"""EXIF and XMP -> the orientation of an image, as Pillow's `ImageOps.exif_transpose` finds it.

In: a file that Pillow has opened, or the `info` that it would have. Out: 1 to 8 as EXIF numbers them. Broken EXIF, and
what Pillow cannot read, is 1: upright. Not here: finding the EXIF in a file (`jpeg.py`, `png.py`), turning pixels.
"""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Mapping

from PIL import Image

from pipeline.images.preprocess import UPRIGHT

ORIENTATION = 274

_QUIET = ("ignore", None, Warning, re.compile(r"PIL\."), 0)  # as `filterwarnings` lists it
_lock = threading.Lock()


def orientation_of(image: Image.Image) -> int:
    """The orientation of a file that Pillow has opened; a TIFF must not be loaded yet, for then its tags are gone."""
    silence_pillow()
    try:
        value = image.getexif().get(ORIENTATION, 1)
        return int(value) if value in UPRIGHT else 1
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001  # Pillow raises a dozen kinds for what EXIF may contain
        return 1


def orientation_in(info: Mapping[str | tuple[int, int], object]) -> int:
    """The same of an image of which only Pillow's `info` is known: its keys `exif`, `xmp` and others."""
    if not info:
        return 1
    image = Image.Image()
    image.info = dict(info)
    return orientation_of(image)


def silence_pillow() -> None:
    """Let Pillow warn of nothing, whatever filters are there."""
    with _lock:  # `warnings.catch_warnings` is not thread safe; one filter, for PIL's own modules, left in place, is
        if warnings.filters[:1] != [_QUIET]:  # the first use, or somebody has put other filters before it
            warnings.filterwarnings("ignore", module=r"PIL\.")
