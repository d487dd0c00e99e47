"""The reading stage, on tars on disk: every sample in one block, the end known, a broken shard never whole."""

import hashlib
import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline.images.decode import decode
from pipeline.inputs.read import Inputs
from pipeline.model.spec import INPUT_SIZE
from pipeline.stages.batch import BLOCK, IMAGE_BYTES, pixels_of, samples_of, segments_of
from pipeline.stages.pixel_block import WASTE
from pipeline.stages.read import Reader
from tests.support.tars import make_tar

LIMITS = Inputs(None, None, 10**6, 100)


def png(level: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40 + level, 30), (level, level, level)).save(file, "PNG")
    return file.getvalue()


def table_of(folder, names: list[str]) -> pa.Table:
    return pa.table({"number": pa.array(range(len(names)), pa.int32()), "shard": names,
                     "uri": [str(folder / name) for name in names]})


def read(tmp_path, data: bytes, block_size: int = 4) -> list[pa.Table]:
    (tmp_path / "a.tar").write_bytes(data)
    return list(Reader(block_size, block_size, 2, 10**6, LIMITS)(table_of(tmp_path, ["a.tar"])))


def read_many(tmp_path, numbers: list[int], batch_size: int, block_size: int) -> list[pa.Table]:
    """The blocks of one call over shards of so many images; image i of shard s is of grey level s + i."""
    names = [f"{at}.tar" for at in range(len(numbers))]
    for at, (name, number) in enumerate(zip(names, numbers, strict=True)):
        (tmp_path / name).write_bytes(make_tar(*((f"{n}.png", png((at + n) % 200)) for n in range(number))))
    return list(Reader(batch_size, block_size, 2, 10**6, Inputs(None, None, 10**6, 10**6))(table_of(tmp_path, names)))


def test_the_sizes_are_the_networks():
    assert INPUT_SIZE == 299 and IMAGE_BYTES == 3 * 299**2


@pytest.mark.parametrize("num_samples", [1, 3, 4, 5, 8, 9, 13])
def test_every_sample_is_in_one_block_and_the_last_is_the_end(tmp_path, num_samples):
    blocks = read(tmp_path, make_tar(*((f"{n}.png", png(n)) for n in range(num_samples))))
    assert all(block.schema.equals(BLOCK) and block.num_rows == 1 for block in blocks)
    segments = [segment for block in blocks for segment in segments_of(block)]
    assert [segment["end"] for segment in segments] == [False] * (len(blocks) - 1) + [True]
    position = 0
    for block, segment in zip(blocks, segments, strict=True):
        samples, pixels = samples_of(block).to_pylist(), pixels_of(block)
        assert segment["first"] == position and segment["num_images"] == len(samples) == len(pixels) <= 4
        for sample, image_HWC in zip(samples, pixels, strict=True):
            assert sample == {"shard": "a.tar", "index": position, "key": str(position), "width": 40 + position,
                              "height": 30, "sha256": hashlib.sha256(png(position)).hexdigest(), "error": None}
            assert (image_HWC == position).all()
            position += 1
    assert position == num_samples


@pytest.mark.parametrize("numbers", [[1], [0, 0], [3, 0, 5], [10, 1, 1, 30, 2], [7] * 20, [25, 24, 1], [200, 3]])
@pytest.mark.parametrize(("batch_size", "block_size"), [(4, 16), (8, 24), (1, 1)])
def test_shards_share_blocks_and_each_image_is_once_in_its_own_shard(tmp_path, numbers, batch_size, block_size):
    found: dict[int, list[int]] = {number: [] for number in range(len(numbers))}
    ended = []
    for block in read_many(tmp_path, numbers, batch_size, block_size):
        pixels, samples, at = pixels_of(block), samples_of(block), 0
        assert len(pixels) == samples.num_rows <= block_size
        for segment in segments_of(block):
            part = samples.slice(at, segment["num_images"])
            assert set(part["shard"].to_pylist()) <= {segment["shard"]} and segment["failure"] is None
            assert part["index"].to_pylist() == list(range(segment["first"], segment["first"] + segment["num_images"]))
            assert pixels[at:at + segment["num_images"], 0, 0, 0].tolist() == [
                (segment["number"] + index) % 200 for index in part["index"].to_pylist()]
            assert segment["num_bytes"] > 0 or not segment["num_images"]
            found[segment["number"]] += part["index"].to_pylist()
            ended += [segment["number"]] * segment["end"]
            at += segment["num_images"]
        assert at == len(pixels)
    assert found == {at: list(range(number)) for at, number in enumerate(numbers)}
    assert ended == list(range(len(numbers)))


