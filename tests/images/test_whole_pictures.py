"""A picture that every decoder shows whole is labelled, whatever stands around it; how large ones share the memory."""

import io
import struct
import threading
import zlib

import numpy as np
import pytest
from PIL import Image

from pipeline.images import room
from pipeline.images.decode import decode, decode_whole
from tests.images.test_exif import chunk, segment
from tests.support.pictures import CAT, SMALL, run, save

JPEG, PROGRESSIVE, PNG = save(SMALL, "JPEG"), save(SMALL, "JPEG", progressive=True), save(SMALL, "PNG")
SCANS = b"\xff\xda\0\x08" * 300  # what looks like scans


def assert_same_as(encoded: bytes, plain: bytes) -> None:
    """Labelled as the plain file is, to the last pixel."""
    decoded, pixels_HWC = run(encoded)
    assert decoded == run(plain)[0]
    assert decoded.error is None
    assert np.array_equal(pixels_HWC, run(plain)[1])


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"quality": 30}])
@pytest.mark.parametrize("junk", [bytes(31), b"\x5a" * 9, b"\xff\0" * 40, b"\xff\0\x12" * 700 + b"\xff\xff\xff",
                                  bytes(70_000)])
def test_bytes_between_the_last_line_and_the_end_of_a_jpeg(junk: bytes, options: dict) -> None:
    encoded = save(SMALL, "JPEG", **options)
    assert_same_as(encoded[:-2] + junk + encoded[-2:], encoded)
    assert run(encoded[:-2] + junk)[0] == (96, 64, "truncated")


def test_such_bytes_do_not_stand_for_lines_that_are_missing() -> None:
    encoded = save(CAT, "JPEG", restart_marker_rows=1)
    restart = encoded.index(b"\xff\xd3")
    assert run(encoded[:restart] + bytes(31) + b"\xff\xd9")[0] == (451, 300, "corrupt")
    assert run(encoded[:restart] + bytes(31) + encoded[restart:])[0] == (451, 300, "corrupt")


@pytest.mark.parametrize("between", [b"\xff" * 3, b"\0\0", b"junk", b"\xff\0", segment(SCANS, 0xFE),
                                     segment(b"\xff\xd9" * 99, 0xE5)])
def test_bytes_between_the_segments_of_a_jpeg(between: bytes) -> None:
    for encoded in (JPEG, PROGRESSIVE, save(SMALL.convert("CMYK"), "JPEG"), save(SMALL.convert("L"), "JPEG")):
        for at in (20, encoded.index(b"\xff\xdb"), encoded.index(b"\xff\xc4"), encoded.index(b"\xff\xda")):
            if encoded[at] == 0xFF:
                assert_same_as(encoded[:at] + between + encoded[at:], encoded)


def test_a_profile_in_parts_that_do_not_fit_is_no_matter() -> None:
    part = segment(b"ICC_PROFILE\0\1\2" + bytes(99), 0xE2)
    assert_same_as(JPEG[:20] + part + JPEG[20:], JPEG)


def test_what_follows_a_progressive_jpeg_is_not_counted() -> None:
    assert_same_as(PROGRESSIVE + SCANS, PROGRESSIVE)
    assert_same_as(PROGRESSIVE + PROGRESSIVE * 30, PROGRESSIVE)
    late = PROGRESSIVE.rindex(b"\xff\xc4")
    assert_same_as(PROGRESSIVE[:late] + segment(SCANS, 0xFE) + PROGRESSIVE[late:], PROGRESSIVE)
    frames = [SMALL.rotate(angle) for angle in range(5)]
    mpo = save(SMALL, "MPO", save_all=True, append_images=frames, progressive=True)
    assert_same_as(mpo, PROGRESSIVE)


@pytest.mark.parametrize("progressive", [True, False])
def test_a_hundred_scans_are_the_most(progressive: bool) -> None:
    if progressive:
        last = PROGRESSIVE.rindex(b"\xff\xda")
        head, scan, num_others = PROGRESSIVE[:last], PROGRESSIVE[last:-2], PROGRESSIVE.count(b"\xff\xda") - 1
    else:  # one scan for each channel, again and again; each is as long as the file says
        at = JPEG.index(b"\xff\xda")
        head, num_others = JPEG[:at], 0
        scan = b"\xff\xda\0\x08\1\1\0\0\x3f\0" + bytes(900)
    if progressive:
        assert run(head + scan * (100 - num_others) + b"\xff\xd9")[0].error == "corrupt"  # the same bits once more
    assert run(head + scan * (101 - num_others) + b"\xff\xd9")[0] == (96, 64, "too_large")


def test_no_number_of_segments_takes_long() -> None:
    began = threading.Event()
    timer = threading.Timer(5, began.set)
    timer.start()
    for encoded in (JPEG[:20] + b"\xff\xfe\0\2" * 3_000_000 + JPEG[20:], JPEG[:2] + b"\xff" * 2**24 + JPEG[2:],
                    JPEG[:20] + b"\xff\0" * 2**23 + JPEG[20:], PROGRESSIVE[:-2] + b"\xff\xfe\0\2" * 3_000_000):
        assert run(encoded)[0].error in (None, "too_large", "truncated")
    assert not began.is_set()
    timer.cancel()


