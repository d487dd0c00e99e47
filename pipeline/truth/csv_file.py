"""A CSV of truths, as people have them -> `SAID`.

In: the file's URI. A column names the images: `key` (with `shard`, if there is one), or `file_name`, `path`, `ImageId`, `uri` and the
like. A column names the classes: `label_id`, `wnid`, `label` and the like, or Kaggle's `PredictionString` of ImageNet.
Out: the truths, and what their values are.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pyarrow as pa

from pipeline.config import check_uri
from pipeline.errors import UserError
from pipeline.inputs.csv_text import parse_csv
from pipeline.model.spelling import read_id, read_name
from pipeline.store import storage
from pipeline.store.explain import explaining_errors
from pipeline.truth.matching import SAID

# By their names without case, blanks and marks; the first that there is.
IMAGE_COLUMNS = ("key", "filename", "file", "filepath", "path", "imagepath", "imagename", "imagefile", "imageid", "uri", "url", "image", "img", "id",
                 "name")
CLASS_COLUMNS = {"label_id": ("labelid", "classid", "classindex", "classidx", "categoryid"), "wnid": ("wnid", "synset", "synsetid"),
                 "label": ("label", "class", "classname", "category", "categoryname", "target", "predictionstring")}
FOR_NAMES = ("label", "wnid", "label_id")  # a fit shows its classes to people
BOXES = re.compile(r"\s*(n\d{8})(\s+-?\d+){4}")  # of PredictionString: a wnid and the corners of its box


def read_truth_csv(uri: str, for_fit: bool) -> tuple[pa.Table, str, str, set[tuple[str, str]]]:
    """A table of `SAID`; what the values are (`label_id`, `wnid` or `label`); the column that they are from; values and their spellings.

    Args:
        for_fit: classes are made of the values. Of several columns the one counts that tells most classes apart, names before numbers.

    Raises:
        UserError: the file cannot be read, has no such columns, or a cell is no number where a number is due; the sentence names the line.
    """
    check_uri("truth", uri)
    with explaining_errors("--truth", uri):
        data = storage.read_bytes(uri)
    columns, lines = parse_csv("truth", uri, data, what="a CSV of truths")
    by_bare = {re.sub(r"[\W_]+", "", name).lower(): name for name in reversed(columns)}
    image = next((by_bare[bare] for bare in IMAGE_COLUMNS if bare in by_bare), None)
    of_classes = {kind: by_bare[bare] for kind, known in CLASS_COLUMNS.items() for bare in reversed(known) if bare in by_bare}
    if image is None or not of_classes:
        raise UserError(f"--truth {uri}: it needs a column that names the images (key, file_name, path, …) and one that names the classes "
                        f"(label_id, wnid or label); it has {', '.join(columns) or 'no line'}.")
    kind = max(FOR_NAMES, key=lambda kind: len({*columns.get(of_classes.get(kind, ""), [])})) if for_fit else next(iter(of_classes))
    read = _read_boxes if re.sub(r"[\W_]+", "", of_classes[kind]).lower() == "predictionstring" else read_id if kind == "label_id" else read_name
    values = [_cell(read, uri, line, of_classes[kind], text) for line, text in zip(lines, columns[of_classes[kind]], strict=True)]
    shards = columns[by_bare["shard"]] if "shard" in by_bare and image == by_bare.get("key") else [""] * len(lines)
    rows = [(shard or None, name, value, False, line) for shard, name, value, line in zip(shards, columns[image], values, lines, strict=True)
            if value is not None and name]
    said = pa.table([list(column) for column in zip(*rows, strict=True)] or [[] for _ in SAID], schema=SAID)
    spellings = {(value, text) for value, text in zip(values, columns[of_classes[kind]], strict=True) if value is not None and read is read_name}
    return said, kind, of_classes[kind], spellings


def _cell(read: Callable[[str], str | None], uri: str, line: int, column: str, text: str) -> str | None:
    try:
        return read(text)
    except ValueError as error:
        raise UserError(f"--truth {uri}: line {line}, column {column}: {text!r} {error if read is _read_boxes else 'is no number of a class'}; "
                        "leave the cell empty where an image has no truth.") from error


def _read_boxes(text: str) -> str | None:
    """The wnid of an image's boxes. Raises ValueError if they have several."""
    found = {match[1] for match in BOXES.finditer(text)} or ({text} if re.fullmatch(r"n\d{8}", text) else set())
    if text and len(found) != 1:
        raise ValueError("has boxes of several classes" if found else "is no wnid and box")
    return next(iter(found), None)
