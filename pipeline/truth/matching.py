"""Truths, as people name their images -> truths of the images that the tables have.

In: `SAID`: for each truth a name, and perhaps the shard; and the keys of the images. Out: `Matched`.
The rules are tried in order, each only for what those before it left over: shard and key; the key alone; the path without its
suffix; the key that `jobs/pack.py` would give it; the last parts of either path. A name that fits several images is of none of them.
Not here: where truths are read (`truth`), and what they say.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import UserError
from pipeline.formats.left_out import IMAGE_SUFFIXES

SAID = pa.schema([
    ("shard", pa.string()),   # null: not said
    ("name", pa.string()),    # of an image: its key, or what a person would call it
    ("value", pa.string()),   # of the class: its wnid, label or label_id
    ("strange", pa.bool_()),  # the place itself says that this is none of its classes
    ("line", pa.int64()),     # of the CSV; null elsewhere
])
TRUTH = pa.schema([
    ("shard", pa.string()),  # as in the labels table
    ("key", pa.string()),
    *(SAID.field(name) for name in ("value", "strange", "line")),
])
IMAGES = pa.schema([("shard", pa.string()), ("key", pa.string())])
GROUP = r"^images-(first|[0-9a-f]{12})$"  # of loose images: an image may be in another one the next night
MOST_PARTS = 8  # of a path that are compared
_SUFFIX = rf"(?i)({'|'.join(suffix.replace('.', '[.]') for suffix in IMAGE_SUFFIXES)})$"


@dataclass(frozen=True)
class Matched:
    """`truth`: a table of `TRUTH`, one row an image. `unmatched`, `ambiguous`: truths of no image, and of several; tables of `SAID`."""

    truth: pa.Table
    unmatched: pa.Table
    ambiguous: pa.Table


def match(said: pa.Table, images: pa.Table, where: str) -> Matched:
    """The truths of images.

    Args:
        said: a table of `SAID`.
        images: a table of `IMAGES`; a key may occur several times in a shard.
        where: `--truth`, for errors.

    Raises:
        UserError: one key of one shard has two truths.
    """
    said = said.append_column("row", pa.array(range(len(said)), pa.int64()))
    images = images.group_by(IMAGES.names, use_threads=False).aggregate([])
    images = images.append_column("at", pa.array(range(len(images)), pa.int64()))
    exact = said.join(images, ["shard", "name"], ["shard", "key"], "inner").select(["row", "at"])
    found = [_agreed(exact, said, images, where)]
    left, free = _without(said, "row", exact), _without(images, "at", exact)
    unclear = [pa.array([], pa.int64())]
    # What names a shard is of that shard, unless that is a group of loose images.
    left = left.filter(pc.or_(pc.is_null(left["shard"]), pc.match_substring_regex(pc.coalesce(left["shard"], pa.scalar("")), GROUP)))
    for names, keys in _forms(left, free):
        if not len(left) or not len(free):
            break
        pairs = _pairs(left, names, free, keys)
        one, several = _parted(pairs, left)
        found.append(one)
        unclear.append(several["row"].combine_chunks())
        left, free = _without(left, "row", pairs), _without(free, "at", one)
    pairs = pa.concat_tables(found)
    truth = pairs.join(said, "row").join(images, "at", right_suffix="_of_image").sort_by("row")
    several_fit = pc.is_in(said["row"], pa.concat_arrays(unclear))
    of_none = pc.invert(pc.or_(several_fit, pc.is_in(said["row"], pairs["row"].combine_chunks())))
    columns = {"shard": truth["shard_of_image"], "key": truth["key"], **{name: truth[name] for name in ("value", "strange", "line")}}
    return Matched(pa.table(columns, schema=TRUTH), said.filter(of_none).select(SAID.names), said.filter(several_fit).select(SAID.names))


def _agreed(pairs: pa.Table, said: pa.Table, images: pa.Table, where: str) -> pa.Table:
    """One truth an image. Raises UserError if two say different things of one."""
    values = pairs.join(said.select(["row", "value"]), "row")
    each = values.group_by("at", use_threads=False).aggregate([("value", "count_distinct"), ("row", "min")])
    twice = each.filter(pc.greater(each["value_count_distinct"], 1))
    if len(twice):
        image = images.filter(pc.equal(images["at"], twice["at"][0]))
        raise UserError(f"--truth {where}: it says two things of {image['key'][0]} in {image['shard'][0]}.")
    return pa.table({"row": each["row_min"], "at": each["at"]})


def _parted(pairs: pa.Table, said: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The pairs of a truth and an image that are sure; and those of a truth of several images, or of an image that several values fit."""
    images = pairs.group_by("row", use_threads=False).aggregate([("at", "count")])
    values = pairs.join(said.select(["row", "value"]), "row").group_by("at", use_threads=False).aggregate([("value", "count_distinct")])
    unsure = pc.or_(pc.is_in(pairs["row"], images.filter(pc.greater(images["at_count"], 1))["row"]),
                    pc.is_in(pairs["at"], values.filter(pc.greater(values["value_count_distinct"], 1))["at"]))
    each = pairs.filter(pc.invert(unsure)).group_by("at", use_threads=False).aggregate([("row", "min")])
    return pa.table({"row": each["row_min"], "at": each["at"]}), pairs.filter(unsure)


