"""What the images show in truth: a name, wnid or number of a class for each.

In: a CSV, or the shards themselves: a text member beside each image, a column, the folders. Out: a table of `TRUTH`.
Not here: comparing it with the labels (`evaluate.py`), and learning from it (`finetune.py`, `train.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import islice
from math import sqrt
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from pipeline import storage
from pipeline.classes import MAX_CLASSES, SCHEMA, load_classes
from pipeline.config import UserError, canonical_uri, check_uri
from pipeline.inputs import NONE_FOUND, Inputs, find
from pipeline.retry import Replaced, told
from pipeline.shards import ShardUnreadable

TRUTH = pa.schema([
    ("shard", pa.string()),  # as in the labels table
    ("key", pa.string()),
    ("value", pa.string()),  # of the class: its wnid, label or label_id
])
IN_CSV = ("label_id", "wnid", "label")
WHERE = re.compile(r"folder|member:[^:/]+|column:.+|.+\.csv", re.IGNORECASE | re.DOTALL)
HELP = ("FILE.csv (columns shard, key, and label_id, wnid or label), folder (the name of the folder an image is in), "
        "member:SUFFIX (of a tar, beside the image: member:cls) or column:NAME (of a Parquet file)")
SHARDS_AT_ONCE = 4
Spread = Callable[[Callable[[Any], pa.Table], Iterable[Any]], Iterable[pa.Table]]
BACKGROUND = 1001  # classes: `weights.load` takes such a file for Google's, and drops the first
LOOKED_AT = 20  # samples of the first shard, to find where the truth is


def read(where: str, input_uri: str | None, inputs: Inputs, format: str = "auto", spread: Spread | None = None) -> pa.Table:
    """The truth as a table of `TRUTH`, of the images that have one.

    Args:
        where: one of `HELP`.
        input_uri: the shards; a CSV does without.
        inputs: how they are read; its `truth` does not count.
        spread: calls a function for each shard, and gives the results in order (default: some threads of this process).

    Raises:
        UserError: there is none, it cannot be read, or it says two things of one image.
    """
    if not WHERE.fullmatch(where):
        raise UserError(f"--truth {where}: it takes {HELP}.")
    if where.lower().endswith(".csv"):
        truth = _read_csv(where)
    elif input_uri is None:
        raise UserError(f"--truth {where}: it is in the shards, so name them with --input.")
    else:
        truth = pa.concat_tables([TRUTH.empty_table(), *_read_shards(input_uri, replace(inputs, truth=where), format, spread)])
    if not len(truth):
        raise UserError(f"--truth {where}: no image has any.")
    said = truth.group_by(["shard", "key"]).aggregate([("value", "count_distinct")])
    twice = said.filter(pc.greater(said["value_count_distinct"], 1))
    if len(twice):
        raise UserError(f"--truth {where}: it says two things of {twice['key'][0]} in {twice['shard'][0]}.")
    return truth.group_by(["shard", "key"], use_threads=False).aggregate([("value", "first")]).rename_columns(TRUTH.names)


def look(input_uri: str, inputs: Inputs, format: str = "auto") -> str:
    """Where the truth seems to be: `member:cls` or `member:txt` of tars, `column:label` of Parquet, else `folder`.

    Raises:
        UserError: none of these has any, or the input cannot be read.
    """
    shard, uri, group = next(shards(input_uri, format))
    kind = "images" if group else "parquet" if uri.lower().endswith(".parquet") else "tar"
    places = {"images": [], "parquet": ["column:label"], "tar": ["member:cls", "member:txt"]}[kind] + ["folder"]
    for where in places:
        try:
            with replace(inputs, truth=where).open(uri, group) as (samples, _):
                if any(sample.truth for sample in islice(samples, LOOKED_AT)):
                    return where
        except ShardUnreadable:
            continue
        except (Replaced, OSError) as error:
            raise storage.explain("input", input_uri, error) from error
    raise UserError(f"--input {input_uri}: {shard} has no truth in {' or '.join(places)}; say where it is with --truth.")


def resolve(values: pa.Array, classes: pa.Table) -> tuple[pa.Array, str]:
    """The label_id of each value, and what the values are: `wnid`, `label` or `label_id`, whichever all of them are.

    A label_id may be of no class: that is for the caller to judge.

    Raises:
        UserError: they are none of these; the message names one that is of no class.
    """
    distinct = values.unique()
    for name in ("wnid", "label"):
        known = classes[name].combine_chunks()
        if pc.all(pc.is_in(distinct, known)).as_py():
            if len(pc.unique(known)) < len(known):
                raise UserError(f"--truth: it names classes by their {name}, and two have the same; use label_id.")
            return classes["label_id"].cast(pa.int32()).take(pc.index_in(values, known)).combine_chunks(), name
    if pc.all(pc.match_substring_regex(distinct, r"^-?\d{1,9}$")).as_py():
        return values.cast(pa.int32()), "label_id"
    either = pc.or_(pc.is_in(distinct, classes["wnid"].combine_chunks()), pc.is_in(distinct, classes["label"].combine_chunks()))
    strange = distinct.filter(pc.invert(either))
    example = (strange if len(strange) else distinct)[0].as_py()
    raise UserError(f"--truth: {example!r} is no wnid, label or label_id of the model's {len(classes)} classes"
                    f"{f', nor are {len(strange) - 1} others' if len(strange) > 1 else ''}.")


def classes_of(values: list[str]) -> pa.Table:
    """The classes that a truth names, as `classes.SCHEMA`: in order of their names, or of their numbers.

    A wnid of ImageNet-1k keeps its label.

    Raises:
        UserError: fewer than two, or more than a label_id can count, or as many as weights cannot have.
    """
    names = sorted(set(values), key=(lambda name: (int(name), name)) if all(name.isdecimal() for name in values) else None)
    if not 2 <= len(names) <= MAX_CLASSES or len(names) == BACKGROUND:
        why = "such a file is taken for Google's 1001, whose first is dropped" if len(names) == BACKGROUND else \
            f"a network has 2 to {MAX_CLASSES:,}"
        raise UserError(f"--truth: it names {len(names):,} classes, and {why}.")
    known = {row["wnid"]: row["label"] for row in load_classes().to_pylist()}
    return pa.table([range(len(names)), [name if name in known else None for name in names],
                     [known.get(name, name) for name in names]], schema=SCHEMA)


def targets(values: list[str], classes: pa.Table) -> np.ndarray:
    """The label_id of each value, int64 [N]; -1 for what is no class."""
    by_name = {row[name]: row["label_id"] for name in ("label", "wnid") for row in classes.to_pylist() if row[name]}
    return np.array([by_name.get(value, -1) for value in values], np.int64)


def margin(share: float, number: int) -> float:
    """Half the width of the 95 % interval of a share that was found in `number` images, by the normal approximation."""
    return 1.96 * sqrt(share * (1 - share) / number) if number else 0.0


def interval(share: float, number: int) -> tuple[float, float]:
    """The 95 % interval of a share that was found in `number` images, by Wilson's formula; of none, from 0 to 1."""
    if not number:
        return 0.0, 1.0
    z = 1.96
    centre, spread = share + z**2 / (2 * number), z * sqrt(share * (1 - share) / number + z**2 / (4 * number**2))
    whole = 1 + z**2 / number
    return max(0.0, (centre - spread) / whole), min(1.0, (centre + spread) / whole)


