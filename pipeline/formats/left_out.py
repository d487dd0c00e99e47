"""What of an input is not labelled: counted by reason and suffix, with one example each.

In: names of files, or of a tar's members, that give no row. Out: rows of `LEFT_OUT` for the tables, sentences for a reader.
Not here: which names those are (`inputs`, `shards`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

LEFT_OUT = pa.list_(pa.struct([("reason", pa.string()), ("suffix", pa.string()), ("num_files", pa.int64()), ("example", pa.string())]))
REASONS = {
    "other_name": "no images by their names",
    "same_key": "share a key with an image before them",
    "other_kind": "of another kind than the one that is read, which --format chooses",
    "hidden": "hidden, or leftovers of other tools",
    "not_a_file": "no files but links to nothing, pipes, sockets or devices",
    "unreadable": "in folders that may not be read",
    "loop": "links to a folder that they are in",
    "same_member": "would be packed by the same name as another beside their image",  # this and the next by `pack` alone
    "beside": "beside images and not packed",
}
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
# What may be an image though it is not taken for one: told even beside an image of the same key.
LIKE_IMAGES = re.compile(r"\.(jfif|jfi|jpe|jif|avif|heic|heif|jp2|j2k|jpx|jxl|psd|svg|ico|tga|p[bgpn]m|exr|dng|cr[23]|nef|arw|orf|raf|rw2)$",
                         re.IGNORECASE)
SUFFIX = r"(?:^|/)[^/]*[^/.](?P<suffix>\.[A-Za-z0-9_-]{1,10})$"
MOST_SUFFIXES = 20  # of a reason; what else there is counts as `OTHERS`
NONE, OTHERS = "none", "others"
_SUFFIX = re.compile(SUFFIX)


class LeftOut:
    """Counts, and the first example, by reason (a key of `REASONS`) and suffix (in small letters, `none`, `others`)."""

    def __init__(self, rows: Iterable[dict[str, Any]] = ()) -> None:
        self.counts: dict[tuple[str, str], tuple[int, str]] = {}
        self.add(rows)

    def add(self, rows: Iterable[dict[str, Any]], folder: str = "") -> None:
        """Count rows of `LEFT_OUT` too; `folder` goes before their examples."""
        for row in rows:
            self.add_name(row["reason"], row["suffix"], folder + row["example"], row["num_files"])

    def add_name(self, reason: str, suffix: str, example: str, num_files: int = 1) -> None:
        """Count so many names of a suffix."""
        if (reason, suffix) not in self.counts and sum(known == reason for known, _ in self.counts) >= MOST_SUFFIXES:
            suffix = OTHERS
        number, first = self.counts.get((reason, suffix), (0, example))
        self.counts[reason, suffix] = number + num_files, first

    def add_member(self, reason: str, name: str) -> None:
        """Count one name."""
        self.add_name(reason, suffix_of(name), name)

    def add_paths(self, reason: str, paths: pa.ChunkedArray) -> None:
        """Count many names at once."""
        if not len(paths):
            return
        found = pc.struct_field(pc.extract_regex(paths, SUFFIX), "suffix")
        suffixes = pc.utf8_lower(pc.coalesce(found, pa.scalar(NONE)))
        table = pa.table({"suffix": suffixes, "path": paths}).group_by("suffix", use_threads=False)
        for row in table.aggregate([("path", "count"), ("path", "min")]).sort_by([("path_count", "descending"), ("suffix", "ascending")]).to_pylist():
            self.add_name(reason, row["suffix"], row["path_min"], row["path_count"])

    def total(self, reason: str | None = None) -> int:
        """Names in all, or of one reason."""
        return sum(number for (of, _), (number, _) in self.counts.items() if reason in (None, of))

    def rows(self) -> list[dict[str, Any]]:
        """As `LEFT_OUT` has them, the most frequent first."""
        ordered = sorted(self.counts.items(), key=lambda item: (-item[1][0], item[0]))
        return [{"reason": reason, "suffix": suffix, "num_files": number, "example": example}
                for (reason, suffix), (number, example) in ordered]

    def sentences(self) -> list[str]:
        """One for each reason: how many, of which suffixes, and an example."""
        told = []
        for reason, words in REASONS.items():
            rows = [row for row in self.rows() if row["reason"] == reason]
            if rows:
                suffixes = ", ".join(f"{row['suffix']} {row['num_files']:,}" for row in rows)
                number = self.total(reason)
                told.append(f"{number:,} left out, {words} ({suffixes}), such as {rows[0]['example']}")
        return told


def suffix_of(name: str) -> str:
    """What follows the last dot of a base name, in small letters and with the dot; `none` if nothing like that does."""
    match = _SUFFIX.search(name)
    return match["suffix"].lower() if match else NONE
