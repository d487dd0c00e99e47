"""The facts about the network that the rest of the project needs: its sizes, and how its images are prepared.

This module does not import torch.

The values are those with which the weights were trained (timm's `inception_v4.tf_in1k`): the shortest side is resized
to RESIZE_SIDE with INTERPOLATION and antialias; the central square of INPUT_SIZE is cropped; pixels are scaled to
0..1; then (x - MEAN) / STD.
"""

from __future__ import annotations

INPUT_SIZE = 299  # pixels
CROP = 0.875  # fraction of the resized side that the crop keeps
RESIZE_SIDE = int(INPUT_SIZE / CROP)  # pixels: floor(299 / 0.875) = 341
INTERPOLATION = "bicubic"
MEAN = 0.5  # of each of the three channels, on 0..1
STD = 0.5

EMBEDDING_SIZE = 1536  # channels of the last block, averaged over its 8 x 8 places
TOP_K = 5  # classes in an answer
NUM_IMAGENET_CLASSES = 1000
# Classes in a file of Google's: ImageNet's and, before them, "background". `weights.load` drops that first class.
NUM_WITH_BACKGROUND = NUM_IMAGENET_CLASSES + 1
