"""What the images show in truth: a name, wnid or number of a class for each.

In: a CSV, or the shards themselves: a text member beside each image, a column, the folders. Out: a `Truth`.
Not here: which image each is of (`matching`), what is left out of it (`coverage`), comparing it with the labels (`evaluate`), and
learning from it (`finetune`, `train`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import check_uri
from pipeline.errors import UserError
from pipeline.formats.tar import ShardUnreadable
from pipeline.inputs.find import NONE_FOUND, Inputs, find_shards
from pipeline.model.spelling import folder_of, name_folder
from pipeline.store import storage
from pipeline.store.explain import explain_error, explaining_errors
from pipeline.store.retry import Replaced, describe_error
from pipeline.store.uris import canonical_uri
from pipeline.truth.csv_file import read_truth_csv
from pipeline.truth.matching import IMAGES, SAID

HELP = ("FILE.csv (columns shard and key, or file_name, path and the like; and label_id, wnid or label), folder (the name of the folder an "
        "image is in), member:SUFFIX (of a tar, beside the image: member:cls) or column:NAME (of a Parquet file)")
SHARDS_AT_ONCE = 4
LOOKED_AT = 20  # samples of a shard, and shards, to find where the truth is


@dataclass(frozen=True)
class Examples:
    """Where a truth is: `where` as `HELP` says, in shards `uri` (not needed for a CSV), and how these are read."""

    uri: str | None
    where: str
    inputs: Inputs
    format: str = "auto"


@dataclass(frozen=True)
class Truth:
    """`said`: a table of `SAID`. `kind`: what its values are, where the place says so: `label_id`, `wnid` or `label`.

    `images`: a table of `IMAGES`, of the shards that were read; None if none were. `failed`: why shards could not be read. `spellings`: of a
    value those that differ from it.
    """

    where: str
    said: pa.Table
    kind: str | None = None
    images: pa.Table | None = None
    failed: dict[str, str] = field(default_factory=dict)
    spellings: dict[str, set[str]] = field(default_factory=dict)


class Listed(NamedTuple):
    """A shard as it is listed: its path and URI, its bytes, and its row of `GROUPS` if it is one."""

    path: str
    uri: str
    size: int
    group: dict[str, Any] | None

    @property
    def is_tar(self) -> bool:
        return self.group is None and not self.uri.lower().endswith(".parquet")


class Shard(NamedTuple):
    """What was read of one: its truths (`SAID`), its images (`IMAGES`), why not more; and values and their spellings, where they differ."""

    said: pa.Table
    images: pa.Table
    failed: dict[str, str]
    spellings: set[tuple[str, str]]


Spread = Callable[[Callable[[Any], Shard], Iterable[Any]], Iterable[Shard]]


def check_where(where: str, has_input: bool) -> None:
    """Raise UserError unless a truth can be there."""
    if where.lower().endswith(".csv"):
        check_uri("truth", where)
        return
    kind, _, name = where.partition(":")
    known = where == "folder" or kind == "column" and name or kind == "member" and re.fullmatch(r"[^:/.][^:/]*", name)
    if not known:
        hint = f"; write member:{name.lstrip('.')}, without the dot" if kind == "member" and name.startswith(".") and name.strip(".") else \
            "; write it in small letters" if kind != kind.lower() and kind.lower() in ("folder", "member", "column") else ""
        raise UserError(f"--truth {where}: it takes {HELP}{hint}.")
    if where != "folder" and not has_input:
        raise UserError(f"--truth {where}: it is in the shards, so name them with --input.")


def read_truth(examples: Examples, images: pa.Table | None = None, for_fit: bool = False, spread: Spread | None = None) -> Truth:
    """The truth.

    Args:
        images: a table of `IMAGES`: those of the tables. `folder` is read from their keys, and no shard is opened.
        for_fit: classes are made of it.
        spread: calls a function for each shard, and gives the results in order (default: some threads of this process).

    Raises:
        UserError: there is none, or it cannot be read.
    """
    where = examples.where
    check_where(where, examples.uri is not None or images is not None)
    if where.lower().endswith(".csv"):
        said, kind, column, spellings = read_truth_csv(where, for_fit)
        found = Truth(f"{where}, column {column}", said, kind, spellings=_grouped(spellings))
    elif where == "folder" and images is not None:
        said, spellings = _by_folder(images)
        found = Truth(where, said, spellings=_grouped(spellings))
    else:
        shards = list(_read_shards(examples, spread))
        failed = {name: why for shard in shards for name, why in shard.failed.items()}
        if failed and len(failed) == len(shards):
            name, why = next(iter(failed.items()))
            raise UserError(f"--input {examples.uri}: {name}: {why}{f'; nor can {len(failed) - 1:,} others be read' if len(failed) > 1 else ''}.")
        found = Truth(where, pa.concat_tables([SAID.empty_table(), *(shard.said for shard in shards)]), None,
                      pa.concat_tables([IMAGES.empty_table(), *(shard.images for shard in shards)]), failed,
                      _grouped(pair for shard in shards for pair in shard.spellings))
    if not len(found.said):
        raise UserError(f"--truth {where}: no image has any.")
    return found


def read_images(examples: Examples, spread: Spread | None = None) -> Truth:
    """The images of the shards, and which shards could not be read; it says nothing of what they show."""
    shards = list(_read_shards(replace(examples, where=""), spread))
    return Truth("", SAID.empty_table(), None, pa.concat_tables([IMAGES.empty_table(), *(shard.images for shard in shards)]),
                 {name: why for shard in shards for name, why in shard.failed.items()})


def guess_where(input_uri: str, inputs: Inputs, format: str = "auto") -> str:
    """Where the truth seems to be: `member:cls` or `member:txt` of tars, `column:label` of Parquet, else `folder`.

    Raises:
        UserError: none of these has any, or the input cannot be read.
    """
    readable, name, places = 0, "", ["folder"]
    for name, uri, _, group in islice(list_shards(input_uri, format), LOOKED_AT):
        kind = "images" if group else "parquet" if uri.lower().endswith(".parquet") else "tar"
        places = {"images": [], "parquet": ["column:label"], "tar": ["member:cls", "member:txt"]}[kind] + ["folder"]
        if group and any(name_folder(str(member["path"])) for member in group["members"]):
            return "folder"
        try:
            for where in places if not group else []:
                with replace(inputs, truth=where).open(uri, group) as (samples, _):
                    if any(sample.truth for sample in islice(samples, LOOKED_AT)):
                        return where
            readable += 1
            for where in places if kind == "tar" and readable == 1 else []:  # members that lie apart from their images
                if any(one.truth for one in replace(inputs, truth=where).read_truths(uri, group)):
                    return where
        except ShardUnreadable as error:
            if kind == "parquet" and "no column" in str(error):
                places, readable = ["folder"], readable + 1
                with replace(inputs, truth="folder").open(uri, group) as (samples, _):
                    if any(sample.truth for sample in islice(samples, LOOKED_AT)):
                        return "folder"
        except (Replaced, OSError) as error:
            raise explain_error("--input", input_uri, error) from error
    raise UserError(f"--input {input_uri}: {name} has no truth in {' or '.join(places)}; say where it is with --truth.")


def list_shards(input_uri: str, format: str) -> Iterator[Listed]:
    """The shards of an input.

    Raises:
        UserError: there are none, or they cannot be listed.
    """
    check_uri("input", input_uri)
    input_uri = canonical_uri(input_uri)
    with explaining_errors("--input", input_uri):
        found = find_shards(input_uri, format).shards
    if not len(found):
        raise UserError(f"--input {input_uri} {NONE_FOUND}.")
    for listed in found.to_pylist():
        yield Listed(listed["path"], storage.child(input_uri, listed["path"]), listed["size"], listed if "members" in listed else None)


def _by_folder(images: pa.Table) -> tuple[pa.Table, set[tuple[str, str]]]:
    """What the keys of images say by their folders, and the spellings of values."""
    keys = images["key"].combine_chunks()
    folders = pc.replace_substring_regex(keys, r"(?s)[^/\\]*$", "").dictionary_encode()  # each folder is looked at once
    names = [name_folder(folder) for folder in folders.dictionary.to_pylist()]
    spellings = {(name, folder_of(folder)) for folder, name in zip(folders.dictionary.to_pylist(), names, strict=True) if name is not None}
    values = pa.array(names, pa.string()).take(folders.indices)
    table = pa.table([images["shard"], keys, values, pa.repeat(False, len(images)), pa.nulls(len(images), pa.int64())], schema=SAID)
    return table.filter(pc.is_valid(values)), spellings


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    """The spellings of each value that differ from it."""
    found: dict[str, set[str]] = {}
    for value, spelling in pairs:
        if spelling != value:
            found.setdefault(value, set()).add(spelling)
    return found


def _read_shards(examples: Examples, spread: Spread | None) -> Iterator[Shard]:
    work = partial(_read_shard, replace(examples.inputs, truth=examples.where or None))
    listed = list_shards(str(examples.uri), examples.format)
    if spread is not None:
        yield from spread(work, listed)
        return
    with ThreadPoolExecutor(SHARDS_AT_ONCE) as pool:
        yield from pool.map(work, listed)


def _read_shard(inputs: Inputs, listed: Listed) -> Shard:
    """One shard. What cannot be read to its end says nothing."""
    shard = listed.path
    try:
        found = inputs.read_truths(listed.uri, listed.group)
    except (ShardUnreadable, Replaced, OSError) as error:
        return Shard(SAID.empty_table(), IMAGES.empty_table(), {shard: describe_error(error)}, set())
    said = [{"shard": shard, "name": one.key, "value": one.truth, "strange": one.strange} for one in found if one.truth]
    keys = [one.key for one in found if one.is_image]
    return Shard(pa.Table.from_pylist(said, schema=SAID), pa.table([[shard] * len(keys), keys], schema=IMAGES), {},
                 {(one.truth, one.spelling) for one in found if one.truth and one.spelling})
