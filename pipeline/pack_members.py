"""Images -> the names of their members in tars.

The key of an image is its path without the suffix; dots in its base name become `_`, since a key ends at the first dot. Of several
images with one such key the first keeps it; the others get `_2`, `_3`, … behind it, but never the key of another image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence


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
