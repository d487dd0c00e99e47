"""A file of the store, read once from start to end or by seeking, all of it in one version.

In: a URI. Out: an open file and its version; `Replaced` if the store has another version by the end.
Not here: what the bytes mean.
"""

from __future__ import annotations

import errno
import functools
import io
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import IO, Any

from fsspec.implementations.local import LocalFileSystem

from pipeline.store.clouds.statuses import find_status
from pipeline.store.retry import Replaced, describe_error, with_retries
from pipeline.store.s3.connect import is_s3
from pipeline.store.storage import locate, open_read, stat, version_of_open_file
from pipeline.store.versions import File

BLOCK_BYTES = 2**23  # of one request
BLOCKS_AHEAD = 2  # requests at once: one request to S3 gives about 80 MB/s
_SEEKING = threading.Lock()  # two open files of some stores share one position


def open_stream(uri: str) -> AbstractContextManager[tuple[IO[bytes], File]]:
    """A file to read once from its start, some blocks ahead; and its version.

    Each request to S3 names the etag of the opened file (If-Match), and so does each one to Azure. All stores but S3
    are asked again at the end.

    Raises:
        Replaced: the file was replaced. The bytes so far are of the old version; of a local file perhaps of both.
    """
    return _open(uri, _BlockStream)


def open_random(uri: str) -> AbstractContextManager[tuple[IO[bytes], File]]:
    """A file to read by seeking, a request for each range; and its version. Raises Replaced as `open_stream` does."""
    return _open(uri, _RangeFile)


@contextmanager
def _open(uri: str, kind: type[_BlockStream | _RangeFile]) -> Iterator[tuple[IO[bytes], File]]:
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
    """The bytes from `start` to `stop` of an open file. Raises Replaced, or ConnectionError if the reply is cut."""
    try:
        if hasattr(file, "_fetch_range"):  # a buffered file of fsspec: each call is one request, from any thread
            data: bytes = file._fetch_range(start, stop)
        else:
            with _SEEKING:
                file.seek(start)
                data = file.read(stop - start)
    except ValueError as error:
        if "range requests" not in str(error):
            raise
        limit = f"{BLOCK_BYTES / 2**20:.0f} MiB"
        raise OSError(errno.ENOTSUP,
                      f"the web server gives no parts of a file, so none of over {limit} is read") from error
    except OSError as error:
        if type(error).__name__ == "FileExpired":  # s3fs raises it for another etag
            raise Replaced(str(error)) from error
        raise
    except Exception as error:
        if find_status(error) == 416:  # the file has become shorter
            raise Replaced(f"{describe_error(error)}") from error
        raise
    if len(data) != stop - start:
        raise ConnectionError(f"the store sent {len(data)} bytes instead of {stop - start}")
    return data


class _RangeFile(io.RawIOBase):
    """An open file of a store that fetches each range when it is read."""

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


class _BlockStream(io.RawIOBase):
    """An open file of a store that fetches its next `BLOCKS_AHEAD` blocks while one block is read."""

    def __init__(self, file: Any, size: int) -> None:
        self.file = file
        self.size = size
        self.requested = 0
        self.block = memoryview(b"")
        self.blocks: deque[Future[bytes]] = deque()
        self.pool = ThreadPoolExecutor(BLOCKS_AHEAD, "fetch")

    def readable(self) -> bool:
        return True

    def readinto(self, room: Any) -> int:
        while self.requested < self.size and len(self.blocks) < BLOCKS_AHEAD:
            stop = min(self.requested + BLOCK_BYTES, self.size)
            fetch = functools.partial(_fetch, self.file, self.requested, stop)
            self.blocks.append(self.pool.submit(with_retries, fetch))
            self.requested = stop
        if not len(self.block) and self.blocks:
            self.block = memoryview(self.blocks.popleft().result())
        number = min(len(room), len(self.block))
        room[:number] = self.block[:number]
        self.block = self.block[number:]
        return number

    def close(self) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)
        super().close()
