"""A tar in a file that can seek is read as a stream of it is; of what nobody asks for, not a byte."""

import io
import random
from collections.abc import Callable
from typing import Any

from pipeline.formats.samples import ShardUnreadable
from pipeline.formats.tars.headers import HOP_BYTES
from pipeline.formats.tars.read import read_key_truths
from tests.support.tars import make_tar

TAR = make_tar(*((f"{folder}/{number}.{suffix}", data) for number in range(6) for folder in ["n1"]
                 for suffix, data in (("jpg", bytes([number]) * (HOP_BYTES * number + 7)), ("cls", b"%d" % number))))


class Counted(io.BytesIO):
    """A file that counts the bytes which are read."""

    num_read = 0

    def read(self, size: int | None = -1) -> bytes:
        data = super().read(size)
        self.num_read += len(data)
        return data


class Stream(io.RawIOBase):
    """The same bytes, which cannot seek."""

    def __init__(self, data: bytes) -> None:
        self.file = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, room: Any) -> int:
        return self.file.readinto(room)


def read(file: Any) -> object:
    try:
        return list(read_key_truths(file, "cls"))
    except ShardUnreadable as error:
        return str(error)


def test_images_are_passed_over() -> None:
    file = Counted(TAR)
    assert [(truth.key, truth.truth) for truth in read_key_truths(file, "cls")] == [(f"n1/{number}", str(number))
                                                                                   for number in range(6)]
    assert file.num_read < len(TAR) / 4


def damage(change: Callable[[random.Random, bytearray], bytes | bytearray], seed: int) -> None:
    data = bytes(change(random.Random(seed), bytearray(TAR)))
    assert read(io.BytesIO(data)) == read(Stream(data)), seed


def test_a_cut_is_found_where_a_stream_finds_it() -> None:
    for seed in range(300):
        damage(lambda chance, data: data[:chance.randrange(len(data))], seed)
    for end in range(0, len(TAR), 512):
        assert read(io.BytesIO(TAR[:end])) == read(Stream(TAR[:end])), end


def test_damage_is_told_alike() -> None:
    def change(chance: random.Random, data: bytearray) -> bytearray:
        for _ in range(3):
            data[chance.choice(range(0, len(data) - 512, 512)) + chance.randrange(512)] = chance.randrange(256)
        return data

    for seed in range(300):
        damage(change, seed)
