"""The version of a file, as its store tells it.

In: the `info` of a filesystem of fsspec. Out: a `File`. Not here: the calls to the store.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Any

from pipeline.errors import UserError


@dataclass(frozen=True)
class File:
    """A file of the store: `path` relative to a root, `size` in bytes, `etag` its version."""

    path: str
    size: int
    etag: str


def version_of(info: dict[str, Any]) -> str:
    """The version of a file, from the `info` of its filesystem: the etag, or else the time of change and the size."""
    for name in ("ETag", "etag", "md5Hash", "content_md5"):
        if info.get(name):
            return str(info[name]).strip('"')
    for name in ("mtime", "LastModified", "Last-Modified", "last_modified", "modified", "created"):
        if info.get(name) is not None:  # 0 is the year 1970
            return f"{info[name]}-{size_of(info)}"
    raise UserError(f"the store of {info.get('name')} gives neither an etag nor a time of change, "
                    "so a changed shard could not be told from an old one.")


def size_of(info: dict[str, Any]) -> int:
    """The size of a file in bytes, from the `info` of its filesystem. Raises OSError if the store gives none."""
    if info.get("size") is None:
        reason = "the store gives no size of it, so it cannot be told from a part"
        raise OSError(errno.ENOTSUP, reason, info.get("name"))
    return int(info["size"])
