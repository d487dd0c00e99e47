"""What `decode` makes of an image of any size is what Pillow and timm make of it."""

import io
import random
import time

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.pictures import CAT, PHOTOS, assert_decodes_to, assert_same, run, save


@pytest.mark.parametrize("name", PHOTOS)
@pytest.mark.parametrize("subsampling", [0, 2])
def test_photographs_equal_timm(name: str, subsampling: int) -> None:
    encoded = save(Image.fromarray(PHOTOS[name]), "JPEG", quality=90, subsampling=subsampling)
    assert_decodes_to(encoded, Image.open(io.BytesIO(encoded)))


def test_every_size_equals_timm() -> None:
    rng = random.Random(0)
    sizes = [(rng.randrange(40, 900), rng.randrange(40, 900)) for _ in range(20)]
    # Rows read, or columns, as many as rows, or columns, asked of torch: it would take that for nothing to do.
    sizes += [(500, 337), (320, 685), (338, 500), (341, 341), (341, 500), (299, 299), (683, 342), (320, 320)]
    sizes += [(320 + step, 320) for step in range(-9, 9, 3)] + [(1, 1), (2, 9)]
    for size in sizes:
        image = CAT.resize(size)
        _, pixels_HWC = run(save(image, "BMP"))
        assert_same(pixels_HWC, image)


@pytest.mark.parametrize("size", [(900, 100), (100, 900), (2000, 60), (45, 1000)])
def test_long_images_equal_timm(size: tuple[int, int]) -> None:
    image = CAT.resize(size)
    decoded, pixels_HWC = run(save(image, "PNG"))
    assert decoded == (*size, None)
    assert_same(pixels_HWC, image, mean=0.2)  # Pillow chooses which of rows and columns to resize, and round, first


@pytest.mark.parametrize("size", [(3000, 2), (2, 3000), (65500, 1), (1, 65500), (60000, 300)])
def test_extreme_sides_cost_no_more_than_their_pixels(size: tuple[int, int]) -> None:
    """Resized whole, 3000 x 2 would be 511,500 x 341."""
    image = CAT.resize(size)
    start = time.process_time()
    decoded, pixels_HWC = run(save(image, "JPEG"))
    assert decoded == (*size, None)
    assert pixels_HWC.any()
    assert time.process_time() - start < 5
    (left, right), (top, bottom) = [(max(side // 2 - 2, 0), min(side // 2 + 3, side)) for side in size]
    middle_HWC = np.asarray(image)[top:bottom, left:right]
    assert np.abs(pixels_HWC.mean((0, 1)) - middle_HWC.mean((0, 1))).max() < 60


def test_reduced_decoding_moves_pixels_little() -> None:
    image = Image.fromarray(np.tile(PHOTOS["astronaut"], (6, 6, 1)))  # 3072 x 3072
    encoded = save(image, "JPEG", quality=90)
    _, full_HWC = run(encoded, reduce=False)
    assert_same(full_HWC, Image.open(io.BytesIO(encoded)))
    _, reduced_HWC = run(encoded)
    assert_same(reduced_HWC, Image.open(io.BytesIO(encoded)), mean=1.5, most=24)
    assert not np.array_equal(full_HWC, reduced_HWC)


@pytest.mark.parametrize("size", [(2729, 2801), (3001, 2999), (4003, 2730)])
def test_reduced_decoding_keeps_the_place_of_odd_sizes(size: tuple[int, int]) -> None:
    encoded = save(CAT.resize(size), "JPEG", quality=95)
    decoded, pixels_HWC = run(encoded)
    assert decoded == (*size, None)
    assert_same(pixels_HWC, CAT.resize(size), mean=0.5, most=8)


def test_one_torch_thread_or_two_are_the_same() -> None:
    encoded = save(CAT, "PNG")
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        _, one_HWC = run(encoded)
        torch.set_num_threads(2)
        _, two_HWC = run(encoded)
    finally:
        torch.set_num_threads(threads)
    assert np.array_equal(one_HWC, two_HWC)
