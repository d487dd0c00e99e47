"""A CSV of truths in one of the usual forms -> a table of `GIVEN_TRUTHS`.

In: the URI of the file. One column names the images: `key` (with `shard`, if there is such a column), or `file_name`,
`path`, `ImageId`, `uri` and the like. One column names the classes: `label_id`, `wnid`, `label` and the like, or
`PredictionString` of Kaggle's ImageNet.
Out: the truths, and the kind of their values.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import check_uri
from pipeline.errors import UserError
from pipeline.inputs.csv_text import parse_csv
from pipeline.model.spelling import read_id, read_name
from pipeline.store import storage
from pipeline.store.explain import explaining_errors
from pipeline.truth.matching import GIVEN_TRUTHS

# Bare names: in lower case, without blanks and punctuation. The first one that the file has is used.
IMAGE_COLUMNS = ("key", "filename", "file", "filepath", "path", "imagepath", "imagename", "imagefile", "imageid", "uri",
                 "url", "image", "img", "id", "name")
CLASS_COLUMNS = {
    "label_id": ("labelid", "classid", "classindex", "classidx", "categoryid"),
    "wnid": ("wnid", "synset", "synsetid"),
    "label": ("label", "class", "classname", "category", "categoryname", "target", "predictionstring"),
}
KINDS_FOR_FIT = ("label", "wnid", "label_id")  # the preferred kind first: people will read the names of the classes
BOXES = re.compile(r"\s*(n\d{8})(\s+-?\d+){4}")  # of PredictionString: a wnid and the corners of its box


class CsvTruths(NamedTuple):
    """The truths of a CSV.

    Attributes:
        given: a table of `GIVEN_TRUTHS`.
        kind: what the values are: `label_id`, `wnid` or `label`.
        column: the name of the column with the values.
        spellings: pairs of a value and its text in the file.
    """

    given: pa.Table
    kind: str
    column: str
    spellings: set[tuple[str, str]]


def read_truth_csv(uri: str, for_fit: bool) -> CsvTruths:
    """Read a CSV of truths.

    Args:
        for_fit: True if classes will be made of the values. If several columns name classes, the column with the most
            different values is used then, and names are preferred to numbers.

    Raises:
        UserError: the file cannot be read, lacks a column, or a cell is no number where a number is needed. The
            sentence names the line.
    """
    check_uri("truth", uri)
    with explaining_errors("--truth", uri):
        data = storage.read_bytes(uri)
    columns, lines = parse_csv("truth", uri, data, title="a CSV of truths")
    column_of = {_bare_name(name): name for name in reversed(columns)}
    image_column = next((column_of[bare] for bare in IMAGE_COLUMNS if bare in column_of), None)
    column_of_kind = {kind: column_of[bare] for kind, bare_names in CLASS_COLUMNS.items()
                      for bare in reversed(bare_names) if bare in column_of}
    if image_column is None or not column_of_kind:
        raise UserError(f"--truth {uri}: it needs a column that names the images (key, file_name, path, …) and one "
                        f"that names the classes (label_id, wnid or label); it has {', '.join(columns) or 'no line'}.")
    kind = next(iter(column_of_kind))
    if for_fit:
        kind = max(KINDS_FOR_FIT, key=lambda kind: len({*columns.get(column_of_kind.get(kind, ""), [])}))
    column = column_of_kind[kind]
    has_boxes = _bare_name(column) == "predictionstring"
    parse = _parse_boxes if has_boxes else read_id if kind == "label_id" else read_name
    texts, names = columns[column], columns[image_column]
    values = [_parse_cell(parse, uri, line, column, text) for line, text in zip(lines, texts, strict=True)]
    has_shards = "shard" in column_of and image_column == column_of.get("key")
    shards = columns[column_of["shard"]] if has_shards else [""] * len(lines)
    shards_or_null = [shard or None for shard in shards]
    rows = pa.table([shards_or_null, names, values, [False] * len(lines), lines], schema=GIVEN_TRUTHS)
    given = rows.filter(pc.and_(pc.is_valid(rows["value"]), pc.not_equal(rows["name"], "")))
    spellings = {(value, text) for value, text in zip(values, texts, strict=True)
                 if value is not None and parse is read_name}
    return CsvTruths(given, kind, column, spellings)


def _bare_name(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).lower()


def _parse_cell(parse: Callable[[str], str | None], uri: str, line: int, column: str, text: str) -> str | None:
    try:
        return parse(text)
    except ValueError as error:
        fault = error if parse is _parse_boxes else "is no number of a class"
        raise UserError(f"--truth {uri}: line {line}, column {column}: {text!r} {fault}; leave the cell empty where an "
                        "image has no truth.") from error


def _parse_boxes(text: str) -> str | None:
    """The wnid of the boxes of an image. Raises ValueError if the text is no box, or its boxes have several wnids."""
    wnids = {match[1] for match in BOXES.finditer(text)} or ({text} if re.fullmatch(r"n\d{8}", text) else set())
    if text and len(wnids) != 1:
        raise ValueError("has boxes of several classes" if wnids else "is no wnid and box")
    return next(iter(wnids), None)
