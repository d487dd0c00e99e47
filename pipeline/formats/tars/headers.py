"""Python's tarfile, made strict: it reads some headers wrongly and ends many damaged tars in silence.

In: the stream of a tar, whose first bytes are read already. Out: a TarFile over the stream. The TarFile raises TarError
wherever the tar is not whole: it has no end mark, it ends inside a member, or there are bytes that are no header.
Not here: which members matter.
"""

from __future__ import annotations

import os
import re
import tarfile
from typing import IO, Any, Self, cast

BLOCK_BYTES = 512
HOP_BYTES = 2**14  # a larger gap in a file that can seek is passed over, a smaller one is read
# Of all headers of a member together. Longer headers (a long name, PAX) are refused: a small gzip can hold gigabytes.
MAX_HEADER_BYTES = 2**24
_NAME_SHOWN = 100  # characters
# Of last access and of last change, in GNU's headers.
_TIMES = re.compile(rb"(?:[0-7 \0]{12}|[\x80-\xff].{11}){2}", re.DOTALL)
_tarfile: Any = tarfile  # typeshed lacks its exceptions and functions for headers


def open_tar(stream: IO[bytes], head: bytes, can_seek: bool) -> tarfile.TarFile:
    """A TarFile over a stream.

    Args:
        stream: open for reading; its position is behind `head`. It need not seek.
        head: the first block of the tar, or all of it if it is shorter.
        can_seek: whether the stream is a file that can seek. What nobody asks for is passed over then, and not read.

    Raises:
        tarfile.TarError: the tar is cut or damaged; the message says where. Reading the TarFile raises it too.
    """
    forward = _Forward(stream, head, can_seek)
    try:
        return tarfile.TarFile(fileobj=cast(Any, forward), tarinfo=_Header)  # this reads the first header
    except tarfile.TarError as error:
        raise tarfile.ReadError(_explain(forward, error)) from error


def is_header(block: bytes) -> bool:
    """Whether a tar may begin with this block: a header with the right checksum, or the zeros of an empty tar."""
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except _tarfile.EOFHeaderError:
        return True
    except (tarfile.TarError, ValueError):
        return False
    return True


def explain_end(tar: tarfile.TarFile, error: tarfile.TarError) -> str:
    """The reason why reading a tar ended with this error, in one sentence."""
    return _explain(cast(_Forward, tar.fileobj), error)


def _explain(forward: _Forward, error: tarfile.TarError) -> str:
    if not forward.ended:
        return str(error)
    at = f"at byte {forward.position:,}"
    if forward.header_start is None:
        return f"it ends inside {quote_name(forward.member)}, {at}: it was cut"
    if forward.header_start == forward.position:
        return f"it has no end mark ({at}): it was not closed, or it was cut"
    return f"it ends inside a header, {at}: it was cut"


def quote_name(name: str) -> str:
    """The name of a member for a message: quoted, printable, cut short."""
    return repr(name if len(name) <= _NAME_SHOWN else name[:_NAME_SHOWN] + "…")


class _Header(tarfile.TarInfo):
    """A header that never ends the archive in silence: only the end mark, a block of zeros, ends it."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        return super().frombuf(_without_false_prefix(buf), encoding, errors)

    @classmethod
    def _frombuf(cls, buf: bytes, encoding: str, errors: str, **options: Any) -> Self:
        """Later releases of Python call this instead of `frombuf`."""
        header: Self = cast(Any, super())._frombuf(_without_false_prefix(buf), encoding, errors, **options)
        return header

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
        forward = cast(_Forward, tar.fileobj)
        outermost = forward.header_start is None  # a long name has a header of its own: then tarfile calls this again
        if outermost:
            forward.header_start = forward.position
        try:
            header = super().fromtarfile(tar)
            if header.size < 0:  # from a PAX record
                raise tarfile.ReadError(f"it has no valid tar header at byte {header.offset:,} (a negative size)")
        except _tarfile.EOFHeaderError:
            forward.header_start = None if outermost else forward.header_start
            raise
        except (_tarfile.HeaderError, ValueError, LookupError, OverflowError, RecursionError) as error:
            reason = str(error) if isinstance(error, _tarfile.HeaderError) else "damaged records"
            raise tarfile.ReadError(f"it has no valid tar header at byte {max(forward.position - BLOCK_BYTES, 0):,} "
                                    f"({reason})"
                                    ) from error
        if outermost:
            forward.header_start, forward.member = None, header.name
        return header


def _without_false_prefix(header: bytes | bytearray) -> bytes | bytearray:
    """The header, with zeros in place of bytes that tarfile would wrongly take for a prefix of the name.

    By POSIX only a header with POSIX's magic has a prefix; a header of GNU's has times there. Early Go wrote prefixes
    under GNU's magic: these bytes cannot be times. A right checksum stays right.
    """
    magic, prefix = header[257:265], header[345:500]
    has_times = magic == b"ustar  \0" and _TIMES.match(header, 345)
    has_prefix = magic.startswith(b"ustar") and not has_times
    if not any(prefix) or header[156:157] in _tarfile.GNU_TYPES or has_prefix:
        return header
    total = _tarfile.nti(header[148:156]) - sum(prefix)
    return header[:148] + b"%07o\0" % max(total, 0) + header[156:345] + bytes(155) + header[500:]


class _Forward:
    """A stream that cannot go back, with the interface that tarfile needs. tarfile's own one takes twice the time."""

    def __init__(self, stream: IO[bytes], head: bytes, can_seek: bool) -> None:
        self.stream = stream
        self.head = head
        self.position = 0
        self.ended = False  # True once a read got fewer bytes than it asked for
        self.member = ""  # name of the last member whose header was read
        self.header_start: int | None = None  # start of a member's headers while they are read, else None
        self.size: int | None = None  # in bytes, of a file that can seek
        if can_seek:
            position = stream.tell()
            self.size = stream.seek(0, os.SEEK_END)
            stream.seek(position)

    def tell(self) -> int:
        return self.position

    def seek(self, position: int) -> None:
        if position < self.position:  # a stream cannot go back
            raise tarfile.ReadError(f"it has a sparse file {quote_name(self.member)} with a damaged map")
        if self.size is not None and position - self.position > HOP_BYTES:
            end = min(position, self.size)
            self.stream.seek(end - self.position, os.SEEK_CUR)
            self.position, self.ended = end, end < position
        while self.position < position and self.read(min(position - self.position, 2**20)):
            pass

    def read(self, size: int) -> bytes:
        if size < 0:
            raise tarfile.ReadError(f"it has no valid tar header at byte {self.position - BLOCK_BYTES:,} (a negative "
                                    "size)")
        if self.header_start is not None and self.position + size > self.header_start + MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"it has a header of {size:,} bytes")
        data = self.stream.read(size) if self.position else self.head  # the first read is for one block
        while 0 < len(data) < size and (more := self.stream.read(size - len(data))):
            data += more
        self.position += len(data)
        self.ended = len(data) < size
        return data
