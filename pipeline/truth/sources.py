"""The truth: for each image the name, wnid or number of the class that it really shows.

In: a CSV; or the shards themselves: a text member beside each image, a column, or the names of the folders.
Out: a `Truth`.
Not here: which image a truth belongs to (`matching.py`); how many images have one (`coverage.py`); comparing it with
labels (`evaluate.py`); learning from it (`training/`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TextIO

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.actors.tasks import OpenMap, choose_map
from pipeline.config import check_uri
from pipeline.errors import UserError
from pipeline.formats.samples import ShardUnreadable
from pipeline.inputs.read import Inputs
from pipeline.model.spelling import folder_name, read_folder
from pipeline.store.explain import explain_error
from pipeline.store.retry import Replaced
from pipeline.truth.csv_file import read_truth_csv
from pipeline.truth.matching import GIVEN_TRUTHS, IMAGES
from pipeline.truth.read_shards import ListedShard, ShardTruths, list_shards, read_shards

HELP = ("FILE.csv (columns shard and key, or file_name, path and the like; and label_id, wnid or label), folder (the "
        "name of the folder an image is in), member:SUFFIX (of a tar, beside the image: member:cls) or column:NAME "
        "(of a Parquet file)")
MAX_LOOKED_AT = 20  # shards, and samples of a shard, to find where the truth is


@dataclass(frozen=True)
class Examples:
    """Images with their truth.

    Attributes:
        uri: the shards; None if the truth is a CSV and no shard is needed.
        where: the place of the truth, a value of `--truth` as `HELP` describes it.
        inputs: how the shards are read.
        format: of the shards, a value of `--format`.
    """

    uri: str | None
    where: str
    inputs: Inputs
    format: str = "auto"


@dataclass(frozen=True)
class Truth:
    """The truth, before it is matched with images.

    Attributes:
        where: its place, for messages.
        given: a table of `GIVEN_TRUTHS`.
        kind: what the values are, if the place says so: `label_id`, `wnid` or `label`.
        images: the images of the shards, a table of `IMAGES`; None if no shard was read.
        failed: the reason for each shard that could not be read.
        spellings: for each value the texts that mean it and differ from it.
    """

    where: str
    given: pa.Table
    kind: str | None = None
    images: pa.Table | None = None
    failed: dict[str, str] = field(default_factory=dict)
    spellings: dict[str, set[str]] = field(default_factory=dict)


def check_where(where: str, has_input: bool) -> None:
    """Raise UserError unless a truth can be at this place."""
    if where.lower().endswith(".csv"):
        check_uri("truth", where)
        return
    place, _, name = where.partition(":")
    is_member = place == "member" and re.fullmatch(r"[^:/.][^:/]*", name)
    if not (where == "folder" or (place == "column" and name) or is_member):
        hint = ""
        if place == "member" and name.startswith(".") and name.strip("."):
            hint = f"; write member:{name.lstrip('.')}, without the dot"
        elif place != place.lower() and place.lower() in ("folder", "member", "column"):
            hint = "; write it in small letters"
        raise UserError(f"--truth {where}: it takes {HELP}{hint}.")
    if where != "folder" and not has_input:
        raise UserError(f"--truth {where}: it is in the shards, so name them with --input.")


def read_truth(examples: Examples, images: pa.Table | None = None, for_fit: bool = False,
               open_map: OpenMap = choose_map, shards: Sequence[ListedShard] | None = None,
               stream: TextIO | None = None) -> Truth:
    """Read the truth.

    Args:
        images: the images of the tables, a table of `IMAGES`. `folder` is read from their keys; no shard is opened.
        for_fit: True if classes will be made of the truth.
        open_map, stream: as `read_shards` takes them.
        shards: the shards of the examples, if they are listed already.

    Raises:
        NoCluster: there is no Ray at RAY_ADDRESS.
        UserError: there is no truth, or it cannot be read.
    """
    where = examples.where
    check_where(where, examples.uri is not None or images is not None)
    if where.lower().endswith(".csv"):
        csv = read_truth_csv(where, for_fit)
        truth = Truth(f"{where}, column {csv.column}", csv.given, csv.kind, spellings=_group_spellings(csv.spellings))
    elif where == "folder" and images is not None:
        given, spellings = _read_folders(images)
        truth = Truth(where, given, spellings=_group_spellings(spellings))
    else:
        results = _read_all(examples, open_map, shards, stream)
        truth = _join_shards(where, results)
        if truth.failed and len(truth.failed) == len(results):
            path, reason = next(iter(truth.failed.items()))
            others = f"; nor can {len(results) - 1:,} others be read" if len(results) > 1 else ""
            raise UserError(f"--input {examples.uri}: {path}: {reason}{others}.")
    if not len(truth.given):
        raise UserError(f"--truth {where}: no image has any.")
    return truth


def read_images(examples: Examples, open_map: OpenMap, shards: Sequence[ListedShard],
                stream: TextIO | None) -> Truth:
    """The images of the shards and the shards that could not be read, without any truth. Args: as `read_truth`."""
    return _join_shards("", _read_all(replace(examples, where=""), open_map, shards, stream))


def guess_where(input_uri: str, inputs: Inputs, format: str = "auto") -> str:
    """The probable place of the truth: one of the `likely_truths` of the kind of shards, or `folder`.

    Raises:
        UserError: there is no truth at these places, or the input cannot be read.
    """
    num_readable, path, places = 0, "", ["folder"]
    for shard in list_shards(input_uri, format)[:MAX_LOOKED_AT]:
        kind, path = shard.kind, shard.path
        places = [*kind.likely_truths, "folder"]
        if shard.group is not None and "members" in shard.group:
            if any(read_folder(str(member["path"])) for member in shard.group["members"]):
                return "folder"
            continue
        try:
            for where in places:
                if _has_truth_beside(shard, replace(inputs, truth=where)):
                    return where
            num_readable += 1
            for where in places if kind.truth_place == "member" and num_readable == 1 else []:
                # The members with the truth may lie apart from their images.
                if any(truth.truth for truth in replace(inputs, truth=where).read_truths(shard.uri)):
                    return where
        except ShardUnreadable as error:
            if kind.truth_place == "column" and "no column" in str(error):
                places, num_readable = ["folder"], num_readable + 1
                if _has_truth_beside(shard, replace(inputs, truth="folder")):
                    return "folder"
        except (Replaced, OSError) as error:
            raise explain_error("--input", input_uri, error) from error
    raise UserError(f"--input {input_uri}: {path} has no truth in {' or '.join(places)}; say where it is with --truth.")


def _has_truth_beside(shard: ListedShard, inputs: Inputs) -> bool:
    """Whether one of the first samples of a shard has a truth."""
    with inputs.open(shard.uri) as (samples, _):
        return any(sample.truth for sample in islice(samples, MAX_LOOKED_AT))


def _read_all(examples: Examples, open_map: OpenMap, shards: Sequence[ListedShard] | None,
              stream: TextIO | None) -> list[ShardTruths]:
    if shards is None:
        shards = list_shards(str(examples.uri), examples.format)
    return read_shards(shards, examples.inputs, examples.where or None, open_map, stream)


def _join_shards(where: str, results: list[ShardTruths]) -> Truth:
    """The truths of all shards as one `Truth`."""
    return Truth(where, pa.concat_tables([GIVEN_TRUTHS.empty_table(), *(result.given for result in results)]), None,
                 pa.concat_tables([IMAGES.empty_table(), *(result.images for result in results)]),
                 {path: reason for result in results for path, reason in result.failed.items()},
                 _group_spellings(pair for result in results for pair in result.spellings))


def _read_folders(images: pa.Table) -> tuple[pa.Table, set[tuple[str, str]]]:
    """The truths by the folders of the keys, a table of `GIVEN_TRUTHS`; and pairs of a value and the folder's name."""
    keys = images["key"].combine_chunks()
    folders = pc.replace_substring_regex(keys, r"(?s)[^/\\]*$", "").dictionary_encode()  # each folder is parsed once
    distinct = folders.dictionary.to_pylist()
    names = [read_folder(folder) for folder in distinct]
    spellings = {(name, folder_name(folder)) for folder, name in zip(distinct, names, strict=True) if name is not None}
    values = pa.array(names, pa.string()).take(folders.indices)
    no_lines = pa.nulls(len(images), pa.int64())
    table = pa.table([images["shard"], keys, values, pa.repeat(False, len(images)), no_lines], schema=GIVEN_TRUTHS)
    return table.filter(pc.is_valid(values)), spellings


def _group_spellings(pairs: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    """For each value its spellings that differ from it."""
    spellings: dict[str, set[str]] = {}
    for value, spelling in pairs:
        if spelling != value:
            spellings.setdefault(value, set()).add(spelling)
    return spellings
