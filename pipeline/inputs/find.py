"""An input -> its shards, and the files that are left out.

In: a URI or a pattern, and the format that the user names. Out: a table of the shards, sorted; a `LeftOut`.
Not here: how a shard is read (`read.py`), what belongs to each kind of shard (`kinds.py`), manifests (`manifest.py`),
patterns (`patterns.py`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import Config
from pipeline.errors import JobError, UserError
from pipeline.formats.left_out import LIKE_IMAGES, LeftOut
from pipeline.formats.loose import group_files
from pipeline.formats.parquet_parts import is_large, split_large
from pipeline.formats.samples import ShardUnreadable
from pipeline.inputs.kinds import ANY_INPUT_FILE, ANY_SHARD_FILE, KINDS, NONE_FOUND, kind_of_shard
from pipeline.inputs.manifest import read_manifest
from pipeline.inputs.patterns import list_matching, split_pattern
from pipeline.inputs.read import Inputs, shard_uri
from pipeline.store.listing import FILES, list_input
from pipeline.store.local_files import LOOP, MISSING, REFUSED
from pipeline.store.retry import describe_error, is_transient
from pipeline.store.storage import child, exists, is_web, join, open_read
from pipeline.store.uris import canonical_uri, is_within

# Spark, Hive and Arrow pass over folders whose names begin with a dot, or with _ unless there is a = in the name. The
# other names are those of NAS systems.
HIDDEN = r"(^|/)(\.[^/]*|_[^/=]*|@eaDir|#recycle|#snapshot|\$RECYCLE\.BIN)/|(^|/)\.[^/]*/?$"
# A shard with such a name would have a table with such a name. An image may: some cameras begin names with _.
HIDDEN_SHARD = r"(^|/)_[^/=]*$"
MAX_CHECKED = 20  # files of an input, to find one that can be read


class NothingUnder(JobError):
    """The folder of `--partition` has no shards, or none yet. Only the scheduler can say whether that is a fault."""

    exit_code = 5


class Found(NamedTuple):
    """The files of an input.

    Attributes:
        shards: a table of `FILES`; of loose images and manifests of images a table of `GROUPS`; with parts of Parquet
            files a table of `PARTS`. A column `uri` says where each shard is, if not below the input.
        left_out: the other files.
        root: the URI of the input; of a pattern the folder that its files are in.
    """

    shards: pa.Table
    left_out: LeftOut
    root: str


def find_shards(uri: str, format: str = "auto", partition: str | None = None, output: str | None = None,
                keep: Sequence[str] = ()) -> Found:
    """The shards of an input, or of one folder of it, in order of their paths; and the files that are left out.

    Args:
        output: the folder of the tables; no file in it is input.
        keep: columns of a manifest of images whose values go along.

    Raises:
        FileNotFoundError: there is nothing at `uri`.
        PermissionError: the store refuses to list.
        NothingUnder: the input exists, but the folder of the partition does not.
        UserError: the partition holds loose images, whose groups depend on all images of the input; or the input is no
            folder; or a manifest cannot be understood.
    """
    output = _output_to_skip(uri, output)
    if partition is None:
        return _find_in_folder(uri, format, output, keep)
    if _is_manifest(uri, format) or split_pattern(uri):
        raise UserError(f"--partition {partition}: it is for folders, and --input {uri} is a list or a pattern.")
    try:
        shards, left_out, _ = _find_in_folder(join(uri, partition), format, output, keep)
    except FileNotFoundError:
        if exists(uri):
            raise NothingUnder(f"--partition {partition}: there is nothing under {join(uri, partition)}.") from None
        raise
    if "members" in shards.column_names:
        raise UserError(f"--partition {partition}: it is for tar shards and Parquet files, and {uri} has loose images.")
    folder = partition.strip("/")
    left_out_of_input = LeftOut()
    left_out_of_input.add(left_out.rows(), folder + "/")
    paths = pc.binary_join_element_wise(folder, shards["path"], "/")
    return Found(shards.set_column(0, FILES.field("path"), paths), left_out_of_input, uri)


def _is_manifest(uri: str, format: str) -> bool:
    return format == "manifest" or (format == "auto" and uri.lower().endswith((".csv", ".txt")))


def _find_in_folder(uri: str, format: str, output: str | None, keep: Sequence[str]) -> Found:
    if _is_manifest(uri, format):
        return Found(_split_parquet(uri, read_manifest(canonical_uri(uri), keep)), LeftOut(), uri)
    left_out = LeftOut()
    root, files = _list_candidates(uri, output, left_out)
    allowed = [kind for name, kind in KINDS.items() if format in ("auto", name)]
    kind = next((kind for kind in allowed if pc.any(_matches(files, kind.name_pattern)).as_py()), None)
    if kind is None:
        is_input = _matches(files, ANY_INPUT_FILE)
        left_out.add_paths("other_kind", files.filter(is_input)["path"])
        left_out.add_paths("other_name", files.filter(pc.invert(is_input))["path"])
        return Found(FILES.empty_table(), left_out, root)
    is_of_kind = _matches(files, kind.name_pattern)
    chosen, others = files.filter(is_of_kind), files.filter(pc.invert(is_of_kind))
    is_input = _matches(others, ANY_INPUT_FILE)
    left_out.add_paths("other_kind", others.filter(is_input)["path"])
    left_out.add_paths("other_name", _paths_not_beside(others.filter(pc.invert(is_input)), chosen))
    shards = group_files(chosen) if kind.is_group else chosen.select(FILES.names).sort_by("path")
    return Found(_split_parquet(root, shards if root == uri else _add_uris(root, shards)), left_out, root)


def _split_parquet(root: str, shards: pa.Table) -> pa.Table:
    """The shards, with the parts of large Parquet files in their places."""
    large = pc.and_(_matches(shards, KINDS["parquet"].name_pattern), is_large(shards))
    if "members" in shards.column_names or not pc.any(large).as_py():
        return shards
    split = split_large(shards if "uri" in shards.column_names else _add_uris(root, shards))
    return split if "part" in split.column_names else shards


def _add_uris(root: str, shards: pa.Table) -> pa.Table:
    uris = [child(root, path) for path in shards["path"].to_pylist()]
    return shards.append_column("uri", pa.array(uris, pa.string()))


def find_images(uri: str, output: str) -> tuple[pa.Table, pa.Table, LeftOut]:
    """The files of a folder of images.

    Args and raises: as `find_shards`.

    Returns:
        The images, a table of `FILES` in order of their paths; the files that are neither images nor shards by their
        names, in the same form; and the files that are left out.
    """
    left_out = LeftOut()
    root, files = _list_candidates(uri, _output_to_skip(uri, output), left_out)
    if root != uri:
        raise UserError(f"--input {uri} does not exist, and here a pattern cannot be used; name the folder.")
    files = files.sort_by("path")
    is_image, is_input = _matches(files, KINDS["images"].name_pattern), _matches(files, ANY_INPUT_FILE)
    left_out.add_paths("other_kind", files.filter(pc.and_(is_input, pc.invert(is_image)))["path"])
    others = files.filter(pc.invert(is_input))
    return files.filter(is_image).select(FILES.names), others.select(FILES.names), left_out


def _output_to_skip(uri: str, output: str | None) -> str | None:
    """The output, whose files are no input; None if the input lies in the output of a store: all would be skipped.

    On the local disk the output is kept even then: only the folders that are met while listing are skipped.
    """
    return None if output is not None and "://" in output and is_within(canonical_uri(uri), output) else output


def _list_candidates(uri: str, output: str | None, left_out: LeftOut) -> tuple[str, pa.Table]:
    """The folder that is listed, and the files under it that may be input. Hidden and unreadable files are counted in
    `left_out`.
    """
    if matching := split_pattern(uri):
        root, pattern = matching
        try:
            files = list_matching(root, pattern, output)
        except FileNotFoundError as error:
            raise UserError(f"--input {uri}: the folder {root} of this pattern does not exist.") from error
        return root, _remove_odd(_remove_hidden(files, left_out), left_out)
    if is_web(uri) and not re.search(ANY_INPUT_FILE, uri, re.IGNORECASE):
        raise UserError(f"--input {uri}: a web server does not list its files; name one .tar or .parquet file, a "
                        "pattern such as {000..127}.tar, or a list in a .txt or .csv.")
    files = list_input(uri, without=output)
    is_named_by_user = len(files) == 1 and child(uri, files["path"][0].as_py()) == uri
    return uri, _remove_odd(files if is_named_by_user else _remove_hidden(files, left_out), left_out)


def _matches(files: pa.Table, pattern: str) -> pa.ChunkedArray:
    return pc.match_substring_regex(files["path"], pattern, ignore_case=True)


def _remove_hidden(files: pa.Table, left_out: LeftOut) -> pa.Table:
    """The files that are neither hidden nor left behind by other tools."""
    is_hidden_shard = pc.and_(_matches(files, ANY_SHARD_FILE), _matches(files, HIDDEN_SHARD))
    hidden = pc.or_(_matches(files, HIDDEN), is_hidden_shard)
    left_out.add_paths("hidden", files.filter(hidden)["path"])
    return files.filter(pc.invert(hidden))


def _remove_odd(files: pa.Table, left_out: LeftOut) -> pa.Table:
    """The files without links to nothing and the like, unless they are shards or images by their names.

    Those stay: such a shard fails, and such an image has a row with an error.
    """
    is_input = _matches(files, ANY_INPUT_FILE)
    for reason, mark in (("loop", LOOP), ("not_a_file", MISSING), ("unreadable", REFUSED)):
        is_odd = pc.and_(pc.equal(files["etag"], mark), pc.invert(is_input))
        left_out.add_paths(reason, files.filter(is_odd)["path"])
        files, is_input = files.filter(pc.invert(is_odd)), is_input.filter(pc.invert(is_odd))
    return files


def _paths_not_beside(files: pa.Table, chosen: pa.Table) -> pa.ChunkedArray:
    """The paths of the files that do not lie beside a chosen one.

    `a.json` and `a.jpg.json` lie beside `a.jpg`. `a.heic` does not: it is an image itself.
    """
    suffix = r"\.[^./]*$"
    stems = pc.replace_substring_regex(files["path"], suffix, "")
    chosen_stems = pc.replace_substring_regex(chosen["path"], suffix, "")
    is_beside = pc.is_in(stems, pa.concat_arrays([*chosen["path"].chunks, *chosen_stems.chunks]))
    is_like_image = _matches(files, LIKE_IMAGES.pattern)
    return files.filter(pc.invert(pc.and_(is_beside, pc.invert(is_like_image))))["path"]


def check_found(config: Config, found: Found) -> None:
    """Check that an input has shards that can be read.

    Raises:
        NothingUnder: the folder of `--partition` has no shards.
        UserError: the input has no shards; or none of the first ones has the columns that the config names.
    """
    shards = found.shards
    notes = "".join("; " + sentence for sentence in found.left_out.sentences())
    if not len(shards) and config.partition is not None:
        folder = join(config.input, config.partition)
        raise NothingUnder(f"--partition {config.partition}: there is nothing to label under {folder}{notes}.")
    if not len(shards):
        raise UserError(f"--input {config.input} {NONE_FOUND}{notes}.")
    check = None if "members" in shards.column_names else kind_of_shard(shards["path"][0].as_py()).check
    if check is None:
        return
    first_failure = None
    for row in shards.slice(0, MAX_CHECKED).to_pylist():
        try:
            uri = shard_uri(found.root, row)
            with open_read(uri.rpartition("/")[0] if row.get("part") else uri) as (file, _):
                return check(file, Inputs.of(config))
        except (ShardUnreadable, OSError) as error:
            if is_transient(error):
                raise
            first_failure = first_failure or f"{row['path']}: {describe_error(error)}"
    raise UserError(f"--input {config.input}: {first_failure}.")
