"""The reading stage, on a tar on disk: every sample in one batch, the end known, a broken shard never whole."""

import hashlib
import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline.batches import BATCH, samples_of
from pipeline.decode import decode
from pipeline.inputs import Inputs
from pipeline.reader import Reader, pixels_of
from tests.test_shards import make_tar

LIMITS = Inputs(None, None, 10**6, 100)


def png(level: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40 + level, 30), (level, level, level)).save(file, "PNG")
    return file.getvalue()


def read(tmp_path, data: bytes, batch_size: int = 4) -> list[pa.Table]:
    (tmp_path / "a.tar").write_bytes(data)
    reader = Reader(batch_size, 2, 10**6, LIMITS)
    return list(reader(pa.table({"shard": ["a.tar"], "uri": [str(tmp_path / "a.tar")]})))


@pytest.mark.parametrize("num_samples", [1, 3, 4, 5, 8, 9, 13])
def test_every_sample_is_in_one_batch_and_the_last_is_the_end(tmp_path, num_samples):
    batches = read(tmp_path, make_tar(*((f"{n}.png", png(n)) for n in range(num_samples))))
    assert all(batch.schema.equals(BATCH) and batch.num_rows == 1 for batch in batches)
    assert [batch["end"][0].as_py() for batch in batches] == [False] * (len(batches) - 1) + [True]
    position = 0
    for batch in batches:
        samples, pixels = samples_of(batch).to_pylist(), pixels_of(batch)
        assert batch["first"][0].as_py() == position and len(samples) == len(pixels) <= 4
        for sample, image_HWC in zip(samples, pixels, strict=True):
            assert sample == {"shard": "a.tar", "index": position, "key": str(position), "width": 40 + position,
                              "height": 30, "sha256": hashlib.sha256(png(position)).hexdigest(), "error": None}
            assert (image_HWC == position).all()
            position += 1
    assert position == num_samples


def test_a_rejected_image_keeps_its_place(tmp_path):
    batch, = read(tmp_path, make_tar(("a.png", png(1)), ("b.jpg", b""), ("c.png", png(3)[:-30]), ("d.png", png(4))))
    assert samples_of(batch)["error"].to_pylist() == [None, "empty", "truncated", None]
    assert np.array_equal(pixels_of(batch)[:, 0, 0, 0], [1, 0, 0, 4])


def test_reduced_decoding_can_be_switched_off(tmp_path):
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (2800, 2800, 3), np.uint8)
    Image.fromarray(noise).save(file, "JPEG", quality=70)
    (tmp_path / "a.tar").write_bytes(make_tar(("a.jpg", file.getvalue())))
    shards = pa.table({"shard": ["a.tar"], "uri": [str(tmp_path / "a.tar")]})
    fast, exact = (pixels_of(next(iter(Reader(1, 1, 10**9, Inputs(None, None, 10**9, 1), reduce)(shards)))) for reduce in (True, False))
    whole, slot = np.empty((2, 299, 299, 3), np.uint8)
    decode(file.getvalue(), whole, max_pixels=10**9, max_bytes=10**9, reduce=False)
    decode(file.getvalue(), slot, max_pixels=10**9, max_bytes=10**9)
    assert np.array_equal(exact[0], whole) and np.array_equal(fast[0], slot) and not np.array_equal(whole, slot)


def test_memory_is_used_again_only_when_nobody_holds_it(tmp_path):
    (tmp_path / "a.tar").write_bytes(make_tar(*((f"{n}.png", png(n)) for n in range(40))))
    reader = Reader(4, 2, 10**6, LIMITS)
    shards = pa.table({"shard": ["a.tar"], "uri": [str(tmp_path / "a.tar")]})
    held = [pixels_of(batch) for batch in reader(shards)]
    assert np.array_equal(np.concatenate(held)[:, 0, 0, 0], np.arange(40)) and len(reader.free) == 0
    del held
    assert len(reader.free) == 10
    for at, batch in enumerate(reader(shards)):
        assert pixels_of(batch)[:, 0, 0, 0].tolist() == list(range(4 * at, 4 * at + 4))
    del batch
    assert len(reader.free) == 10


def test_a_shard_without_images_is_one_empty_batch(tmp_path):
    batch, = read(tmp_path, make_tar(("readme.txt", b"none")))
    assert batch["end"][0].as_py() and batch["failure"][0].as_py() is None
    assert samples_of(batch).num_rows == 0 and pixels_of(batch).shape == (0, 299, 299, 3)


def test_a_cut_shard_never_ends(tmp_path):
    data = make_tar(*((f"{n}.png", png(n)) for n in range(20)))
    *batches, last = read(tmp_path, data[:19 * 1024 + 600])
    assert batches and not any(batch["end"][0].as_py() for batch in [*batches, last])
    assert last["failure"][0].as_py().startswith("ShardUnreadable: ") and samples_of(last).num_rows == 0


def test_a_vanished_shard_is_a_failure():
    batch, = Reader(4, 1, 10, LIMITS)(pa.table({"shard": ["x.tar"], "uri": ["/absent/x.tar"]}))
    assert batch["failure"][0].as_py().startswith("FileNotFoundError")


def test_a_shard_of_too_many_images_is_a_failure(tmp_path):
    *_, last = read(tmp_path, make_tar(*((f"{n}.png", png(n)) for n in range(101))))
    assert "more than 100 images" in last["failure"][0].as_py() and not last["end"][0].as_py()
    assert read(tmp_path, make_tar(*((f"{n}.png", png(n)) for n in range(100))))[-1]["end"][0].as_py()


@pytest.mark.parametrize(("error", "passing"), [(MemoryError("of 300 MB"), True), (TimeoutError("slow"), True),
                                                (PermissionError("no"), False), (ValueError("odd"), False)])
def test_what_may_pass_is_worth_another_attempt(tmp_path, monkeypatch, error, passing):
    def fail(*_, **__):
        raise error
    monkeypatch.setattr("pipeline.reader.decode", fail)
    *_, last = read(tmp_path, make_tar(*((f"{n}.png", png(n)) for n in range(9))))
    assert last["failure"][0].as_py() == f"{type(error).__name__}: {error}" and last["passing"][0].as_py() == passing
    assert not last["end"][0].as_py()
