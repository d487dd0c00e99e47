"""The store: open, read, put whole, remove. With `listing`, the only module that knows fsspec.

In: URIs of any fsspec scheme; `s3://` reads the standard AWS variables, AWS_ENDPOINT_URL included.
Out: bytes, and `File`s with size and etag.
Not here: what the files mean, and retries of a whole shard (those are the run's).
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipeline.config import UserError, canonical_uri, flag

# Stores whose put is atomic: a reader sees the old object, none, or the new one whole.
ATOMIC_PUT = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl")


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


def locate(uri: str) -> tuple[Any, str]:
    """The filesystem and the path in it. Listings are never cached: other runs write there too."""
    options = {"use_listings_cache": False} if uri.startswith(("s3://", "s3a://")) else {}
    fs, path = fsspec.core.url_to_fs(canonical_uri(uri), **options)
    return fs, path


def version_of(info: dict[str, Any]) -> str:
    """The version of a file: the store's etag; where it has none (local), its time of change and size."""
    for name in ("ETag", "etag", "md5Hash", "content_md5"):
        if info.get(name):
            return str(info[name]).strip('"')
    for name in ("mtime", "LastModified", "last_modified", "modified", "created"):
        if info.get(name):
            return f"{info[name]}-{info['size']}"
    raise UserError(f"the store of {info.get('name')} gives neither an etag nor a time of change, "
                    "so a changed shard could not be told from an old one.")


def stat(uri: str) -> File:
    """The file at `uri` as the store has it now (its `path` is the base name). Raises FileNotFoundError."""
    fs, path = locate(uri)
    info = fs.info(path)
    return File(path.rsplit("/", 1)[-1], int(info["size"]), version_of(info))


@contextmanager
def open_read(uri: str, **options: Any) -> Iterator[tuple[IO[bytes], File]]:
    """Stream a file: the open file, and the version that is being read.

    s3fs reads every range with If-Match on the etag it opened, so two versions are never mixed; a local file
    replaced by rename stays the old one to its reader.
    """
    fs, path = locate(uri)
    with fs.open(path, "rb", **options) as file:
        info = getattr(file, "details", None)
        if isinstance(fs, LocalFileSystem):
            status = os.fstat(file.fileno())
            info = {"size": status.st_size, "mtime": status.st_mtime}
        elif not info:
            info = fs.info(path)
        yield file, File(path.rsplit("/", 1)[-1], int(info["size"]), version_of(info))


def read_bytes(uri: str) -> bytes:
    """The whole file. Raises FileNotFoundError."""
    fs, path = locate(uri)
    data: bytes = fs.cat_file(path)
    return data


def put_whole(uri: str, data: bytes) -> None:
    """Write a file so that no reader ever sees a part of it.

    Object stores: one put. Local: a temporary file beside it (its name starts with a dot), flushed to disk,
    then renamed over.
    """
    fs, path = locate(uri)
    if not isinstance(fs, LocalFileSystem):
        fs.pipe_file(path, data)
        return
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{name[:200]}.{secrets.token_hex(4)}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        if os.path.exists(temporary):
            os.remove(temporary)
        raise


def remove(uri: str) -> None:
    """Remove a file, or a folder with all in it; nothing there is no error."""
    fs, path = locate(uri)
    try:
        fs.rm(path, recursive=True)
    except FileNotFoundError:
        pass


def check_output(uri: str) -> None:
    """Raise UserError unless a put to this store is atomic."""
    scheme = uri.split("://")[0] if "://" in uri else "file"
    if scheme != "file" and scheme not in ATOMIC_PUT:
        raise UserError(f"--output {uri}: a file put to {scheme}:// is not whole-or-absent; use a local folder or "
                        f"one of {', '.join(name + '://' for name in ATOMIC_PUT[:5])}.")


def explain(name: str, uri: str, error: Exception) -> UserError:
    """The one sentence for a failure of the store at the place that flag `name` names."""
    if isinstance(error, FileNotFoundError):
        reason = "does not exist"
    elif isinstance(error, PermissionError):
        reason = "may not be read or written with the credentials at hand"
    elif isinstance(error, ImportError):
        reason = f"needs a package that is not installed ({error})"
    else:
        reason = f"cannot be reached ({type(error).__name__}: {' '.join(str(error).split())[:300]})"
    return UserError(f"{flag(name)} {uri} {reason}.")
