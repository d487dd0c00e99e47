"""The store: open, read, put whole, remove. With `listing`, the only module that knows fsspec.

In: URIs of any fsspec scheme; `s3://` reads the standard AWS variables, AWS_ENDPOINT_URL included.
Out: bytes, and `File`s with size and etag. Transient errors are tried again (`retry`), lengths checked, versions pinned.
Not here: what the files mean, and retries of a whole shard (those are the run's).
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat as modes
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipeline.errors import UserError
from pipeline.store.retry import with_retries
from pipeline.store.uris import canonical_uri

# Listings are never cached: other runs write there too. The tries are ours.
S3_OPTIONS = {"use_listings_cache": False,
              "config_kwargs": {"connect_timeout": 10, "read_timeout": 20,
                                "retries": {"mode": "standard", "total_max_attempts": 1}}}
_ODD_BYTE = re.compile(r"\\x([89a-f][0-9a-f])")  # of a name that is not UTF-8, as `uris.printable` writes it
ONE_PUT_BYTES = 5 * 2**30  # S3's limit; more would need a multipart upload, which a killed process leaves behind


@dataclass(frozen=True)
class File:
    """A file of the store: `path` relative to a root, `size` in bytes, `etag` its version."""

    path: str
    size: int
    etag: str


def join(uri: str, *parts: str) -> str:
    """`uri` and relative parts with one slash between."""
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])


def child(root: str, path: str) -> str:
    """The URI of a file that is `path` in a listing of `root`; `root` may itself be that file."""
    return root if "/" not in path and root.endswith("/" + path) else join(root, path)


def is_s3(uri: str) -> bool:
    """Whether s3fs serves this URI."""
    return uri.startswith(("s3://", "s3a://"))


def is_web(uri: str) -> bool:
    """Whether a web server serves this URI: files, but no listings."""
    return uri.startswith(("http://", "https://"))


def s3_filesystem(**options: Any) -> Any:
    """An s3fs that leaves the tries to us."""
    fs = fsspec.get_filesystem_class("s3")(**S3_OPTIONS, **options)
    fs.retries = 1
    return fs


def locate(uri: str) -> tuple[Any, str]:
    """The filesystem and the path in it. Nothing in a path has a meaning: no `::`, no `*`, no `?`.

    Of a local path `\\xNN` stands for a byte that is not UTF-8, if only so there is a file of that name.
    """
    uri = canonical_uri(uri)
    if "://" not in uri and "\\x" in uri and not os.path.lexists(uri):
        as_it_is = os.fsdecode(_ODD_BYTE.sub(lambda match: chr(0xdc00 + int(match[1], 16)), uri).encode("utf-8", "surrogateescape"))
        uri = as_it_is if os.path.lexists(as_it_is) else uri
    kind: Any = fsspec.get_filesystem_class(uri.partition("://")[0] if "://" in uri else "file")
    fs = s3_filesystem() if is_s3(uri) else kind(**kind._get_kwargs_from_urls(uri))
    if is_s3(uri) and "?versionId=" in uri:
        raise OSError(errno.EINVAL, "s3fs takes what follows '?versionId=' for a version, so a file of this name is out "
                                    "of reach", uri)
    return fs, kind._strip_protocol(uri)


def version_of(info: dict[str, Any]) -> str:
    """The version of a file: the store's etag; where it has none (local), its time of change and size."""
    for name in ("ETag", "etag", "md5Hash", "content_md5"):
        if info.get(name):
            return str(info[name]).strip('"')
    for name in ("mtime", "LastModified", "Last-Modified", "last_modified", "modified", "created"):
        if info.get(name) is not None:  # 0 is a time too
            return f"{info[name]}-{size_of(info)}"
    raise UserError(f"the store of {info.get('name')} gives neither an etag nor a time of change, "
                    "so a changed shard could not be told from an old one.")


def size_of(info: dict[str, Any]) -> int:
    """The size of a file in bytes, by what its store says of it. Raises OSError if it says none, as a web server may."""
    if info.get("size") is None:
        raise OSError(errno.ENOTSUP, "the store gives no size of it, so it cannot be told from a part", info.get("name"))
    return int(info["size"])


def is_no_file(error: BaseException) -> bool:
    """Whether this says that there is no file of that name: none at all, a folder, or a name that no file can have."""
    return isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError) or (
        isinstance(error, OSError) and error.errno in (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL))


