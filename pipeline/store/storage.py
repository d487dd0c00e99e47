"""The store: open, read, put whole, remove. `listing` lists; the rest of the package reads ahead and explains.

In: URIs of any fsspec scheme (`s3/`, `clouds/`; other schemes as fsspec has them).
Out: bytes, and `File`s with size and etag. Calls with a transient error are repeated (`retry`).
Not here: what the files mean, and how a whole shard is read again.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat as modes
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipeline.store.local_files import MISSING, REFUSED
from pipeline.store.retry import with_retries
from pipeline.store.s3.connect import is_s3, s3_filesystem
from pipeline.store.uris import canonical_uri
from pipeline.store.versions import File, size_of, version_of

_ODD_BYTE = re.compile(r"\\x([89a-f][0-9a-f])")  # a byte that is not UTF-8, as `uris.printable` writes it
_CLOUDS = {"gs": ("google.GoogleFiles", "[gcs]"), "gcs": ("google.GoogleFiles", "[gcs]"), "hf": ("hub.HubFiles", ""),
           "abfs": ("azure.AzureFiles", "[azure]"), "abfss": ("azure.AzureFiles", "[azure]"),
           "az": ("azure.AzureFiles", "[azure]")}
for _scheme, (_kind, _extra) in _CLOUDS.items():  # the modules are imported when a URI needs them
    fsspec.register_implementation(_scheme, f"pipeline.store.clouds.{_kind}", clobber=True,
                                   errtxt=f"pip install 'label-pipeline{_extra}'")
ONE_PUT_BYTES = 5 * 2**30  # S3 takes no more; of a multipart upload a killed process would leave the parts behind


def join(uri: str, *parts: str) -> str:
    """`uri` and relative parts, joined by single slashes."""
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])


def child(root: str, path: str) -> str:
    """The URI of the file `path` in a listing of `root`. `root` may itself be that file."""
    return root if "/" not in path and root.endswith("/" + path) else join(root, path)


def is_web(uri: str) -> bool:
    """Whether a web server serves this URI: files, but no listings."""
    return uri.startswith(("http://", "https://"))


def locate(uri: str) -> tuple[Any, str]:
    """The filesystem of a URI and the path in it. A path is taken as it stands: `::`, `*` and `?` have no meaning.

    In a local path `\\xNN` stands for a byte that is not UTF-8, unless a file has the name as it stands.
    """
    uri = canonical_uri(uri)
    if "://" not in uri and "\\x" in uri and not os.path.lexists(uri):
        surrogates = _ODD_BYTE.sub(lambda match: chr(0xdc00 + int(match[1], 16)), uri)
        path = os.fsdecode(surrogates.encode("utf-8", "surrogateescape"))
        uri = path if os.path.lexists(path) else uri
    kind: Any = fsspec.get_filesystem_class(uri.partition("://")[0] if "://" in uri else "file")
    fs = s3_filesystem(uri.split("/")[2]) if is_s3(uri) else kind(**kind._get_kwargs_from_urls(uri))
    if is_s3(uri) and "?versionId=" in uri:
        reason = "s3fs takes what follows '?versionId=' for a version, so a file of this name is out of reach"
        raise OSError(errno.EINVAL, reason, uri)
    return fs, kind._strip_protocol(uri)


def is_no_file(error: BaseException) -> bool:
    """Whether the error says that no file has this name: nothing has it, a folder has it, or no file can have it."""
    return isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError) or (
        isinstance(error, OSError) and error.errno in (errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL))


def stat(uri: str) -> File:
    """The file at `uri` now; its `path` is the base name. Raises FileNotFoundError or IsADirectoryError."""
    fs, path = locate(uri)
    info = with_retries(lambda: fs.info(path))
    if info.get("type") == "directory":
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), uri)
    return File(path.rsplit("/", 1)[-1], size_of(info), version_of(info))


def stat_or_mark(uri: str) -> File:
    """As `stat`. Where no file is, or none that may be read, the etag is the mark `MISSING` or `REFUSED`, the size 0.
    """
    try:
        return stat(uri)
    except PermissionError:
        return File(uri.rsplit("/", 1)[-1], 0, REFUSED)
    except Exception as error:  # each store has its own exceptions
        if not is_no_file(error):
            raise
        return File(uri.rsplit("/", 1)[-1], 0, MISSING)


def exists(uri: str) -> bool:
    """Whether there is a file or a folder at `uri`."""
    fs, path = locate(uri)
    return bool(with_retries(lambda: fs.exists(path)))


@contextmanager
def open_read(uri: str) -> Iterator[tuple[Any, File]]:
    """An open file whose reads are not repeated, and its version. Raises FileNotFoundError or IsADirectoryError."""
    fs, path = locate(uri)
    if isinstance(fs, LocalFileSystem):
        mode = os.stat(path).st_mode
        if modes.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), uri)
        if not modes.S_ISREG(mode):  # opening a pipe would wait for its writer
            raise FileNotFoundError(errno.ENOENT, "not a file but a pipe, a socket or a device", uri)
    with with_retries(lambda: fs.open(path, "rb")) as file:
        yield file, version_of_open_file(fs, path, file)


def version_of_open_file(fs: Any, path: str, file: Any) -> File:
    """The version of an open file."""
    info = getattr(file, "details", None)
    if isinstance(fs, LocalFileSystem):
        status = os.fstat(file.fileno())
        info = {"size": status.st_size, "mtime": status.st_mtime}
    elif not info or is_web(path):  # a file of a web server knows only its size
        info = with_retries(lambda: fs.info(path))
    return File(path.rsplit("/", 1)[-1], size_of(info), version_of(info))


def read_bytes(uri: str) -> bytes:
    """The whole file. Raises FileNotFoundError."""
    fs, path = locate(uri)
    data: bytes = with_retries(lambda: fs.cat_file(path))
    return data


def put_whole(uri: str, data: bytes) -> None:
    """Write a file so that no reader ever sees a part of it.

    An object store gets one put. On the local disk a hidden file beside it is flushed to the disk and renamed.
    Raises OSError if the store takes no file of this size in one put.
    """
    fs, path = locate(uri)
    if isinstance(fs, LocalFileSystem):
        with _temporary_file(path, data) as temporary:
            os.replace(temporary, path)
    elif len(data) < ONE_PUT_BYTES:
        # Without a type browsers save a page instead of showing it.
        type_name = "ContentType" if is_s3(uri) else "content_type"
        options = {type_name: "text/html; charset=utf-8"} if uri.endswith(".html") else {}
        with_retries(lambda: fs.pipe_file(path, data, chunksize=ONE_PUT_BYTES, **options))
    else:
        raise OSError(f"{len(data):,} bytes are more than the store takes in one put; make the shard smaller")


def put_new(uri: str, data: bytes) -> bool:
    """Write a file unless there is one; whether this call wrote the file. Of several calls at once, one does."""
    fs, path = locate(uri)
    try:
        if isinstance(fs, LocalFileSystem):
            with _temporary_file(path, data) as temporary:
                os.link(temporary, path)
        else:
            with_retries(lambda: fs.pipe_file(path, data, mode="create"))
    except OSError as error:
        if not isinstance(error, FileExistsError) and "pre-conditions" not in str(error):  # S3's words
            raise
        try:
            return read_bytes(uri) == data  # equal if an earlier put of this call arrived and its reply was lost
        except FileNotFoundError:
            return False
    return True


@contextmanager
def _temporary_file(path: str, data: bytes) -> Iterator[str]:
    """A hidden file with this content in the folder of `path`, while the context lasts."""
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
    """Remove a file, or a folder with all its files. No error if there is nothing."""
    fs, path = locate(uri)
    if isinstance(fs, LocalFileSystem):
        with suppress(FileNotFoundError):
            shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)
        return

    def remove_one(name: str) -> None:
        with suppress(FileNotFoundError):
            with_retries(lambda: fs.rm_file(name))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(remove_one, with_retries(lambda: fs.find(path))))


@contextmanager
def removing_new_folders_on_error(uri: str) -> Iterator[None]:
    """After an error in the context, remove a local folder that is new and empty, and new empty folders above it."""
    fs, path = locate(uri)
    new_folders: list[str] = []
    while isinstance(fs, LocalFileSystem) and not os.path.lexists(path):
        new_folders.append(path)
        path = os.path.dirname(path)
    try:
        yield
    except BaseException:
        for folder in new_folders:
            with suppress(OSError):
                os.rmdir(folder)
        raise
