"""A file of the store, read once from its start to its end or here and there, all of it in one version.

In: a URI. Out: an open file, and its version; `Replaced` if the store has another one by the end.
Not here: what the bytes mean.
"""

from __future__ import annotations

import errno
import io
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import IO, Any

from fsspec.implementations.local import LocalFileSystem

from pipeline.store.retry import Replaced, with_retries
from pipeline.store.storage import File, is_s3, locate, open_read, stat, version_of_open_file

BLOCK_BYTES = 2**23  # fetched by one request
_SEEKING = threading.Lock()  # files that are opened twice may share their position
BLOCKS_AHEAD = 2  # requests on their way: one of S3 gives some 80 MB/s


def open_stream(uri: str) -> AbstractContextManager[tuple[IO[bytes], File]]:
    """Read a file once from its start, some blocks ahead, all of it in one version; and that version.

    S3 is asked for each range with If-Match on the etag that was opened; of other stores the version is looked at once
    more at the end, before the context is left.

    Raises:
        Replaced: the file was replaced meanwhile: what was read so far is of the old version, if local maybe of both.
    """
    return _open(uri, _Blocks)


def open_random(uri: str) -> AbstractContextManager[tuple[IO[bytes], File]]:
    """The same for reading here and there, a block at a time."""
    return _open(uri, _Ranges)


@contextmanager
def _open(uri: str, kind: type[_Blocks | _Ranges]) -> Iterator[tuple[IO[bytes], File]]:
    fs, path = locate(uri)
    with open_read(uri) as (file, version):
        if isinstance(fs, LocalFileSystem):
            yield file, version
            after = version_of_open_file(fs, path, file)
        else:
            with io.BufferedReader(kind(file, version.size), 2**20) as stream:
                yield stream, version
            after = version if is_s3(uri) else stat(uri)
        if after.etag != version.etag:
            raise Replaced(f"{uri} was replaced while it was read")


def _fetch(file: Any, start: int, stop: int) -> bytes:
    """A range of an open file of a store, whole."""
    try:
        if hasattr(file, "_fetch_range"):  # of fsspec's buffered files: a request of its own, in any thread
            data: bytes = file._fetch_range(start, stop)
        else:
            with _SEEKING:
                file.seek(start)
                data = file.read(stop - start)
    except ValueError as error:
        if "range requests" not in str(error):
            raise
        raise OSError(errno.ENOTSUP, f"the web server gives no parts of a file, so none of over {BLOCK_BYTES / 2**20:.0f} MiB is read") from error
    except OSError as error:
        if type(error).__name__ == "FileExpired":  # of s3fs: the etag is another one
            raise Replaced(str(error)) from error
        raise
    if len(data) != stop - start:
        raise ConnectionError(f"the store sent {len(data)} bytes instead of {stop - start}")
    return data


class _Ranges(io.RawIOBase):
    """An open file of a store, read in the ranges that are asked for."""

    def __init__(self, file: Any, size: int) -> None:
        self.file = file
        self.size = size
        self.position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        return self.position

    def readinto(self, room: Any) -> int:
        start, stop = self.position, min(self.position + len(room), self.size)
        if start >= stop:
            return 0
        room[: stop - start] = with_retries(lambda: _fetch(self.file, start, stop))
        self.position = stop
        return stop - start


class _Blocks(io.RawIOBase):
    """An open file of a store as a stream of blocks, the next of which are on their way."""

    def __init__(self, file: Any, size: int) -> None:
        self.file = file
        self.size = size
        self.asked = 0
        self.block = memoryview(b"")
        self.coming: deque[Future[bytes]] = deque()
        self.pool = ThreadPoolExecutor(BLOCKS_AHEAD, "fetch")

    def readable(self) -> bool:
        return True

    def readinto(self, room: Any) -> int:
        while self.asked < self.size and len(self.coming) < BLOCKS_AHEAD:
            stop = min(self.asked + BLOCK_BYTES, self.size)
            self.coming.append(self.pool.submit(with_retries, lambda start=self.asked, stop=stop: _fetch(self.file, start, stop)))
            self.asked = stop
        if not len(self.block) and self.coming:
            self.block = memoryview(self.coming.popleft().result())
        number = min(len(room), len(self.block))
        room[:number] = self.block[:number]
        self.block = self.block[number:]
        return number

    def close(self) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)
        super().close()
