"""The pixels of a decoded image -> the pixels for the network, written into a slot of the batch.

In: a `Picture` from a decoder: not yet upright, perhaps at a reduced scale.
Out: the slot, uint8 RGB [299, 299, 3]: upright, shortest side resized to 341 (bicubic, antialias), central 299 x 299.
This is timm's evaluation preprocessing.
Not here: decoding; normalising (`runners/folded.py`).
"""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from pipeline.model.spec import INPUT_SIZE, RESIZE_SIDE

# EXIF orientation -> the steps that turn stored pixels upright: transpose, then reverse rows, reverse columns.
UPRIGHT = {1: (False, False, False), 2: (False, False, True), 3: (False, True, True), 4: (False, True, False),
           5: (True, False, False), 6: (True, False, True), 7: (True, True, True), 8: (True, True, False)}
# Times the shortest side. Pillow resizes longer images: it is slower for a pixel, but resizes only the crop.
LONG = 8

# torch's `interpolate` calls this; it cannot pass the scale on its own.
_resize = torch.ops.aten._upsample_bicubic2d_aa.default


class Picture(NamedTuple):
    """A decoded image.

    Attributes:
        pixels_HWC: uint8 RGB, at 1/factor of height x width, not yet upright.
        height, width: of the image at full scale, in the orientation of `pixels_HWC`.
        orientation: EXIF's, 1 to 8, of `pixels_HWC`.
        stored: width and height in the file. They differ from `width` and `height` for a TIFF that is turned already.
    """

    pixels_HWC: np.ndarray
    height: int
    width: int
    factor: int
    orientation: int
    stored: tuple[int, int]


def preprocess(picture: Picture, slot_HWC: np.ndarray) -> None:
    """Write the picture's crop into `slot_HWC`. Only the crop is resized, before it is turned upright."""
    pixels_HWC, height, width, factor, orientation, _ = picture
    shortest = min(height, width)
    out_height, out_width = RESIZE_SIDE * height // shortest, RESIZE_SIDE * width // shortest
    top, left = round((out_height - INPUT_SIZE) / 2), round((out_width - INPUT_SIZE) / 2)
    transpose, flip_rows, flip_columns = UPRIGHT[orientation]
    if flip_columns if transpose else flip_rows:  # an odd margin has its extra pixel on the other side
        top = out_height - INPUT_SIZE - top
    if flip_rows if transpose else flip_columns:
        left = out_width - INPUT_SIZE - left
    bottom, right = top + INPUT_SIZE, left + INPUT_SIZE
    step_y, step_x = height / factor / out_height, width / factor / out_width  # decoded pixels for one output pixel
    if max(height, width) > LONG * shortest:
        box = (left * step_x, top * step_y, right * step_x, bottom * step_y)
        image = Image.fromarray(pixels_HWC)
        crop_HWC = np.asarray(image.resize((INPUT_SIZE, INPUT_SIZE), Image.Resampling.BICUBIC, box))
    else:
        # The kernel reaches 2 output pixels beyond the crop. Rows further below are not needed.
        num_rows = ceil(bottom * step_y + 2 * max(step_y, 1)) + 1
        rows, columns, channels = pixels_HWC[:num_rows].shape
        # With N = 1 the stride of N may be any number. With this one torch keeps channels last (its issue 68430).
        strides = (rows * columns * channels, 1, columns * channels, channels)
        pixels_NCHW = torch.from_numpy(pixels_HWC).as_strided((1, channels, rows, columns), strides)
        # torch skips a pass if input and output have the same size, whatever the scale. One more line avoids that.
        size = [bottom + (bottom == rows), right + (right == columns)]
        resized_NCHW = _resize(pixels_NCHW, size, False, 1 / step_y, 1 / step_x)
        crop_HWC = resized_NCHW.numpy()[0].transpose(1, 2, 0)[top:bottom, left:right]
    slot_HWC[...] = turn_upright(crop_HWC, orientation)


def turn_upright(pixels_HWC: np.ndarray, orientation: int) -> np.ndarray:
    """A view of the pixels, turned upright from EXIF's `orientation`, 1 to 8."""
    transpose, flip_rows, flip_columns = UPRIGHT[orientation]
    if transpose:
        pixels_HWC = pixels_HWC.transpose(1, 0, 2)
    return pixels_HWC[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]
