"""What the rest of the project knows of the network: its sizes, and how its images are prepared. Nothing here imports torch.

The values are those of the weights as they were trained (timm's `inception_v4.tf_in1k`): resize the shortest side to RESIZE_SIDE with
INTERPOLATION and antialias, crop the central INPUT_SIZE square, scale to 0..1, (x - MEAN) / STD.
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
