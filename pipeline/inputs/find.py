"""What an input is made of: which files are its shards, and how their samples are read.

In: a URI, and what the user says of the format. Out: the shards, and what is left out; the samples of one, streamed, all of one
version.
Not here: the formats themselves (`shards`, `parquet_shards`, `image_files`, `manifest`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import Config
from pipeline.errors import JobError, UserError
from pipeline.formats.left_out import IMAGE_SUFFIXES, LIKE_IMAGES, LeftOut
from pipeline.formats.loose import group_files, read_files
from pipeline.formats.parquet import check_columns, read_keys, read_rows
from pipeline.formats.tar import SHARD_NAME, Said, Sample, ShardUnreadable, parse_said, read_said, read_samples
from pipeline.inputs.manifest import read_manifest
from pipeline.model.spelling import folder_of, name_folder
from pipeline.store.listing import FILES, list_input
from pipeline.store.local_files import LOOP, MISSING, REFUSED
from pipeline.store.retry import describe_error, is_transient
from pipeline.store.storage import File, child, exists, is_web, join, open_read
from pipeline.store.stream import open_random, open_stream
from pipeline.store.uris import canonical_uri, is_within

NAMES_OF_KIND = {"tar": SHARD_NAME.pattern, "parquet": r"\.parquet$",
         "images": rf"\.({'|'.join(suffix[1:] for suffix in IMAGE_SUFFIXES)})$"}
SHARD_NAMES = f"{NAMES_OF_KIND['tar']}|{NAMES_OF_KIND['parquet']}"
ANY_KIND = f"{SHARD_NAMES}|{NAMES_OF_KIND['images']}"
# Spark, Hive and Arrow pass over folders that begin with . or, unless there is a = in the name, with _; others are those of NAS
# systems. Shards too, for their tables would have such names. Photographs may begin with _, and cameras name them so.
HIDDEN = r"(^|/)(\.[^/]*|_[^/=]*|@eaDir|#recycle|#snapshot|\$RECYCLE\.BIN)/|(^|/)\.[^/]*/?$"
HIDDEN_SHARD = r"(^|/)_[^/=]*$"
LOOKED_AT = 20  # Parquet files, for one that has the columns
NONE_FOUND = ("holds no tar shards (.tar, .tar.gz, .tgz, .tar.bz2, .tar.xz, .tar.zst), no .parquet files and no images "
              f"({', '.join(IMAGE_SUFFIXES)})")


@dataclass(frozen=True)
class Inputs:
    """How the samples of a shard are read; its fields are those of the config.

    `image_member`: what follows the key's dot in the name of a tar's member with the image; None: the first image of the key.
    `max_shard_images` None: no matter how many. `truth`: where the input says what an image shows, if that is asked
    for: `folder`, `member:SUFFIX` (of a tar) or `column:NAME` (of a Parquet file).
    """

    image_column: str | None
    key_column: str | None
    max_image_bytes: int
    max_shard_images: int | None
    truth: str | None = None
    image_member: str | None = None

    @classmethod
    def of(cls, config: Config) -> Inputs:
        """As the config says."""
        return cls(config.image_column, config.key_column, config.max_image_bytes, config.max_shard_images,
                   image_member=config.image_member)

    @contextmanager
    def open(self, uri: str, group: dict[str, Any] | None = None, left_out: LeftOut | None = None) -> Iterator[
            tuple[Iterator[Sample], File]]:
        """The samples of a shard, and the version that is read.

        Args:
            group: the row of `GROUPS`, if it is one.
            left_out: counts what gives no sample, once all are taken.

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
                                                   name if where == "member" else None, self.image_member, left_out)), version

    def read_truths(self, uri: str, group: dict[str, Any] | None = None) -> list[Said]:
        """What is said of each image, and of keys that have none. No image is read that could be passed over: of a tar all bytes come along.

        Raises: as `open`.
        """
        where, _, name = (self.truth or "").partition(":")
        if group is not None and where in ("folder", ""):
            said = [Said(str(member["path"]), None) for member in group["members"]]
        elif group is None and uri.lower().endswith(".parquet") and where in ("folder", "column", ""):
            with open_random(uri) as (file, _):
                said = list(read_keys(file, self.image_column, self.key_column, name if where == "column" else None))
        elif group is None and where in ("folder", "member", "") and not uri.lower().endswith(".parquet"):
            with open_stream(uri) as (file, _):
                said = list(read_said(file, name if where == "member" else None, self.image_member))
        else:
            with replace(self, max_image_bytes=0).open(uri, group) as (samples, _):
                said = [parse_said(sample.key, sample.truth) for sample in samples]
        return [one._replace(truth=name_folder(one.key), spelling=folder_of(one.key)) for one in said] if where == "folder" else said

    def _by_folder(self, samples: Iterator[Sample]) -> Iterator[Sample]:
        if self.truth != "folder":
            return samples
        return (replace(sample, truth=name_folder(sample.key)) for sample in samples)


