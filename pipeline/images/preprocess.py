"""The pixels of a decoded image -> the network's, in the place where the batch wants them.

In: a `Picture` as the decoder left it: not upright, perhaps at a reduced scale. Out: the slot, uint8 RGB [299, 299, 3]:
upright, shortest side resized to 341 (bicubic, antialias), centre 299 kept: timm's evaluation preprocessing.
Not here: decoding, and normalising (`labeller.py`).
"""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from pipeline.model.spec import INPUT_SIZE, RESIZE_SIDE

# EXIF orientation -> how stored pixels become upright: transpose; then reverse the rows, the columns.
UPRIGHT = {1: (False, False, False), 2: (False, False, True), 3: (False, True, True), 4: (False, True, False),
           5: (True, False, False), 6: (True, False, True), 7: (True, True, True), 8: (True, True, False)}
LONG = 8  # times the shortest side; a longer image is resized by Pillow, slower a pixel but only those of the crop

_resize = torch.ops.aten._upsample_bicubic2d_aa.default  # what torch's `interpolate` calls, and takes the scale apart


class Picture(NamedTuple):
    """A decoded image."""

    pixels_HWC: np.ndarray  # uint8 RGB, at 1/factor of height x width, still to be turned upright
    height: int
    width: int
    factor: int
    orientation: int
    stored: tuple[int, int]  # width, height as the file has them: Pillow turns a TIFF upright by itself


def preprocess(picture: Picture, slot_HWC: np.ndarray) -> None:
    """Shortest side to RESIZE_SIDE, centre INPUT_SIZE, upright: the crop is found and resized in pixels as stored."""
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
    step_y, step_x = height / factor / out_height, width / factor / out_width  # decoded pixels to one of the output
    if max(height, width) > LONG * shortest:
        box = (left * step_x, top * step_y, right * step_x, bottom * step_y)
        whole = Image.fromarray(pixels_HWC)
        crop_HWC = np.asarray(whole.resize((INPUT_SIZE, INPUT_SIZE), Image.Resampling.BICUBIC, box))
    else:  # of what lies below and right of the crop, only the kernel's reach of 2 pixels of the output is read
        num_rows = ceil(bottom * step_y + 2 * max(step_y, 1)) + 1
        rows, columns, channels = pixels_HWC[:num_rows].shape
        # The stride of N is free where N is 1; this one makes torch keep channels last (its issue 68430).
        strides = (rows * columns * channels, 1, columns * channels, channels)
        pixels_NCHW = torch.from_numpy(pixels_HWC).as_strided((1, channels, rows, columns), strides)
        # Where input and output are of one size torch skips the pass, whatever the scale: ask for one line more.
        size = [bottom + (bottom == rows), right + (right == columns)]
        resized_NCHW = _resize(pixels_NCHW, size, False, 1 / step_y, 1 / step_x)
        crop_HWC = resized_NCHW.numpy()[0].transpose(1, 2, 0)[top:bottom, left:right]
    slot_HWC[...] = upright(crop_HWC, orientation)


def upright(pixels_HWC: np.ndarray, orientation: int) -> np.ndarray:
    """A view of the pixels turned as EXIF's `orientation`, 1 to 8, asks."""
    transpose, flip_rows, flip_columns = UPRIGHT[orientation]
    if transpose:
        pixels_HWC = pixels_HWC.transpose(1, 0, 2)
    return pixels_HWC[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]
