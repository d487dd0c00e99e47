"""What an input is made of: which files are its shards, and how their samples are read.

In: a URI, and what the user says of the format. Out: the shards; the samples of one, streamed, all of one version.
Not here: the formats themselves (`shards`, `parquet_shards`, `image_files`, `manifest`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.config import FORMATS, Config, UserError, canonical_uri
from pipeline.image_files import group, read_files
from pipeline.listing import FILES, list_files
from pipeline.manifest import read_manifest
from pipeline.parquet_shards import find_columns, read_rows
from pipeline.shards import IMAGE_SUFFIXES, SHARD_NAME, Sample, ShardUnreadable, read_samples
from pipeline.storage import File, child, join, open_read
from pipeline.stream import open_random, open_stream

NAMES = {"tar": SHARD_NAME.pattern, "parquet": r"\.parquet$",
         "images": rf"\.({'|'.join(suffix[1:] for suffix in IMAGE_SUFFIXES)})$"}
NONE_FOUND = ("holds no tar shards (.tar, .tar.gz, .tgz, .tar.bz2, .tar.xz, .tar.zst), no .parquet files and no images "
              f"({', '.join(IMAGE_SUFFIXES)})")


@dataclass(frozen=True)
class Inputs:
    """How the samples of a shard are read; its fields are those of the config.

    `max_shard_images` None: no matter how many. `truth`: where the input says what an image shows, if that is asked
    for: `folder`, `member:SUFFIX` (of a tar) or `column:NAME` (of a Parquet file).
    """

    image_column: str | None
    key_column: str | None
    max_image_bytes: int
    max_shard_images: int | None
    truth: str | None = None

    @classmethod
    def of(cls, config: Config) -> Inputs:
        """As the config says."""
        return cls(config.image_column, config.key_column, config.max_image_bytes, config.max_shard_images)

    @contextmanager
    def open(self, uri: str, group: dict[str, Any] | None = None) -> Iterator[tuple[Iterator[Sample], File]]:
        """The samples of a shard, and the version that is read. `group`: the row of `GROUPS`, if it is one.

        Raises:
            ShardUnreadable: while the samples are taken: it cannot be read to its end.
            Replaced: at the latest when the context is left: it was replaced meanwhile.
        """
        where, _, name = (self.truth or "").partition(":")
        kind = "images" if group is not None else "parquet" if uri.lower().endswith(".parquet") else "tar"
        if where in ("member", "column") and kind != ("tar" if where == "member" else "parquet"):
            raise ShardUnreadable(f"its truth is not in a {where}: --truth {self.truth} is for "
                                  f"{'tar shards' if where == 'member' else 'Parquet files'}")
        if group is not None:
            root = uri.removesuffix("/" + group["path"])
            yield self._by_folder(read_files(root, group["members"], self.max_image_bytes)), File(
                group["path"], group["size"], group["etag"])
        elif kind == "parquet":
            with open_random(uri) as (file, version):
                yield self._by_folder(read_rows(file, self.image_column, self.key_column, self.max_image_bytes,
                                                self.max_shard_images, name if where == "column" else None)), version
        else:
            with open_stream(uri) as (file, version):
                yield self._by_folder(read_samples(file, self.max_image_bytes, self.max_shard_images,
                                                   name if where == "member" else None)), version

    def _by_folder(self, samples: Iterator[Sample]) -> Iterator[Sample]:
        if self.truth != "folder":
            return samples
        return (replace(sample, truth=folder_of(sample.key)) for sample in samples)


def folder_of(key: str) -> str | None:
    """The name of the folder that an image is in, by its key: `cats` of `train/cats/1`; None if it is in none."""
    return key.rpartition("/")[0].rpartition("/")[2] or None


def add_flags(parser: Any) -> None:
    """Let a parser, or a group of one, take the flags that say how samples are read."""
    parser.add_argument("--format", default=Config.format, choices=FORMATS, help="these three as given to jobs/label.py")
    parser.add_argument("--image-column", metavar="NAME")
    parser.add_argument("--key-column", metavar="NAME")


def find(uri: str, format: str = "auto", partition: str | None = None) -> pa.Table:
    """The shards of an input, or of one folder of it, in order of their paths: a table of `FILES`; of loose images and manifests of `GROUPS`.

    Raises:
        FileNotFoundError: there is nothing at `uri`.
        PermissionError: the store refuses to list.
        UserError: a folder of an input that is no shards: which images make a group depends on all of them.
    """
    if partition is not None:
        found = find(join(uri, partition), format)
        if "members" in found.column_names:
            raise UserError(f"--partition {partition}: it is for tar shards and Parquet files, and {uri} has loose images.")
        return found.set_column(0, FILES.field("path"), pc.binary_join_element_wise(partition.strip("/"), found["path"], "/"))
    if format == "manifest" or format == "auto" and uri.lower().endswith(".csv"):
        return read_manifest(canonical_uri(uri))
    files = list_files(uri, times=True)
    for name, pattern in NAMES.items():
        if format in ("auto", name) and len(
                found := files.filter(pc.match_substring_regex(files["path"], pattern, ignore_case=True))):
            return group(found) if name == "images" else found.select(FILES.names).sort_by("path")
    return FILES.empty_table()


def check(config: Config, found: pa.Table) -> None:
    """Raise UserError if the input has no shards, or if the first, where it is Parquet, lacks the columns."""
    if not len(found):
        raise UserError(f"--input {config.input} {NONE_FOUND}.")
    path = found["path"][0].as_py()
    if path.lower().endswith(".parquet") and "members" not in found.column_names:
        try:
            with open_read(child(config.input, path)) as (file, _):
                find_columns(pq.read_schema(file), config.image_column, config.key_column)
        except (ShardUnreadable, pa.ArrowInvalid) as error:
            raise UserError(f"--input {config.input}: {path}: {error}.") from error
