"""Names of classes, as a truth has them -> label_ids.

In: names, and the classes of a model. Out: the number of each; or the classes that the names make.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import UserError
from pipeline.model.classes import MAX_CLASSES, SCHEMA, load_classes

BACKGROUND = 1001  # classes: `weights.load` takes such a file for Google's, and drops the first


def make_classes(values: Iterable[str], kind: str | None = None) -> pa.Table:
    """The classes that a truth names, as `classes.SCHEMA`: in order of their names, or of their numbers.

    A wnid of ImageNet-1k keeps its label.

    Args:
        kind: `label_id` if the values are known to be these; each class then has that very one.

    Raises:
        UserError: fewer than two, or more than a label_id can count, or as many as weights cannot have; label_ids with a gap.
    """
    distinct = set(values)
    names = sorted(distinct, key=(lambda name: (int(name), name)) if all(name.isdecimal() for name in distinct) else None)
    if not 2 <= len(names) <= MAX_CLASSES or len(names) == BACKGROUND:
        why = "such a file is taken for Google's 1001, whose first is dropped" if len(names) == BACKGROUND else \
            f"a network has 2 to {MAX_CLASSES:,}"
        raise UserError(f"--truth: it names {len(names):,} classes{f' ({names[0]})' if len(names) == 1 else ''}, and {why}.")
    if kind == "label_id" and (gap := next((at for at, name in enumerate(names) if name != str(at)), None)) is not None:
        raise UserError(f"--truth: its label_ids are {', '.join(names[:3])}, …, and {gap} is missing: label_ids count from 0 without a gap. If these are "
                        "names of classes, call the column label.")
    known = {row["wnid"]: row["label"] for row in load_classes().to_pylist()}
    return pa.table([range(len(names)), [name if name in known else None for name in names],
                     [known.get(name, name) for name in names]], schema=SCHEMA)


def resolve_label_ids(values: pa.Array, classes: pa.Table, kind: str | None = None) -> tuple[pa.Array, str]:
    """The label_id of each value (int32, null for what is no class), and what the values are: `wnid`, `label` or `label_id`.

    Args:
        kind: what they are, if that is known. Where only names are due, or nothing is known, it is what most of them are.

    Raises:
        UserError: none of them is a class; or they name classes of which two have the same name.
    """
    distinct = values.unique()
    ids = classes["label_id"].cast(pa.int32()).combine_chunks()
    columns = {"wnid": classes["wnid"].combine_chunks(), "label": classes["label"].combine_chunks(), "label_id": ids.cast(pa.string())}
    counts = {name: pc.sum(pc.is_in(_without_zeros(distinct) if name == "label_id" else distinct, column)).as_py() or 0
              for name, column in columns.items() if kind in (None, "label", name)}
    chosen = max(counts, key=lambda name: counts[name])
    if not counts[chosen]:
        named = ", ".join(f"{row['label_id']} {row['label']}" for row in classes.slice(0, 3).to_pylist())
        raise UserError(f"--truth: {distinct[0].as_py()!r} is no {kind if kind in ('label_id', 'wnid') else 'wnid, label or label_id'} of the model's "
                        f"{len(classes)} classes{f', nor are {len(distinct) - 1} others' if len(distinct) > 1 else ''}; they are {named}, …")
    column = columns[chosen]
    used = column.filter(pc.is_in(column, distinct))
    if chosen != "label_id" and len(used.unique()) < len(used):
        raise UserError(f"--truth: it names classes by their {chosen}, and two have the same; use label_id.")
    return ids.take(pc.index_in(_without_zeros(values) if chosen == "label_id" else values, column)), chosen


def find_targets(values: list[str], classes: pa.Table) -> np.ndarray:
    """The label_id of each value, int64 [N]; -1 for what is no class."""
    by_name = {row[name]: row["label_id"] for name in ("label", "wnid") for row in classes.to_pylist() if row[name]}
    return np.array([by_name.get(value, -1) for value in values], np.int64)


def _without_zeros(values: pa.Array) -> pa.Array:
    return pc.replace_substring_regex(values, r"^0+(\d+)$", r"\1")
