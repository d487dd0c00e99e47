"""What is under a URI: every file with its size and version, as a table.

In: a URI of any fsspec scheme. Out: a table of `FILES`, built column by column. A million files take 150 MB and, from
S3, 20 seconds of our own time; s3fs's own listing, with a dict for each file, takes 2 GB and a minute.
A listing of an input also has what cannot be read, with a mark in the place of the version, because one odd file must
not stop the others. Not here: what the files mean.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from pipeline.store.local_files import Entry, iterate_local
from pipeline.store.retry import with_retries
from pipeline.store.s3.connect import is_s3
from pipeline.store.s3.pages import iterate_pages
from pipeline.store.storage import is_web, locate
from pipeline.store.uris import is_same_store, printable
from pipeline.store.versions import size_of, version_of

FILES = pa.schema([
    ("path", pa.string()),  # relative to the listed URI
    ("size", pa.int64()),   # bytes
    ("etag", pa.string()),  # the version of the file
])
PAGE = 1000  # files of a chunk of the table; a page of S3 has as many


def list_files(uri: str) -> pa.Table:
    """Every file under `uri`, recursively, as a table of `FILES` in order of the paths, or as the store lists them.
    `uri` may be one file.

    Raises:
        FileNotFoundError: there is nothing at `uri`.
        PermissionError: the store refuses to list.
    """
    return _list(uri, None, with_odd=False).select(FILES.names)


def list_input(uri: str, without: str | None = None) -> pa.Table:
    """The table of `list_files` with a column `changed`, in seconds since 1970, and with what cannot be read.

    What cannot be read has a mark as its etag: `MISSING`, `REFUSED` or `LOOP` of `local_files`.

    Args:
        without: the URI of a folder that is left out, whatever path leads to it.
    """
    return _list(uri, without, with_odd=True)


def list_folders(uri: str) -> list[str]:
    """The names of the folders directly in a folder, in order. Raises what `list_files` raises."""
    fs, root = locate(uri)
    infos = with_retries(lambda: fs.ls(root, detail=True))
    names = [str(info["name"]).rstrip("/").rpartition("/")[2] for info in infos if info["type"] == "directory"]
    return sorted(map(printable, names))


def _list(uri: str, without: str | None, with_odd: bool) -> pa.Table:
    fs, root = locate(uri)
    left_out = locate(without)[1].rstrip("/") + "/" if without and is_same_store(without, uri) else None
    if isinstance(fs, LocalFileSystem):
        pages = _split_pages(iterate_local(root, with_odd, without if without and "://" not in without else None))
        left_out = None
    elif is_s3(uri):
        pages = iterate_pages(*root.partition("/")[::2])
    elif is_web(uri):  # fsspec would list the links of a page
        pages = iter(())
    else:
        infos = with_retries(lambda: fs.find(root, detail=True))
        # Some stores list the root itself, and the marks of folders (`name/`).
        pages = _split_pages(_entry(path, info) for path, info in infos.items()
                             if path.startswith(root.rstrip("/") + "/") and not path.endswith("/"))
    below = root.rstrip("/") + "/"
    chunks = []
    for page in pages:
        chunks.append(_table([entry for entry in page if entry[0] != below
                              and not (left_out and entry[0].startswith(left_out))], len(below)))
    files = pa.concat_tables([chunk for chunk in chunks if len(chunk)] or [_table([], 0)])
    if not len(files):  # `root` is a file, an empty folder, or nothing
        info = with_retries(lambda: fs.info(root))
        if info["type"] == "file":
            return _table([_entry(root, info)], root.rfind("/") + 1)
        if info["type"] != "directory":
            raise FileNotFoundError(errno.ENOENT, "not a file but a pipe, a socket or a device", uri)
    return files.sort_by("path") if is_s3(uri) else files  # the pages of a large folder come as they arrive


def _entry(path: str, info: dict[str, Any]) -> Entry:
    """The entry of a file, from the `info` of its filesystem."""
    changed = next((info[name] for name in ("mtime", "LastModified", "last_modified", "updated", "modified", "created")
                    if info.get(name) is not None), 0.0)
    if isinstance(changed, str):
        changed = datetime.fromisoformat(changed)
    seconds = changed.timestamp() if isinstance(changed, datetime) else changed
    return path, size_of(info), version_of(info), float(seconds)


def _split_pages(entries: Iterator[Entry]) -> Iterator[list[Entry]]:
    page: list[Entry] = []
    for entry in entries:
        page.append(entry)
        if len(page) == PAGE:
            yield page
            page = []
    yield page


def _table(page: list[Entry], skip: int) -> pa.Table:
    """A page as a table of `FILES` and `changed`. `skip`: the characters of each path that belong to the root."""
    paths, sizes, etags, times = zip(*page, strict=True) if page else ((), (), (), ())
    table = pa.table([pa.array([printable(path[skip:]) for path in paths], pa.string()), pa.array(sizes, pa.int64()),
                      pa.array(etags, pa.string())], schema=FILES)
    return table.append_column("changed", pa.array(times, pa.float64()))