def stat(uri: str) -> File:
    """The file at `uri` as the store has it now (its `path` is the base name). Raises FileNotFoundError, IsADirectoryError."""
    fs, path = locate(uri)
    info = with_retries(lambda: fs.info(path))
    if info.get("type") == "directory":
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), uri)
    return File(path.rsplit("/", 1)[-1], size_of(info), version_of(info))


def exists(uri: str) -> bool:
    """Whether there is a file or a folder at `uri`."""
    fs, path = locate(uri)
    return bool(with_retries(lambda: fs.exists(path)))


@contextmanager
def open_read(uri: str) -> Iterator[tuple[Any, File]]:
    """Open a file for reading here and there; and its version. Its reads are not tried again."""
    fs, path = locate(uri)
    if isinstance(fs, LocalFileSystem) and not modes.S_ISREG(mode := os.stat(path).st_mode):  # a pipe would be waited for
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), uri) if modes.S_ISDIR(mode) else \
            FileNotFoundError(errno.ENOENT, "not a file but a pipe, a socket or a device", uri)
    with with_retries(lambda: fs.open(path, "rb")) as file:
        yield file, version_of_open_file(fs, path, file)


def version_of_open_file(fs: Any, path: str, file: Any) -> File:
    """The version of an open file."""
    info = getattr(file, "details", None)
    if isinstance(fs, LocalFileSystem):
        status = os.fstat(file.fileno())
        info = {"size": status.st_size, "mtime": status.st_mtime}
    elif not info or is_web(path):  # of a web server an open file knows its size alone
        info = with_retries(lambda: fs.info(path))
    return File(path.rsplit("/", 1)[-1], size_of(info), version_of(info))


def read_bytes(uri: str) -> bytes:
    """The whole file. Raises FileNotFoundError."""
    fs, path = locate(uri)
    data: bytes = with_retries(lambda: fs.cat_file(path))
    return data


def put_whole(uri: str, data: bytes) -> None:
    """Write a file so that no reader ever sees a part of it.

    Object stores: one put. Local: a temporary file beside it (its name starts with a dot), flushed to disk,
    then renamed over.
    """
    fs, path = locate(uri)
    if isinstance(fs, LocalFileSystem):
        with _written_beside(path, data) as temporary:
            os.replace(temporary, path)
    elif not is_s3(uri):
        with_retries(lambda: fs.pipe_file(path, data))
    elif len(data) < ONE_PUT_BYTES:
        kind = {"ContentType": "text/html; charset=utf-8"} if uri.endswith(".html") else {}  # or browsers save it
        with_retries(lambda: fs.pipe_file(path, data, chunksize=ONE_PUT_BYTES, **kind))
    else:
        raise OSError(f"{len(data):,} bytes are more than S3 takes in one put; make the shard smaller")


def put_new(uri: str, data: bytes) -> bool:
    """Write a file if there is none; whether it was written. Of several who try at once, one does."""
    fs, path = locate(uri)
    try:
        if isinstance(fs, LocalFileSystem):
            with _written_beside(path, data) as temporary:
                os.link(temporary, path)
        else:
            with_retries(lambda: fs.pipe_file(path, data, mode="create"))
    except OSError as error:
        if not isinstance(error, FileExistsError) and "pre-conditions" not in str(error):  # so says S3 of If-None-Match
            raise
        try:
            return read_bytes(uri) == data  # ours after all: the reply to an earlier try was lost
        except FileNotFoundError:
            return False
    return True


@contextmanager
def _written_beside(path: str, data: bytes) -> Iterator[str]:
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{name[:200]}.{secrets.token_hex(4)}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        with suppress(FileNotFoundError):
            os.remove(temporary)


def remove(uri: str) -> None:
    """Remove a file, or a folder with all in it; nothing there is no error."""
    fs, path = locate(uri)
    if isinstance(fs, LocalFileSystem):
        with suppress(FileNotFoundError):
            shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)
        return

    def remove_one(name: str) -> None:
        with suppress(FileNotFoundError):
            with_retries(lambda: fs.rm_file(name))

    with ThreadPoolExecutor(16) as pool:
        deque(pool.map(remove_one, with_retries(lambda: fs.find(path))), maxlen=0)


@contextmanager
def removing_new_folders_on_error(uri: str) -> Iterator[None]:
    """Where an error passes, remove what was made of a folder of the local disk, and of those that it is in, and is empty."""
    fs, path = locate(uri)
    made: list[str] = []
    while isinstance(fs, LocalFileSystem) and not os.path.lexists(path):
        made.append(path)
        path = os.path.dirname(path)
    try:
        yield
    except BaseException:
        for folder in made:
            with suppress(OSError):
                os.rmdir(folder)
        raise
