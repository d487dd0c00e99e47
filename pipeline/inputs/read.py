"""A shard -> its samples, or its truths.

In: the URI of a shard; how the user wants shards to be read. Out: samples, streamed, all of one version of the shard.
Not here: which files are shards (`find.py`), the kinds of shards (`kinds.py`), their formats (`formats/`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from pipeline.config import Config
from pipeline.formats.left_out import LeftOut
from pipeline.formats.samples import KeyTruth, Sample, ShardUnreadable
from pipeline.inputs.kinds import KINDS, ShardKind, kind_of_shard
from pipeline.model.spelling import folder_name, read_folder
from pipeline.parse import parse_keep
from pipeline.store.storage import child
from pipeline.store.versions import File


@dataclass(frozen=True)
class Inputs:
    """How the samples of a shard are read. The fields are those of the config, except `truth`.

    Attributes:
        image_column, key_column: of a Parquet file; None: as `parquet.find_columns` chooses.
        max_image_bytes: a larger image has the error `too_large`.
        max_shard_images: a shard with more images is unreadable; None: any number.
        truth: where the shard says what an image shows: `folder`, `member:SUFFIX` (of a tar) or `column:NAME` (of a
            Parquet file). None: the samples have no truth.
        image_member: the suffix of the image that counts, in a tar, if a key has several; None: the first image.
        keep: the sources of `--keep`. Not of loose images: a manifest has put their values into the group.
    """

    image_column: str | None
    key_column: str | None
    max_image_bytes: int
    max_shard_images: int | None
    truth: str | None = None
    image_member: str | None = None
    keep: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: Config) -> Inputs:
        """The settings of a config."""
        return cls(config.image_column, config.key_column, config.max_image_bytes, config.max_shard_images,
                   image_member=config.image_member,
                   keep=tuple(column.source for column in parse_keep(config.keep)))

    @property
    def truth_name(self) -> str | None:
        """The SUFFIX or NAME of `truth`; None if the truth is in no member and in no column."""
        return (self.truth or "").partition(":")[2] or None

    @contextmanager
    def open(self, uri: str, group: dict[str, Any] | None = None, left_out: LeftOut | None = None) -> Iterator[
            tuple[Iterator[Sample], File]]:
        """The samples of a shard, and the version that is read.

        Args:
            group: the row of `loose.GROUPS` if the shard is a group of loose images, or of `parquet_parts.PARTS` if it
                is a part of a file.
            left_out: counts the files or members that give no sample; complete once all samples are taken.

        Raises:
            ShardUnreadable: while the samples are taken, if the shard cannot be read to its end.
            Replaced: at the latest when the context is left, if the shard was replaced meanwhile.
        """
        kind = self._kind(uri, group)
        with kind.open(uri, group) as (shard, version):
            samples = kind.read_samples(shard, self, left_out)
            if self.truth == "folder":
                samples = (replace(sample, truth=read_folder(sample.key)) for sample in samples)
            yield samples, version

    def read_truths(self, uri: str, group: dict[str, Any] | None = None) -> list[KeyTruth]:
        """The truth of each sample, and of keys without an image.

        Only a tar is read whole; of other shards no image is read.

        Raises: as `open`.
        """
        kind = self._kind(uri, group)
        with kind.open(uri, group) as (shard, _):
            truths = list(kind.read_key_truths(shard, self))
        if self.truth == "folder":
            return [truth._replace(truth=read_folder(truth.key), spelling=folder_name(truth.key)) for truth in truths]
        return truths

    def _kind(self, uri: str, group: dict[str, Any] | None) -> ShardKind:
        """The kind of a shard. Raises ShardUnreadable if a shard of this kind cannot hold `truth`."""
        kind = kind_of_shard(uri, group)
        place = (self.truth or "").partition(":")[0]
        if place in ("member", "column") and kind.truth_place != place:
            title = next(other.title for other in KINDS.values() if other.truth_place == place)
            raise ShardUnreadable(f"its truth is not in a {place}: --truth {self.truth} is for {title}")
        return kind


def shard_uri(input_uri: str, row: dict[str, Any]) -> str:
    """The URI of a shard. `row`: of a table of shards."""
    return row.get("uri") or child(input_uri, row["path"])


def group_of(row: dict[str, Any]) -> dict[str, Any] | None:
    """The row itself if the shard is a group of images or a part of a file, as a reader needs it; else None."""
    return row if "members" in row or row.get("part") else None
