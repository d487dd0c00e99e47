"""The kinds of shards: how the files of each kind are recognised, opened and read.

A new format needs its own file in `formats/`, one entry in `KINDS`, and its name in `config.Format`.
Not here: which files are shards (`find.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.formats.left_out import IMAGE_SUFFIXES, LeftOut
from pipeline.formats.loose import read_files
from pipeline.formats.parquet import read_keys, read_rows
from pipeline.formats.parquet_columns import check_columns
from pipeline.formats.parquet_parts import open_parquet
from pipeline.formats.samples import KeyTruth, Sample
from pipeline.formats.tars.read import SHARD_NAME, read_key_truths, read_samples
from pipeline.store.stream import open_stream
from pipeline.store.uris import without_query
from pipeline.store.versions import File

if TYPE_CHECKING:
    from pipeline.inputs.read import Inputs

Group = dict[str, Any]  # a row of `loose.GROUPS`, or of `parquet_parts.PARTS`


@dataclass(frozen=True, kw_only=True)
class ShardKind:
    """One kind of shard.

    Attributes:
        title: the plural name, for messages.
        absent: what an input lacks that has no such shard, for messages.
        name_pattern: regular expression for the names of the files, without regard to case.
        is_group: True if a shard is a group of files, False if it is one file.
        keys_need_all_bytes: True if the whole shard must be read to know its keys.
        truth_place: `member` or `column` if a shard may hold truths, as the first part of `--truth`; else None.
        likely_truths: values of `--truth` that are tried if the user gives none.
        open: takes the URI of the shard and its group, if it is one. Gives what the two readers take, and the version.
        read_samples: takes the open shard; counts in `LeftOut` what gives no sample.
        read_key_truths: takes the open shard; reads no image that it can pass over.
        check: takes an open file; raises ShardUnreadable if no file of this kind could be read with these settings.
    """

    title: str
    absent: str
    name_pattern: str
    is_group: bool = False
    keys_need_all_bytes: bool = False
    truth_place: str | None = None
    likely_truths: tuple[str, ...] = ()
    open: Callable[[str, Group | None], AbstractContextManager[tuple[Any, File]]]
    read_samples: Callable[[Any, Inputs, LeftOut | None], Iterator[Sample]]
    read_key_truths: Callable[[Any, Inputs], Iterator[KeyTruth]]
    check: Callable[[Any, Inputs], None] | None = None


@contextmanager
def _open_group(uri: str, group: Group | None) -> Iterator[tuple[tuple[str, list[dict[str, object]]], File]]:
    """The folder of a group of loose images with its members, and its version."""
    assert group is not None
    root = uri.removesuffix("/" + group["path"])
    yield (root, group["members"]), File(group["path"], group["size"], group["etag"])


# In the order in which `--format auto` looks for them.
KINDS = {
    "tar": ShardKind(
        title="tar shards", name_pattern=SHARD_NAME.pattern, keys_need_all_bytes=True,
        absent="no tar shards (.tar, .tar.gz, .tgz, .tar.bz2, .tar.xz, .tar.zst)",
        truth_place="member", likely_truths=("member:cls", "member:txt"), open=lambda uri, _: open_stream(uri),
        read_samples=lambda file, inputs, left_out: read_samples(
            file, inputs.max_image_bytes, inputs.max_shard_images, inputs.truth_name, inputs.image_member, left_out,
            keep=inputs.keep),
        read_key_truths=lambda file, inputs: read_key_truths(file, inputs.truth_name, inputs.image_member)),
    "parquet": ShardKind(
        title="Parquet files", name_pattern=r"\.parquet$", absent="no .parquet files",
        truth_place="column", likely_truths=("column:label",), open=open_parquet,
        read_samples=lambda shard, inputs, _: read_rows(
            shard, inputs.image_column, inputs.key_column, inputs.max_image_bytes, inputs.max_shard_images,
            inputs.truth_name, inputs.keep),
        read_key_truths=lambda shard, inputs: read_keys(
            shard, inputs.image_column, inputs.key_column, inputs.truth_name),
        check=lambda file, inputs: check_columns(file, inputs.image_column, inputs.key_column)),
    "images": ShardKind(
        title="loose images", name_pattern=rf"\.({'|'.join(suffix[1:] for suffix in IMAGE_SUFFIXES)})$",
        absent=f"no images ({', '.join(IMAGE_SUFFIXES)})", is_group=True, open=_open_group,
        read_samples=lambda group, inputs, _: read_files(group[0], group[1], inputs.max_image_bytes),
        read_key_truths=lambda group, _: (KeyTruth(str(member["path"]), None) for member in group[1])),
}
ANY_SHARD_FILE = "|".join(kind.name_pattern for kind in KINDS.values() if not kind.is_group)
ANY_INPUT_FILE = "|".join(kind.name_pattern for kind in KINDS.values())
*_ABSENT, _LAST_ABSENT = (kind.absent for kind in KINDS.values())
NONE_FOUND = f"holds {', '.join(_ABSENT)} and {_LAST_ABSENT}"  # follows the name of the input


def kind_of_shard(path: str, group: Group | None = None) -> ShardKind:
    """The kind of a shard, by its path or URI, and by its group if it is one. A name that fits no kind means a tar."""
    if group is not None and "members" in group:
        return KINDS["images"]
    file_kinds = (kind for kind in KINDS.values() if not kind.is_group)
    plain = without_query(path)
    return next((kind for kind in file_kinds if re.search(kind.name_pattern, plain, re.IGNORECASE)), KINDS["tar"])
