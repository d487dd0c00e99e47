"""The classes of a network's outputs: label_id -> wnid and label.

In: a CSV of label_id,wnid,label (any fsspec URI), or nothing for ImageNet-1k.
Out: an Arrow table, ordered by label_id.
Not here: whether the weights have as many classes (`runners/checks.py`).

`imagenet_1k.csv` has torchvision's category names and the wnids of the ILSVRC-2012 synsets in sorted order, the order
in which timm lists them. Join on label_id or wnid, not on the label: "crane" is a bird (134) and a machine (517).
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from pathlib import Path

import pyarrow as pa

from pipeline.config import check_uri
from pipeline.errors import UserError
from pipeline.model.spelling import normalize_name
from pipeline.store import storage
from pipeline.store.explain import explaining_errors

IMAGENET_1K = Path(__file__).with_name("imagenet_1k.csv")
MAX_CLASSES = 2**15  # label_id is an int16
SCHEMA = pa.schema([("label_id", pa.int16()), ("wnid", pa.string()), ("label", pa.string())])


def load_classes(path: str | None = None) -> pa.Table:
    """The classes, ordered by label_id, which counts from 0 without a gap.

    Args:
        path: a UTF-8 CSV whose header names label_id, wnid and label, in any order; None is ImageNet-1k.
            Each label_id from 0 to n - 1 occurs once. A wnid may be empty, a label may not. `spelling.normalize_name`
            changes each name. No wnid occurs twice. Two classes may have the same label if both have a wnid.

    Returns:
        label_id int16, wnid string (null where the CSV has none), label string.

    Raises:
        UserError: the file cannot be read or breaks one of these rules.
    """
    if path is None:
        return _parse(IMAGENET_1K.read_bytes(), str(IMAGENET_1K))
    check_uri("classes", path)
    with explaining_errors("--classes", path):
        data = storage.read_bytes(path)
    return _parse(data, path)


def unique_names(classes: pa.Table) -> list[str]:
    """A name for each class: its label. If another class has the same label, the wnid stands behind it."""
    num_with_label = Counter(classes["label"].to_pylist())
    return [f"{row['label']} ({row['wnid']})" if num_with_label[row["label"]] > 1 else row["label"]
            for row in classes.to_pylist()]


def _parse(data: bytes, path: str) -> pa.Table:
    try:
        lines = csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        columns, rows = lines.fieldnames or [], list(lines)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"--classes {path} is not a CSV in UTF-8: {error}.") from None
    if sorted(columns) != sorted(SCHEMA.names):
        raise UserError(f"--classes {path} has columns {','.join(columns)!r}; it needs label_id,wnid,label.")
    if not 1 <= len(rows) <= MAX_CLASSES:
        raise UserError(f"--classes {path} has {len(rows)} classes; it needs 1 to {MAX_CLASSES}.")
    names_of_id: dict[int, tuple[str | None, str]] = {}
    row_of_wnid: dict[str, int] = {}
    row_of_label: dict[str, int] = {}
    wnid_of_label: dict[str, str] = {}
    for line, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise UserError(f"--classes {path}, row {line}, does not have three fields.")
        label_id, wnid, label = (normalize_name(row[name]) for name in SCHEMA.names)
        if not (label_id.isascii() and label_id.isdigit() and int(label_id) < len(rows)):
            raise UserError(f"--classes {path}, row {line}, has label_id {label_id!r}; with {len(rows)} classes it is "
                            f"one of 0 to {len(rows) - 1}.")
        if int(label_id) in names_of_id:
            raise UserError(f"--classes {path}, row {line}, has label_id {label_id} a second time.")
        if not label:
            raise UserError(f"--classes {path}, row {line}, has an empty label.")
        if wnid and wnid in row_of_wnid:
            raise UserError(f"--classes {path}, row {line}, has wnid {wnid!r} a second time: row {row_of_wnid[wnid]} "
                            "has it.")
        if label in row_of_label and not (wnid and wnid_of_label[label]):
            raise UserError(f"--classes {path}, row {line}, has label {label!r} a second time: row "
                            f"{row_of_label[label]} has it, and no wnids tell the two apart.")
        row_of_wnid[wnid], row_of_label[label], wnid_of_label[label] = line, line, wnid
        names_of_id[int(label_id)] = wnid or None, label
    ids = range(len(rows))
    return pa.table([list(ids), [names_of_id[i][0] for i in ids], [names_of_id[i][1] for i in ids]], schema=SCHEMA)