def held_out(sha256: str, share: float, salt: int = 0) -> bool:
    """Whether an image is held out: of all digests a share is, always the same ones, so copies stay together."""
    return int(sha256[8 * salt:8 * salt + 8], 16) < share * 2**32


def shards(input_uri: str, format: str) -> Iterator[tuple[str, str, dict[str, Any] | None]]:
    """Path, URI and group (if it is one) of each shard.

    Raises:
        UserError: there are none, or they cannot be listed.
    """
    check_uri("input", input_uri)
    input_uri = canonical_uri(input_uri)
    try:
        found = find(input_uri, format).shards
    except UserError:
        raise
    except Exception as error:  # each store has its own exceptions
        raise storage.explain("input", input_uri, error) from error
    if not len(found):
        raise UserError(f"--input {input_uri} {NONE_FOUND}.")
    for listed in found.to_pylist():
        yield listed["path"], storage.child(input_uri, listed["path"]), listed if "members" in listed else None


def _read_csv(uri: str) -> pa.Table:
    check_uri("truth", uri)
    try:
        data = storage.read_bytes(uri)
    except Exception as error:  # each store has its own exceptions
        raise storage.explain("truth", uri, error) from error
    try:
        names = pyarrow.csv.read_csv(pa.BufferReader(data)).column_names
        table = pyarrow.csv.read_csv(pa.BufferReader(data), convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False))
    except pa.ArrowInvalid as error:
        raise UserError(f"--truth {uri}: not a CSV that can be read: {' '.join(str(error).split())}.") from error
    value = next((name for name in IN_CSV if name in names), None)
    if value is None or not {"shard", "key"} <= {*names}:
        raise UserError(f"--truth {uri}: it needs columns shard, key, and label_id, wnid or label; "
                        f"it has {', '.join(names)}.")
    return table.select(["shard", "key", value]).rename_columns(TRUTH.names).filter(pc.not_equal(table[value], ""))


def _read_shards(input_uri: str, inputs: Inputs, format: str, spread: Spread | None) -> Iterator[pa.Table]:
    work = partial(_read_shard, input_uri, inputs)
    if spread is not None:
        yield from spread(work, shards(input_uri, format))
        return
    with ThreadPoolExecutor(SHARDS_AT_ONCE) as pool:
        yield from pool.map(work, shards(input_uri, format))


def _read_shard(input_uri: str, inputs: Inputs, listed: tuple[str, str, dict[str, Any] | None]) -> pa.Table:
    """The truths of one shard, as `TRUTH`."""
    shard, uri, group = listed
    try:
        said = [(key, truth) for key, truth in inputs.read_truths(uri, group) if truth]
    except (ShardUnreadable, Replaced, OSError) as error:
        raise UserError(f"--input {input_uri}: {shard}: {told(error)}.") from error
    return pa.table([[shard] * len(said), [key for key, _ in said], [value for _, value in said]], schema=TRUTH)