def _forms(said: pa.Table, images: pa.Table) -> Iterator[tuple[pa.Table, pa.Table]]:
    """Of each rule the form of the names, by `row`, and that of the keys, by `at`; the strictest rule first."""
    names, keys = pa.table({"row": said["row"], "form": said["name"]}), pa.table({"at": images["at"], "form": images["key"]})
    yield names, keys
    for make in (_plain, _packed):
        names, keys = (table.set_column(1, "form", make(table["form"])) for table in (names, keys))
        yield names, keys
    for number in range(MOST_PARTS, 0, -1):
        yield _with_parts(names, number), _tails(keys, number)
        yield _tails(names, number), _with_parts(keys, number)


def _with_parts(table: pa.Table, number: int) -> pa.Table:
    """The paths that have so many parts."""
    return table.filter(pc.equal(pc.count_substring(table["form"], "/"), number - 1))


def _tails(table: pa.Table, number: int) -> pa.Table:
    """The last parts of the paths that have more."""
    longer = table.filter(pc.greater(pc.count_substring(table["form"], "/"), number - 1))
    tails = pc.extract_regex(longer["form"], rf"(?s)(?P<tail>[^/]*(?:/[^/]*){{{number - 1}}})$")
    return longer.set_column(1, "form", pc.struct_field(tails, "tail"))


def _pairs(said: pa.Table, names: pa.Table, images: pa.Table, keys: pa.Table) -> pa.Table:
    """The rows of truths and images that are left and have the same form."""
    names = names.filter(pc.is_in(names["row"], said["row"].combine_chunks()))
    keys = keys.filter(pc.is_in(keys["at"], images["at"].combine_chunks()))
    return names.join(keys, "form", join_type="inner").select(["row", "at"])


def _without(table: pa.Table, column: str, pairs: pa.Table) -> pa.Table:
    return table.filter(pc.invert(pc.is_in(table[column], pairs[column].combine_chunks())))


def _plain(paths: pa.ChunkedArray) -> pa.ChunkedArray:
    """Paths without a scheme, a dot before them, and the suffix of an image; / for \\, Unicode composed."""
    paths = pc.replace_substring(pc.utf8_normalize(paths, "NFC"), "\\", "/")
    paths = pc.replace_substring_regex(paths, r"^[A-Za-z0-9+.-]+://|^(\./)+|^/+", "")
    return pc.replace_substring_regex(paths, _SUFFIX, "")


def _packed(paths: pa.ChunkedArray) -> pa.ChunkedArray:
    """Plain paths as `jobs/pack.py` makes keys of them: no dot before a base name, `_` for dots in it."""
    split = pc.extract_regex(paths, r"(?s)^(?P<folder>(?:.*/)?)[.]*(?P<base>[^/]*)$")
    return pc.binary_join_element_wise(pc.struct_field(split, "folder"), pc.replace_substring(pc.struct_field(split, "base"), ".", "_"), "")
