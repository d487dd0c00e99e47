"""Images and the files beside them -> the members of tars: their names and their order.

In: tables of `FILES`, in order of their paths. Out: a table of `MEMBERS`: each image, directly behind it its texts.
The key of an image is its path without the suffix. Dots in its base name become `_`, because a key ends at the first
dot. If several images would have the same key, the first one has it. The others have `_2`, `_3`, … behind it, but never
a key that is another image's own.
A file lies beside an image if it has the image's name without the suffix (`a/1.cls` and `a/1.jpg`), or the whole name
(`a/1.jpg.json`).
Not here: the contents of the files; where a shard ends.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import UserError
from pipeline.formats.left_out import LIKE_IMAGES, LeftOut
from pipeline.inputs.kinds import ANY_INPUT_FILE
from pipeline.store.listing import FILES

MEMBERS = pa.schema([*FILES, ("member", pa.string()), ("is_image", pa.bool_())])  # member: its name in the tar
_SUFFIX = re.compile(r"[a-z0-9_-]{1,10}")


def check_suffixes(suffixes: Sequence[str]) -> tuple[str, ...]:
    """The suffixes in lower case, each once.

    Raises:
        UserError: one of them is no suffix, or is a suffix of images or shards.
    """
    unique = tuple(dict.fromkeys(suffix.strip().lower() for suffix in suffixes))
    for suffix in unique:
        if not _SUFFIX.fullmatch(suffix):
            raise UserError(f"--members names {suffix!r}; it takes suffixes without their dots, such as cls,txt,json.")
        if re.search(ANY_INPUT_FILE, f"x.{suffix}") or LIKE_IMAGES.search(f"x.{suffix}"):
            raise UserError(f"--members names {suffix}, the suffix of images or shards; it is for texts beside the "
                            "images, such as cls,txt,json.")
    return unique


def make_keys(paths: Sequence[str]) -> Iterator[str]:
    """A key for each image, no two the same. An image has its own key, or that key with a number behind it."""
    own_keys = [_own_key(path) for path in paths]
    reserved, used, next_number = set(own_keys), set[str](), dict[str, int]()
    for key in own_keys:
        if key in used:
            number = next_number.get(key, 2)
            while f"{key}_{number}" in reserved:
                number += 1
            next_number[key] = number + 1
            key = f"{key}_{number}"
            reserved.add(key)
        used.add(key)
        yield key


def _own_key(path: str) -> str:
    folder, slash, base = path.rpartition("/")
    stem = base.rpartition(".")[0]
    return (folder + slash).lstrip("/") + (stem.lstrip(".").replace(".", "_") or "_")


def order_members(images: pa.Table, others: pa.Table, suffixes: Sequence[str], left_out: LeftOut,
                  beside: LeftOut) -> pa.Table:
    """The members of all tars, in their order, as a table of `MEMBERS`.

    Args:
        images: a table of `FILES`.
        others: a table of `FILES` that are no images. Those beside an image are packed if they have one of `suffixes`.
        left_out: counts the other files that are not packed, except
        beside: counts the files that lie beside an image and have another suffix.
    """
    image_paths, other_paths = images["path"].to_pylist(), others["path"].to_pylist()
    others_with_stem: defaultdict[str, list[int]] = defaultdict(list)
    for row, path in enumerate(other_paths):
        if not LIKE_IMAGES.search(path):
            others_with_stem[_split_suffix(path)[0]].append(row)
    rows, names, rows_beside, rows_packed = [], [], set[int](), set[int]()
    for image_row, (path, key) in enumerate(zip(image_paths, make_keys(image_paths), strict=True)):
        stem, suffix = _split_suffix(path)
        near = [*others_with_stem.get(path, ()), *others_with_stem.get(stem, ())]
        first_with_suffix: dict[str, int] = {}
        for row in near:
            first_with_suffix.setdefault(_split_suffix(other_paths[row])[1], row)
        texts = {name: first_with_suffix[name] for name in sorted(first_with_suffix) if name in suffixes}
        rows += [image_row, *(len(image_paths) + row for row in texts.values())]
        names += [f"{key}.{name}" for name in (suffix, *texts)]
        rows_beside.update(near)
        rows_packed.update(texts.values())
    _count_not_packed(other_paths, rows_beside, rows_packed, suffixes, left_out, beside)
    row_numbers = pa.array(rows, pa.int64())
    members = pa.concat_tables([images, others]).take(row_numbers).append_column("member", pa.array(names, pa.string()))
    return members.append_column("is_image", pc.less(row_numbers, len(image_paths))).cast(MEMBERS).combine_chunks()


def _split_suffix(path: str) -> tuple[str, str]:
    """A path up to the last dot of its base name, and the suffix in lower case. Without a dot: the path, no suffix."""
    folder, slash, base = path.rpartition("/")
    stem, dot, suffix = base.rpartition(".")
    return (folder + slash + stem, suffix.lower()) if dot else (path, "")


def _count_not_packed(paths: list[str], rows_beside: set[int], rows_packed: set[int], suffixes: Sequence[str],
                      left_out: LeftOut, beside: LeftOut) -> None:
    """Count the files that are not packed.

    A file lies beside no image; or it lies beside one, but has none of the suffixes; or it is the second one that would
    give the same member.
    """
    paths_of: defaultdict[str, list[str]] = defaultdict(list)
    for row, path in enumerate(paths):
        if row not in rows_packed:
            is_asked_for = _split_suffix(path)[1] in suffixes
            reason = "other_name" if row not in rows_beside else "same_member" if is_asked_for else "beside"
            paths_of[reason].append(path)
    for reason, of_reason in paths_of.items():
        (beside if reason == "beside" else left_out).add_paths(reason, pa.chunked_array([of_reason]))
