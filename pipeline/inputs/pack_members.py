"""Images, and the files beside them -> the members of tars: their names, and in which order they stand.

In: tables of `FILES`, in order of their paths. Out: a table of `MEMBERS`: each image, directly behind it the texts that go along.
The key of an image is its path without the suffix; dots in its base name become `_`, since a key ends at the first dot. Of several
images with one such key the first keeps it; the others get `_2`, `_3`, … behind it, but never the key of another image.
A file lies beside an image if it has its name without the suffix (`a/1.cls` and `a/1.jpg`), or all of it (`a/1.jpg.json`).
Not here: what is in the files, and where a shard ends.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import UserError
from pipeline.formats.left_out import LIKE_IMAGES, LeftOut
from pipeline.inputs.find import ANY_KIND
from pipeline.store.listing import FILES

MEMBERS = pa.schema([*FILES, ("member", pa.string()), ("is_image", pa.bool_())])  # member: its name in the tar
_SUFFIX = re.compile(r"[a-z0-9_-]{1,10}")


def check_suffixes(given: Sequence[str]) -> tuple[str, ...]:
    """The suffixes in small letters, each once. Raises UserError if one is no suffix, or one of images or shards."""
    suffixes = tuple(dict.fromkeys(suffix.strip().lower() for suffix in given))
    for suffix in suffixes:
        if not _SUFFIX.fullmatch(suffix):
            raise UserError(f"--members names {suffix!r}; it takes suffixes without their dots, such as cls,txt,json.")
        if re.search(ANY_KIND, f"x.{suffix}") or LIKE_IMAGES.search(f"x.{suffix}"):
            raise UserError(f"--members names {suffix}, the suffix of images or shards; it is for texts beside the images, such as cls,txt,json.")
    return suffixes


def keys_of(paths: Sequence[str]) -> Iterator[str]:
    """The key of each image, no two the same: its own if that is free, or else one with a number that is no other image's own."""
    own = [_own_key(path) for path in paths]
    reserved, taken, numbers = set(own), set[str](), dict[str, int]()
    for key in own:
        if key in taken:
            number = numbers.get(key, 2)
            while f"{key}_{number}" in reserved:
                number += 1
            numbers[key] = number + 1
            key = f"{key}_{number}"
            reserved.add(key)
        taken.add(key)
        yield key


def _own_key(path: str) -> str:
    folder, slash, base = path.rpartition("/")
    stem = base.rpartition(".")[0]
    return (folder + slash).lstrip("/") + (stem.lstrip(".").replace(".", "_") or "_")


def arrange(images: pa.Table, others: pa.Table, suffixes: Sequence[str], left_out: LeftOut, beside: LeftOut) -> pa.Table:
    """The members of all tars, in their order, as a table of `MEMBERS`.

    Args:
        images: of each one row.
        others: files that are no images; those beside an image whose suffix is one of `suffixes` go along with it.
        left_out: counts the others that do not, but for
        beside: those that would if `suffixes` had theirs.
    """
    paths, others_paths = images["path"].to_pylist(), others["path"].to_pylist()
    by_stem: defaultdict[str, list[int]] = defaultdict(list)
    for at, path in enumerate(others_paths):
        if not LIKE_IMAGES.search(path):
            by_stem[_split(path)[0]].append(at)
    order, names, near, packed = [], [], set[int](), set[int]()
    for at, (path, key) in enumerate(zip(paths, keys_of(paths), strict=True)):
        stem, suffix = _split(path)
        here = [*by_stem.get(path, ()), *by_stem.get(stem, ())]
        texts: dict[str, int] = {}
        for other in here:
            texts.setdefault(_split(others_paths[other])[1], other)
        chosen = {name: texts[name] for name in sorted(texts) if name in suffixes}
        order += [at, *(len(paths) + other for other in chosen.values())]
        names += [f"{key}.{name}" for name in (suffix, *chosen)]
        near.update(here)
        packed.update(chosen.values())
    _count(others_paths, near, packed, suffixes, left_out, beside)
    members = pa.concat_tables([images, others]).take(pa.array(order, pa.int64())).append_column("member", pa.array(names, pa.string()))
    return members.append_column("is_image", pc.less(pa.array(order, pa.int64()), len(paths))).cast(MEMBERS).combine_chunks()


def _split(path: str) -> tuple[str, str]:
    """A path up to the last dot of its base name, and what follows in small letters; all of it and nothing if there is no dot."""
    folder, slash, base = path.rpartition("/")
    stem, dot, suffix = base.rpartition(".")
    return (folder + slash + stem, suffix.lower()) if dot else (path, "")


def _count(paths: list[str], near: set[int], packed: set[int], suffixes: Sequence[str], left_out: LeftOut, beside: LeftOut) -> None:
    """Count the files that are not packed: by no image, beside one and not asked for, or one of two that would give the same member."""
    reasons: defaultdict[str, list[str]] = defaultdict(list)
    for at, path in enumerate(paths):
        if at not in packed:
            reasons["other_name" if at not in near else "same_member" if _split(path)[1] in suffixes else "beside"].append(path)
    for reason, of_reason in reasons.items():
        (beside if reason == "beside" else left_out).add_paths(reason, pa.chunked_array([of_reason]))
