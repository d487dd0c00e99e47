"""What every format gives: the samples of a shard, and the truths that stand in it.

Not here: how a format is read (`tars`, `parquet.py`, `loose.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from pipeline.model.spelling import read_name


class ShardUnreadable(Exception):
    """The shard cannot be read to its end. The message says why. The samples read so far are not all of them."""


@dataclass(frozen=True)
class Sample:
    """An image and its key.

    Attributes:
        index: the number of the sample in its shard, from 0.
        key: the name of the image in its shard.
        encoded: the bytes of the image file; empty if there is an error.
        error: a reason code if there are no bytes, else None.
        truth: the class that the shard itself names for the image, as it is written there. None if the caller did not
            ask for the truth, or if there is none.
        kept: the values of `--keep` as text, one for each source, null where there is none; empty if the caller asked
            for none.
    """

    index: int
    key: str
    encoded: bytes
    error: str | None
    truth: str | None = None
    kept: tuple[str | None, ...] = ()


class KeyTruth(NamedTuple):
    """The truth that a shard has for one key.

    Attributes:
        key: of a sample, or of a text that lies beside no image.
        truth: the name of the class; None if there is none.
        strange: True if the shard lists its classes and `truth` is not one of them.
        is_image: False if no image has this key.
        spelling: the name as it is written in the shard, if that differs from `truth`.
    """

    key: str
    truth: str | None
    strange: bool = False
    is_image: bool = True
    spelling: str | None = None


def parse_key_truth(key: str, text: str | None, is_image: bool = True) -> KeyTruth:
    """The truth that a text names for a key."""
    name = None if text is None else read_name(text)
    return KeyTruth(key, name, False, is_image, text if name is not None and text != name else None)