class NothingUnder(JobError):
    """The folder of `--partition` has no shards (yet). Whether that is a fault is for the scheduler to say."""

    exit_code = 5


class Found(NamedTuple):
    """`shards`: a table of `FILES`, of loose images and manifests of `GROUPS`. `left_out`: the other files."""

    shards: pa.Table
    left_out: LeftOut


def find_shards(uri: str, format: str = "auto", partition: str | None = None, output: str | None = None) -> Found:
    """The shards of an input, or of one folder of it, in order of their paths; and what is left out.

    Args:
        output: where the tables go: nothing there is input.

    Raises:
        FileNotFoundError: there is nothing at `uri`.
        PermissionError: the store refuses to list.
        NothingUnder: there is, but nothing in the folder of the partition.
        UserError: a folder of an input that is no shards: which images make a group depends on all of them; or a manifest that
            cannot be understood.
    """
    output = _not_around(uri, output)
    if partition is not None:
        try:
            found, left_out = _find_in_folder(join(uri, partition), format, output)
        except FileNotFoundError:
            if exists(uri):
                raise NothingUnder(f"--partition {partition}: there is nothing under {join(uri, partition)}.") from None
            raise
        if "members" in found.column_names:
            raise UserError(f"--partition {partition}: it is for tar shards and Parquet files, and {uri} has loose images.")
        of = partition.strip("/")
        below = LeftOut()
        below.add(left_out.rows(), of + "/")
        return Found(found.set_column(0, FILES.field("path"), pc.binary_join_element_wise(of, found["path"], "/")), below)
    return _find_in_folder(uri, format, output)


def _find_in_folder(uri: str, format: str, output: str | None) -> Found:
    if format == "manifest" or format == "auto" and uri.lower().endswith(".csv"):
        return Found(read_manifest(canonical_uri(uri)), LeftOut())
    left_out = LeftOut()
    files = _seen(uri, output, left_out)
    of_kind = {name: _matches(files, pattern) for name, pattern in NAMES_OF_KIND.items()}
    kind = next((name for name, matches in of_kind.items() if format in ("auto", name) and pc.any(matches).as_py()), None)
    if kind is None:
        known = _matches(files, ANY_KIND)
        left_out.add_paths("other_kind", files.filter(known)["path"])
        left_out.add_paths("other_name", files.filter(pc.invert(known))["path"])
        return Found(FILES.empty_table(), left_out)
    found, rest = files.filter(of_kind[kind]), files.filter(pc.invert(of_kind[kind]))
    known = _matches(rest, ANY_KIND)
    left_out.add_paths("other_kind", rest.filter(known)["path"])
    left_out.add_paths("other_name", _not_beside(rest.filter(pc.invert(known)), found))
    return Found(group_files(found) if kind == "images" else found.select(FILES.names).sort_by("path"), left_out)


def find_images(uri: str, output: str) -> tuple[pa.Table, pa.Table, LeftOut]:
    """The images of a folder, and the files that are neither images nor shards by their names: tables of `FILES`, in order of their paths;
    and what else is left out.

    Args and raises: as `find`.
    """
    left_out = LeftOut()
    files = _seen(uri, _not_around(uri, output), left_out).sort_by("path")
    is_image, known = _matches(files, NAMES_OF_KIND["images"]), _matches(files, ANY_KIND)
    left_out.add_paths("other_kind", files.filter(pc.and_(known, pc.invert(is_image)))["path"])
    return files.filter(is_image).select(FILES.names), files.filter(pc.invert(known)).select(FILES.names), left_out


