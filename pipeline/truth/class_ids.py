"""The names of classes that truths give -> label_ids.

In: names, and the classes of a model. Out: the label_id of each name; or classes made of the names.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import UserError
from pipeline.model.classes import MAX_CLASSES, SCHEMA, load_classes
from pipeline.model.spec import NUM_WITH_BACKGROUND


def make_classes(values: Iterable[str], kind: str | None = None) -> pa.Table:
    """The classes that truths name, as a table of `classes.SCHEMA`, in order of their names, or of their numbers.

    A wnid of ImageNet-1k gets ImageNet's label.

    Args:
        kind: `label_id` if the values are known to be label_ids. Then each class has its value as label_id.

    Raises:
        UserError: there are fewer than two classes, more than an int16 can count, or exactly 1001, which weights cannot
            have; or the label_ids have a gap.
    """
    distinct = set(values)
    are_numbers = all(name.isdecimal() for name in distinct)
    names = sorted(distinct, key=(lambda name: (int(name), name)) if are_numbers else None)
    if not 2 <= len(names) <= MAX_CLASSES or len(names) == NUM_WITH_BACKGROUND:
        reason = (f"such a file is taken for Google's {NUM_WITH_BACKGROUND}, whose first is dropped"
                  if len(names) == NUM_WITH_BACKGROUND else f"a network has 2 to {MAX_CLASSES:,}")
        only_name = f" ({names[0]})" if len(names) == 1 else ""
        raise UserError(f"--truth: it names {len(names):,} classes{only_name}, and {reason}.")
    if kind == "label_id":
        gap = next((number for number, name in enumerate(names) if name != str(number)), None)
        if gap is not None:
            raise UserError(f"--truth: its label_ids are {', '.join(names[:3])}, …, and {gap} is missing: label_ids "
                            "count from 0 without a gap. If these are names of classes, call the column label.")
    label_of_wnid = {row["wnid"]: row["label"] for row in load_classes().to_pylist()}
    wnids = [name if name in label_of_wnid else None for name in names]
    labels = [label_of_wnid.get(name, name) for name in names]
    return pa.table([range(len(names)), wnids, labels], schema=SCHEMA)


def resolve_label_ids(values: pa.Array, classes: pa.Table, kind: str | None = None) -> tuple[pa.Array, str]:
    """The label_id of each value, int32, null if it is no class; and the kind of the values.

    Args:
        kind: `wnid` or `label_id` if the values are known to be that. `label` or None: the kind of most values counts.

    Raises:
        UserError: no value is a class; or two of the classes that the values name have the same name.
    """
    distinct = values.unique()
    ids = classes["label_id"].cast(pa.int32()).combine_chunks()
    columns = {"wnid": classes["wnid"].combine_chunks(), "label": classes["label"].combine_chunks(),
               "label_id": ids.cast(pa.string())}
    texts_of = {"wnid": distinct, "label": distinct, "label_id": _without_zeros(distinct)}
    num_found = {name: pc.sum(pc.is_in(texts_of[name], column)).as_py() or 0
                 for name, column in columns.items() if kind in (None, "label", name)}
    best_kind = max(num_found, key=lambda name: num_found[name])
    if not num_found[best_kind]:
        kinds = kind if kind in ("label_id", "wnid") else "wnid, label or label_id"
        others = f", nor are {len(distinct) - 1} others" if len(distinct) > 1 else ""
        examples = ", ".join(f"{row['label_id']} {row['label']}" for row in classes.slice(0, 3).to_pylist())
        raise UserError(f"--truth: {distinct[0].as_py()!r} is no {kinds} of the model's {len(classes)} "
                        f"classes{others}; they are {examples}, …")
    column = columns[best_kind]
    named_classes = column.filter(pc.is_in(column, distinct))
    if best_kind != "label_id" and len(named_classes.unique()) < len(named_classes):
        raise UserError(f"--truth: it names classes by their {best_kind}, and two have the same; use label_id.")
    places = pc.index_in(_without_zeros(values) if best_kind == "label_id" else values, column)
    return ids.take(places), best_kind


def find_targets(values: list[str], classes: pa.Table) -> np.ndarray:
    """The label_id of each value, int64 [N]; -1 if the value is neither a label nor a wnid."""
    id_of_name = {row[name]: row["label_id"] for name in ("label", "wnid") for row in classes.to_pylist() if row[name]}
    return np.array([id_of_name.get(value, -1) for value in values], np.int64)


def _without_zeros(values: pa.Array) -> pa.Array:
    """The values without leading zeros before a number."""
    return pc.replace_substring_regex(values, r"^0+(\d+)$", r"\1")