def slots(num_images: int, batch_size: int) -> int:
    return -(-num_images // batch_size) * batch_size


@pytest.mark.slow
def test_batches_of_small_shards_are_full(tmp_path):
    """Shards of 90 images filled a batch of 256 to 35 %."""
    blocks = read_many(tmp_path, [90] * 108, 256, 2048)
    numbers = [len(pixels_of(block)) for block in blocks]
    fill = sum(numbers) / sum(slots(number, 256) for number in numbers)
    print(f"mean fill of a batch of 256: {fill:.3f}, blocks of {numbers} images")
    assert sum(numbers) == 9720 and fill >= 0.95
    assert all(number / slots(number, 256) >= 1 - WASTE for number in numbers[:-1])
    whole = [segment["num_images"] == 90 for block in blocks for segment in segments_of(block)]
    assert all(whole), "a shard of 90 images is cut in two"


def test_a_shard_of_a_thousand_images_is_one_block(tmp_path):
    blocks = read_many(tmp_path, [1000, 1000, 1000], 256, 2048)
    assert all(segment["num_images"] == 1000 and segment["end"] for block in blocks for segment in segments_of(block))


def test_a_broken_shard_does_not_take_its_neighbours_along(tmp_path):
    whole = make_tar(*((f"{n}.png", png(n)) for n in range(5)))
    for name, data in {"a.tar": whole, "b.tar": whole[:3 * 1024 + 600], "c.tar": whole}.items():
        (tmp_path / name).write_bytes(data)
    block, = Reader(16, 64, 2, 10**6, LIMITS)(table_of(tmp_path, ["a.tar", "b.tar", "absent.tar", "c.tar"]))
    a, b, absent, c = segments_of(block)
    assert [segment["end"] for segment in (a, b, absent, c)] == [True, False, False, True]
    assert "cut" in b["failure"] and absent["failure"].startswith("No such file or directory: ")
    assert a["failure"] is None is c["failure"]
    assert samples_of(block)["error"].to_pylist()[:5] == [None] * 5
    assert pixels_of(block)[-5:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]


def test_a_rejected_image_keeps_its_place(tmp_path):
    batch, = read(tmp_path, make_tar(("a.png", png(1)), ("b.jpg", b""), ("c.png", png(3)[:-30]), ("d.png", png(4))))
    assert samples_of(batch)["error"].to_pylist() == [None, "empty", "truncated", None]
    assert np.array_equal(pixels_of(batch)[:, 0, 0, 0], [1, 0, 0, 4])


def test_reduced_decoding_can_be_switched_off(tmp_path):
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (2800, 2800, 3), np.uint8)
    Image.fromarray(noise).save(file, "JPEG", quality=70)
    (tmp_path / "a.tar").write_bytes(make_tar(("a.jpg", file.getvalue())))
    shards = table_of(tmp_path, ["a.tar"])
    fast, exact = (pixels_of(next(iter(Reader(1, 1, 1, 10**9, Inputs(None, None, 10**9, 1), reduce)(shards))))
                   for reduce in (True, False))
    whole, slot = np.empty((2, 299, 299, 3), np.uint8)
    decode(file.getvalue(), whole, max_pixels=10**9, max_bytes=10**9, reduce=False)
    decode(file.getvalue(), slot, max_pixels=10**9, max_bytes=10**9)
    assert np.array_equal(exact[0], whole) and np.array_equal(fast[0], slot) and not np.array_equal(whole, slot)


def test_memory_is_used_again_only_when_nobody_holds_it(tmp_path):
    (tmp_path / "a.tar").write_bytes(make_tar(*((f"{n}.png", png(n)) for n in range(40))))
    reader = Reader(4, 4, 2, 10**6, LIMITS)
    shards = table_of(tmp_path, ["a.tar"])
    held = [pixels_of(batch) for batch in reader(shards)]
    assert np.array_equal(np.concatenate(held)[:, 0, 0, 0], np.arange(40)) and len(reader.memory.free) == 0
    del held
    assert len(reader.memory.free) == 10
    for at, batch in enumerate(reader(shards)):
        assert pixels_of(batch)[:, 0, 0, 0].tolist() == list(range(4 * at, 4 * at + 4))
    del batch
    assert len(reader.memory.free) == 10


def test_a_shard_without_images_is_one_empty_segment(tmp_path):
    block, = read(tmp_path, make_tar(("readme.txt", b"none")))
    segment, = segments_of(block)
    assert segment["end"] and segment["failure"] is None
    assert samples_of(block).num_rows == 0 and pixels_of(block).shape == (0, 299, 299, 3)


def test_a_cut_shard_never_ends(tmp_path):
    data = make_tar(*((f"{n}.png", png(n)) for n in range(20)))
    segments = [segment for block in read(tmp_path, data[:19 * 1024 + 600]) for segment in segments_of(block)]
    assert len(segments) > 1 and not any(segment["end"] for segment in segments)
    assert segments[-1]["failure"].startswith("it ends inside '19.png'")


def test_a_vanished_shard_is_a_failure():
    block, = Reader(4, 4, 1, 10, LIMITS)(pa.table({"number": [0], "shard": ["x.tar"], "uri": ["/absent/x.tar"]}))
    assert segments_of(block)[0]["failure"].startswith("No such file or directory: ")


def test_a_shard_of_too_many_images_is_a_failure(tmp_path):
    last = segments_of(read(tmp_path, make_tar(*((f"{n}.png", png(n)) for n in range(101))))[-1])[-1]
    assert "more than 100 images" in last["failure"] and not last["end"]
    assert segments_of(read(tmp_path, make_tar(*((f"{n}.png", png(n)) for n in range(100))))[-1])[-1]["end"]


@pytest.mark.parametrize(("error", "retryable"), [(MemoryError("of 300 MB"), True), (TimeoutError("slow"), True),
                                                  (PermissionError("no"), False), (ValueError("odd"), False)])
def test_what_may_pass_is_worth_another_attempt(tmp_path, monkeypatch, error, retryable):
    def fail(*_, **__):
        raise error
    monkeypatch.setattr("pipeline.stages.decode_pool.decode", fail)
    for block in read(tmp_path, make_tar(*((f"{n}.png", png(n)) for n in range(9)))):
        for segment in segments_of(block):
            told = str(error) if isinstance(error, OSError | MemoryError) else f"ValueError: {error}"
            assert segment["failure"].startswith(told)
            assert segment["retryable"] == retryable
            assert ("test_read.py" in segment["failure"]) == isinstance(error, ValueError)