def _not_around(uri: str, output: str | None) -> str | None:
    """The output; None if the input itself lies in it: of a store it would be passed over whole. On the local disk only what is met can be."""
    return None if output is not None and "://" in output and is_within(canonical_uri(uri), output) else output


def _seen(uri: str, output: str | None, left_out: LeftOut) -> pa.Table:
    """The files under a URI that may be input: those in the output are passed over, what is hidden or cannot be read is left out."""
    if is_web(uri) and not any(re.search(pattern, uri, re.IGNORECASE) for pattern in NAMES_OF_KIND.values()):
        raise UserError(f"--input {uri}: a web server does not list its files; name one .tar or .parquet file, or a manifest of images.")
    files = list_input(uri, without=output)
    if not (len(files) == 1 and child(uri, files["path"][0].as_py()) == uri):  # that one is named by the user
        files = _without_hidden(files, left_out)
    return _without_odd(files, left_out)


def _matches(files: pa.Table, pattern: str) -> pa.ChunkedArray:
    return pc.match_substring_regex(files["path"], pattern, ignore_case=True)


def _without_hidden(files: pa.Table, left_out: LeftOut) -> pa.Table:
    """The files that are not hidden, nor leftovers of other tools."""
    hidden = pc.or_(_matches(files, HIDDEN), pc.and_(_matches(files, SHARD_NAMES), _matches(files, HIDDEN_SHARD)))
    left_out.add_paths("hidden", files.filter(hidden)["path"])
    return files.filter(pc.invert(hidden))


def _without_odd(files: pa.Table, left_out: LeftOut) -> pa.Table:
    """The files, and of what cannot be read that which is a shard or an image by its name: it fails, or has its row."""
    named = _matches(files, ANY_KIND)
    for reason, mark in (("loop", LOOP), ("not_a_file", MISSING), ("unreadable", REFUSED)):
        odd = pc.and_(pc.equal(files["etag"], mark), pc.invert(named))
        left_out.add_paths(reason, files.filter(odd)["path"])
        files, named = files.filter(pc.invert(odd)), named.filter(pc.invert(odd))
    return files


def _not_beside(files: pa.Table, found: pa.Table) -> pa.ChunkedArray:
    """The paths of files that do not belong to one that is found: `a.json` and `a.jpg.json` do to `a.jpg`; `a.heic` is a picture itself."""
    stem = r"\.[^./]*$"
    stems = pc.replace_substring_regex(files["path"], stem, "")
    of_found = pa.concat_arrays([*found["path"].chunks, *pc.replace_substring_regex(found["path"], stem, "").chunks])
    beside = pc.and_(pc.is_in(stems, of_found), pc.invert(pc.match_substring_regex(files["path"], LIKE_IMAGES.pattern, ignore_case=True)))
    return files.filter(pc.invert(beside))["path"]


def check_found(config: Config, found: Found) -> None:
    """Raise UserError if the input has no shards (`NothingUnder` if its partition has none), or if none of the first, where they are Parquet, has the columns."""
    shards = found.shards
    if not len(shards) and config.partition is not None:
        under = join(config.input, config.partition)
        raise NothingUnder(f"--partition {config.partition}: there is nothing to label under {under}"
                           f"{''.join('; ' + told for told in found.left_out.sentences())}.")
    if not len(shards):
        raise UserError(f"--input {config.input} {NONE_FOUND}{''.join('; ' + told for told in found.left_out.sentences())}.")
    if "members" in shards.column_names or not shards["path"][0].as_py().lower().endswith(".parquet"):
        return
    first = None
    for path in shards["path"][:LOOKED_AT].to_pylist():
        try:
            with open_read(child(config.input, path)) as (file, _):
                return check_columns(file, config.image_column, config.key_column)
        except (ShardUnreadable, OSError) as error:
            if is_transient(error):
                raise
            first = first or f"{path}: {describe_error(error)}"
    raise UserError(f"--input {config.input}: {first}.")
