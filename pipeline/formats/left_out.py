"""The files of an input that are not labelled: counted by reason and suffix, with one example each.

In: names of files, or of members of a tar, that give no row. Out: rows of `LEFT_OUT` for the tables; sentences.
Not here: the rules for leaving a file out (`inputs/find.py`, `tars`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

LEFT_OUT = pa.list_(pa.struct([("reason", pa.string()), ("suffix", pa.string()), ("num_files", pa.int64()),
                               ("example", pa.string())]))
REASONS = {
    "other_name": "no images by their names",
    "same_key": "share a key with an image before them",
    "other_kind": "of another kind than the one that is read, which --format chooses",
    "hidden": "hidden, or leftovers of other tools",
    "not_a_file": "no files but links to nothing, pipes, sockets or devices",
    "unreadable": "in folders that may not be read",
    "loop": "links to a folder that they are in",
    # Only `inputs/pack.py` has these two reasons:
    "same_member": "would be packed by the same name as another beside their image",
    "beside": "beside images and not packed",
}
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
# Files with these suffixes may be images too, but they are not read. They are reported even beside an image of their
# key.
LIKE_IMAGES = re.compile(r"\.(jfif|jfi|jpe|jif|avif|heic|heif|jp2|j2k|jpx|jxl|psd|svg|ico|tga|p[bgpn]m|exr|dng"
                         r"|cr[23]|nef|arw|orf|raf|rw2)$", re.IGNORECASE)
SUFFIX = r"(?:^|/)[^/]*[^/.](?P<suffix>\.[A-Za-z0-9_-]{1,10})$"
MAX_SUFFIXES = 20  # of a reason; files with further suffixes are counted together, as `OTHERS`
NONE, OTHERS = "none", "others"
_SUFFIX = re.compile(SUFFIX)


class LeftOut:
    """Counts of files, with the first example, by reason and suffix.

    A reason is a key of `REASONS`. A suffix has its dot and is in lower case, or it is `none` or `others`.
    """

    def __init__(self, rows: Iterable[dict[str, Any]] = ()) -> None:
        self.counts: dict[tuple[str, str], tuple[int, str]] = {}
        self.add(rows)

    def add(self, rows: Iterable[dict[str, Any]], folder: str = "") -> None:
        """Add the counts of rows of `LEFT_OUT`. `folder` is put before their examples."""
        for row in rows:
            self._count(row["reason"], row["suffix"], folder + row["example"], row["num_files"])

    def add_name(self, reason: str, name: str) -> None:
        """Count one file."""
        self._count(reason, suffix_of(name), name, 1)

    def add_paths(self, reason: str, paths: pa.ChunkedArray) -> None:
        """Count many files at once."""
        if not len(paths):
            return
        extracted = pc.struct_field(pc.extract_regex(paths, SUFFIX), "suffix")
        suffixes = pc.utf8_lower(pc.coalesce(extracted, pa.scalar(NONE)))
        groups = pa.table({"suffix": suffixes, "path": paths}).group_by("suffix", use_threads=False)
        counts = groups.aggregate([("path", "count"), ("path", "min")])
        for row in counts.sort_by([("path_count", "descending"), ("suffix", "ascending")]).to_pylist():
            self._count(reason, row["suffix"], row["path_min"], row["path_count"])

    def _count(self, reason: str, suffix: str, example: str, num_files: int) -> None:
        num_suffixes = sum(counted == reason for counted, _ in self.counts)
        if (reason, suffix) not in self.counts and num_suffixes >= MAX_SUFFIXES:
            suffix = OTHERS
        number, first = self.counts.get((reason, suffix), (0, example))
        self.counts[reason, suffix] = number + num_files, first

    def total(self, reason: str | None = None) -> int:
        """The number of files in all, or of one reason."""
        return sum(number for (counted, _), (number, _) in self.counts.items() if reason in (None, counted))

    def rows(self) -> list[dict[str, Any]]:
        """The counts as rows of `LEFT_OUT`, the largest first."""
        ordered = sorted(self.counts.items(), key=lambda item: (-item[1][0], item[0]))
        return [{"reason": reason, "suffix": suffix, "num_files": number, "example": example}
                for (reason, suffix), (number, example) in ordered]

    def sentences(self) -> list[str]:
        """One sentence for each reason: the number of files, their suffixes, and an example."""
        sentences = []
        for reason, words in REASONS.items():
            rows = [row for row in self.rows() if row["reason"] == reason]
            if rows:
                suffixes = ", ".join(f"{row['suffix']} {row['num_files']:,}" for row in rows)
                number = self.total(reason)
                sentences.append(f"{number:,} left out, {words} ({suffixes}), such as {rows[0]['example']}")
        return sentences


def suffix_of(name: str) -> str:
    """The suffix of a file's base name with its dot, in lower case; `none` if there is no suffix."""
    match = _SUFFIX.search(name)
    return match["suffix"].lower() if match else NONE