def lossless(image: Image.Image) -> bytes:
    """A JPEG of process 14 (ITU T.81, annex H): samples from their left neighbours, lengths in 4 bits."""
    samples_HWC = np.asarray(image).reshape(image.height, image.width, -1).astype(int)
    height, width, channels = samples_HWC.shape
    before_HWC = np.empty_like(samples_HWC)
    before_HWC[:, 1:], before_HWC[1:, 0], before_HWC[0, 0] = samples_HWC[:, :-1], samples_HWC[:-1, 0], 128
    bits = []
    for difference in (samples_HWC - before_HWC).ravel().tolist():
        size = abs(difference).bit_length()
        bits.append(f"{size:04b}" + (f"{difference + (2**size - 1) * (difference < 0):0{size}b}" if size else ""))
    stream = "".join(bits)
    stream += "1" * (-len(stream) % 8)
    scan = int(stream, 2).to_bytes(len(stream) // 8).replace(b"\xff", b"\xff\0")
    names = b"G" if channels == 1 else b"RGB"
    return (b"\xff\xd8" + segment(bytes([0, 0, 0, 0, 10]) + bytes(12) + bytes(range(10)), 0xC4)
            + segment(struct.pack(">BHHB", 8, height, width, channels) + b"".join(
                bytes([name, 0x11, 0]) for name in names), 0xC3)
            + segment(bytes([channels]) + b"".join(bytes([name, 0]) for name in names) + b"\1\0\0", 0xDA) + scan
            + b"\xff\xd9")


@pytest.mark.parametrize(("mode", "size"), [("L", (96, 64)), ("RGB", (96, 64)), ("L", (2730, 2729))])
def test_a_lossless_jpeg(mode: str, size: tuple[int, int]) -> None:
    image = SMALL.convert(mode).resize(size, Image.Resampling.NEAREST)
    encoded = lossless(image)
    decoded, pixels_HWC = run(encoded)
    assert decoded == (*size, None)
    assert np.array_equal(pixels_HWC, run(save(image, "PNG"))[1])
    assert run(encoded[: len(encoded) // 2])[0] == (*size, "truncated")


TEXT = b"Workflow\0" + b"a node " * 400_000
PROFILE = b"Large\0\0" + zlib.compress(bytes(3_000_000))
CHUNKS = {
    "zTXt": chunk(b"zTXt", b"Workflow\0\0" + zlib.compress(TEXT)),
    "iTXt": chunk(b"iTXt", b"Workflow\0\1\0\0\0" + zlib.compress(TEXT)), "tEXt": chunk(b"tEXt", TEXT),
    "profile": chunk(b"iCCP", PROFILE), "many texts": chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1_000_000))) * 70,
    "EXIF": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(TEXT)),
    "XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(TEXT)),
    "unknown packing": chunk(b"zTXt", b"a\0\7aaa"), "short gamma": chunk(b"gAMA", b"\0"),
    "broken profile": chunk(b"iCCP", b"a\0\1"),
    "of our own": chunk(b"ouRs", bytes(9)), "no frames": chunk(b"fcTL", bytes(26)),
}


@pytest.mark.parametrize("name", CHUNKS)
def test_what_a_png_has_besides_its_pixels(name: str) -> None:
    for at in (33, len(PNG) - 12):
        assert_same_as(PNG[:at] + CHUNKS[name] + PNG[at:], PNG)


def test_the_limits_of_pillow_are_left_alone() -> None:
    from PIL import ImageFile, PngImagePlugin
    run(PNG[:33] + CHUNKS["zTXt"] + PNG[33:])
    assert PngImagePlugin.MAX_TEXT_CHUNK == 2**20 and PngImagePlugin.MAX_TEXT_MEMORY == 2**26
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    with pytest.raises(ValueError, match="too large"):
        Image.open(io.BytesIO(PNG[:33] + CHUNKS["zTXt"] + PNG[33:]))


# Turns of large images


def decodes_beside_a_large_one(encoded: bytes, whole: bool, seconds: float = 0.5) -> bool:
    """Whether it is decoded in that time while another image of over 16 megapixels has its turn."""
    done = threading.Event()

    def work() -> None:
        if whole:
            decode_whole(encoded, max_pixels=10**8, max_bytes=2**26)
        else:
            decode(encoded, np.empty((299, 299, 3), np.uint8), max_pixels=10**8, max_bytes=2**26)
        done.set()
    with room.Room(10**8) as other:
        other.take(10_000, 10_000)
        thread = threading.Thread(target=work)
        thread.start()
        beside = done.wait(seconds)
    thread.join()
    assert done.is_set()
    return beside


def test_only_what_holds_much_memory_takes_turns() -> None:
    large = Image.new("RGB", (6000, 4000), "teal")  # 24 megapixels, as cameras take them
    baseline = save(large, "JPEG")
    assert decodes_beside_a_large_one(baseline, whole=False, seconds=20)
    assert not decodes_beside_a_large_one(baseline, whole=True)
    assert not decodes_beside_a_large_one(save(large, "JPEG", progressive=True), whole=False)
    assert not decodes_beside_a_large_one(save(large, "PNG", compress_level=1), whole=False)
    assert run(baseline, max_pixels=24_000_000 - 1)[0] == (6000, 4000, "too_large")
    long = save(Image.new("RGB", (60_000, 300)), "JPEG")  # too narrow for a smaller scale
    assert not decodes_beside_a_large_one(long, whole=False)
