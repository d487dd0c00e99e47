"""Truths that name images in people's ways -> truths of the images in the tables.

In: a table of `GIVEN_TRUTHS`: a name of an image and perhaps its shard, with a value; and the keys of the images.
Out: a `Matched`.
There are several rules. Each rule is tried only for the truths and images that the rules before it have left over:
shard and key; the key alone; the path without its suffix; the key that `jobs/pack.py` would make; the last parts of
either path. A name that fits several images is the truth of none of them.
Not here: reading truths (`sources.py`); the meaning of the values (`class_ids.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import UserError
from pipeline.formats.left_out import IMAGE_SUFFIXES

GIVEN_TRUTHS = pa.schema([
    ("shard", pa.string()),   # null if unknown
    ("name", pa.string()),    # of an image: its key, its path or a similar name
    ("value", pa.string()),   # names the class: its wnid, label or label_id
    ("strange", pa.bool_()),  # True if the source lists its classes and the value is none of them
    ("line", pa.int64()),     # in a CSV; null for other sources
])
IMAGE_TRUTHS = pa.schema([
    ("shard", pa.string()),  # as in the labels table
    ("key", pa.string()),
    *(GIVEN_TRUTHS.field(name) for name in ("value", "strange", "line")),
])
IMAGES = pa.schema([("shard", pa.string()), ("key", pa.string())])
GROUP_NAME = r"^images-(first|[0-9a-f]{12})$"  # of loose images; the next night an image may be in another group
MAX_PARTS = 8  # last parts of a path that are compared
_IMAGE_SUFFIX = rf"(?i)({'|'.join(suffix.replace('.', '[.]') for suffix in IMAGE_SUFFIXES)})$"


@dataclass(frozen=True)
class Matched:
    """The result of matching.

    Attributes:
        truth: a table of `IMAGE_TRUTHS`, at most one row for each image.
        unmatched: truths of no image, a table of `GIVEN_TRUTHS`.
        ambiguous: truths that fit several images, or images that fit several values; a table of `GIVEN_TRUTHS`.
    """

    truth: pa.Table
    unmatched: pa.Table
    ambiguous: pa.Table


# In the private functions a pair is a row of a truth (`row`) with a row of an image (`at`).


def match(given: pa.Table, images: pa.Table, where: str) -> Matched:
    """Match truths and images.

    Args:
        given: a table of `GIVEN_TRUTHS`.
        images: a table of `IMAGES`; a key may occur several times in a shard.
        where: the value of `--truth`, for errors.

    Raises:
        UserError: one key of one shard has two different truths.
    """
    given = given.append_column("row", pa.array(range(len(given)), pa.int64()))
    images = images.group_by(IMAGES.names, use_threads=False).aggregate([])
    images = images.append_column("at", pa.array(range(len(images)), pa.int64()))
    exact = given.join(images, ["shard", "name"], ["shard", "key"], "inner").select(["row", "at"])
    matches = [_check_agreement(exact, given, images, where)]
    open_truths, open_images = _without(given, "row", exact), _without(images, "at", exact)
    ambiguous_rows = [pa.array([], pa.int64())]
    # A truth with a shard belongs to that shard, unless the shard is a group of loose images.
    is_in_group = pc.match_substring_regex(pc.coalesce(open_truths["shard"], pa.scalar("")), GROUP_NAME)
    open_truths = open_truths.filter(pc.or_(pc.is_null(open_truths["shard"]), is_in_group))
    for names, keys in _iterate_rules(open_truths, open_images):
        if not len(open_truths) or not len(open_images):
            break
        pairs = _pairs_of_same_form(open_truths, names, open_images, keys)
        unique, ambiguous = _split_ambiguous(pairs, open_truths)
        matches.append(unique)
        ambiguous_rows.append(ambiguous["row"].combine_chunks())
        open_truths, open_images = _without(open_truths, "row", pairs), _without(open_images, "at", unique)
    pairs = pa.concat_tables(matches)
    truth = pairs.join(given, "row").join(images, "at", right_suffix="_of_image").sort_by("row")
    is_ambiguous = pc.is_in(given["row"], pa.concat_arrays(ambiguous_rows))
    is_matched = pc.is_in(given["row"], pairs["row"].combine_chunks())
    columns = {"shard": truth["shard_of_image"], "key": truth["key"],
               **{name: truth[name] for name in ("value", "strange", "line")}}
    unmatched = given.filter(pc.invert(pc.or_(is_ambiguous, is_matched)))
    return Matched(pa.table(columns, schema=IMAGE_TRUTHS), unmatched.select(GIVEN_TRUTHS.names),
                   given.filter(is_ambiguous).select(GIVEN_TRUTHS.names))


def _check_agreement(pairs: pa.Table, given: pa.Table, images: pa.Table, where: str) -> pa.Table:
    """The first pair of each image. Raises UserError if the truths of an image have different values."""
    values = pairs.join(given.select(["row", "value"]), "row")
    each_image = values.group_by("at", use_threads=False).aggregate([("value", "count_distinct"), ("row", "min")])
    contradictions = each_image.filter(pc.greater(each_image["value_count_distinct"], 1))
    if len(contradictions):
        image = images.filter(pc.equal(images["at"], contradictions["at"][0]))
        raise UserError(f"--truth {where}: it says two things of {image['key'][0]} in {image['shard'][0]}.")
    return pa.table({"row": each_image["row_min"], "at": each_image["at"]})


def _split_ambiguous(pairs: pa.Table, given: pa.Table) -> tuple[pa.Table, pa.Table]:
    """The pairs that are certain, one for each image; and the pairs of a truth that fits several images, or of an image
    that fits several values."""
    each_truth = pairs.group_by("row", use_threads=False).aggregate([("at", "count")])
    values = pairs.join(given.select(["row", "value"]), "row")
    each_image = values.group_by("at", use_threads=False).aggregate([("value", "count_distinct")])
    fits_images = pc.is_in(pairs["row"], each_truth.filter(pc.greater(each_truth["at_count"], 1))["row"])
    fits_values = pc.is_in(pairs["at"], each_image.filter(pc.greater(each_image["value_count_distinct"], 1))["at"])
    is_ambiguous = pc.or_(fits_images, fits_values)
    certain = pairs.filter(pc.invert(is_ambiguous)).group_by("at", use_threads=False).aggregate([("row", "min")])
    return pa.table({"row": certain["row_min"], "at": certain["at"]}), pairs.filter(is_ambiguous)


def _iterate_rules(given: pa.Table, images: pa.Table) -> Iterator[tuple[pa.Table, pa.Table]]:
    """For each rule, the strictest first: the form of the names by `row`, and the form of the keys by `at`.

    A truth and an image match by a rule if their forms are equal.
    """
    names = pa.table({"row": given["row"], "form": given["name"]})
    keys = pa.table({"at": images["at"], "form": images["key"]})
    yield names, keys
    for simplify in (_plain_paths, _packed_keys):
        names, keys = (table.set_column(1, "form", simplify(table["form"])) for table in (names, keys))
        yield names, keys
    for number in range(MAX_PARTS, 0, -1):
        yield _with_parts(names, number), _last_parts(keys, number)
        yield _last_parts(names, number), _with_parts(keys, number)


def _with_parts(table: pa.Table, number: int) -> pa.Table:
    """The rows whose path has this number of parts."""
    return table.filter(pc.equal(pc.count_substring(table["form"], "/"), number - 1))


def _last_parts(table: pa.Table, number: int) -> pa.Table:
    """The rows whose path has more parts, with the last parts of it."""
    longer = table.filter(pc.greater(pc.count_substring(table["form"], "/"), number - 1))
    tails = pc.extract_regex(longer["form"], rf"(?s)(?P<tail>[^/]*(?:/[^/]*){{{number - 1}}})$")
    return longer.set_column(1, "form", pc.struct_field(tails, "tail"))


def _pairs_of_same_form(given: pa.Table, names: pa.Table, images: pa.Table, keys: pa.Table) -> pa.Table:
    """The pairs with equal forms, of the truths in `given` and the images in `images` only."""
    names = names.filter(pc.is_in(names["row"], given["row"].combine_chunks()))
    keys = keys.filter(pc.is_in(keys["at"], images["at"].combine_chunks()))
    return names.join(keys, "form", join_type="inner").select(["row", "at"])


def _without(table: pa.Table, column: str, pairs: pa.Table) -> pa.Table:
    """The rows of a table that are in no pair."""
    return table.filter(pc.invert(pc.is_in(table[column], pairs[column].combine_chunks())))


def _plain_paths(paths: pa.ChunkedArray) -> pa.ChunkedArray:
    """Paths with / for \\, in composed Unicode, without scheme, without ./ or / at the start, without image suffix."""
    paths = pc.replace_substring(pc.utf8_normalize(paths, "NFC"), "\\", "/")
    paths = pc.replace_substring_regex(paths, r"^[A-Za-z0-9+.-]+://|^(\./)+|^/+", "")
    return pc.replace_substring_regex(paths, _IMAGE_SUFFIX, "")


def _packed_keys(paths: pa.ChunkedArray) -> pa.ChunkedArray:
    """The keys that `jobs/pack.py` makes of plain paths: no dot before a base name, `_` for the dots in it."""
    split = pc.extract_regex(paths, r"(?s)^(?P<folder>(?:.*/)?)[.]*(?P<base>[^/]*)$")
    base = pc.replace_substring(pc.struct_field(split, "base"), ".", "_")
    return pc.binary_join_element_wise(pc.struct_field(split, "folder"), base, "")
