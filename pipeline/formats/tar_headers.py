"""Python's tarfile, with what it reads wrongly or ends in silence mended.

In: a stream of a tar, of which some first bytes are read already. Out: a TarFile over it, which raises TarError wherever
the tar is not whole: it ends without an end mark, inside a member, or in what is no header.
Not here: which members matter.
"""

from __future__ import annotations

import re
import tarfile
from typing import IO, Any, Self, cast

BLOCK_BYTES = 512
HEADER_BYTES = 2**24  # all headers of a member; of more (a long name, PAX) none is read: gzip makes gigabytes from nothing
_NAME_SHOWN = 100
_TIMES = re.compile(rb"(?:[0-7 \0]{12}|[\x80-\xff].{11}){2}", re.DOTALL)  # of last access and of change, in GNU's headers
_tarfile: Any = tarfile  # its exceptions and functions for headers are not in typeshed


def open_tar(stream: IO[bytes], head: bytes) -> tarfile.TarFile:
    """A TarFile over a stream.

    Args:
        stream: open for reading behind `head`; need not seek.
        head: the tar's first bytes, a block if it has one.

    Raises:
        tarfile.TarError: here and whenever the TarFile is read: the tar is cut or damaged; the message says where.
    """
    forward = _Forward(stream, head)
    try:
        return tarfile.TarFile(fileobj=cast(Any, forward), tarinfo=_Header)  # it reads the first header
    except tarfile.TarError as error:
        raise tarfile.ReadError(_explained(forward, error)) from error


def is_header(block: bytes) -> bool:
    """Whether a tar may begin with this block: a header whose sum is right, or the zeros of an empty tar."""
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except _tarfile.EOFHeaderError:
        return True
    except (tarfile.TarError, ValueError):
        return False
    return True


def explain_end(tar: tarfile.TarFile, error: tarfile.TarError) -> str:
    """Why reading a tar ended with this error, in one sentence."""
    return _explained(cast(_Forward, tar.fileobj), error)


def _explained(forward: _Forward, error: tarfile.TarError) -> str:
    if not forward.ended:
        return str(error)
    at = f"at byte {forward.position:,}"
    if forward.header_start is None:
        return f"it ends inside {quote_name(forward.member)}, {at}: it was cut"
    if forward.header_start == forward.position:
        return f"it has no end mark ({at}): it was not closed, or it was cut"
    return f"it ends inside a header, {at}: it was cut"


def quote_name(name: str) -> str:
    """A member's name as it is told: quoted, printable, not longer than a line."""
    return repr(name if len(name) <= _NAME_SHOWN else name[:_NAME_SHOWN] + "…")


class _Header(tarfile.TarInfo):
    """A header that does not end the archive in silence: only the end mark (a block of zeros) is an end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        return super().frombuf(_without_false_prefix(buf), encoding, errors)

    @classmethod
    def _frombuf(cls, buf: bytes, encoding: str, errors: str, **options: Any) -> Self:
        """What later releases of Python call instead."""
        header: Self = cast(Any, super())._frombuf(_without_false_prefix(buf), encoding, errors, **options)
        return header

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
        forward = cast(_Forward, tar.fileobj)
        outermost = forward.header_start is None  # tarfile comes here again for the header behind a long name's
        if outermost:
            forward.header_start = forward.position
        try:
            header = super().fromtarfile(tar)
            if header.size < 0:  # a PAX record may say so
                raise tarfile.ReadError(f"it has no valid tar header at byte {header.offset:,} (a negative size)")
        except _tarfile.EOFHeaderError:
            forward.header_start = None if outermost else forward.header_start
            raise
        except (_tarfile.HeaderError, ValueError, LookupError, OverflowError, RecursionError) as error:
            reason = str(error) if isinstance(error, _tarfile.HeaderError) else "damaged records"
            raise tarfile.ReadError(f"it has no valid tar header at byte {max(forward.position - BLOCK_BYTES, 0):,} ({reason})"
                                    ) from error
        if outermost:
            forward.header_start, forward.member = None, header.name
        return header


def _without_false_prefix(header: bytes | bytearray) -> bytes | bytearray:
    """The header, with zeros for what tarfile would take for a prefix of the name and is none.

    As POSIX says, only a header with its magic has one; GNU's has times in that place. Early Go wrote prefixes under GNU's
    magic: where no times can be. The sum is made right if it was.
    """
    magic, false = header[257:265], header[345:500]
    if (not any(false) or header[156:157] in _tarfile.GNU_TYPES
            or magic.startswith(b"ustar") and not (magic == b"ustar  \0" and _TIMES.match(header, 345))):
        return header
    total = _tarfile.nti(header[148:156]) - sum(false)
    return header[:148] + b"%07o\0" % max(total, 0) + header[156:345] + bytes(155) + header[500:]


class _Forward:
    """A stream that only goes on, as tarfile wants to see it; its own (`r|`) takes twice the time."""

    def __init__(self, stream: IO[bytes], head: bytes) -> None:
        self.stream = stream
        self.head = head
        self.position = 0
        self.ended = False  # less came than was asked for
        self.member = ""  # the last one whose header was read
        self.header_start: int | None = None  # while the headers of a member are read: where they start

    def tell(self) -> int:
        return self.position

    def seek(self, position: int) -> None:
        if position < self.position:  # its bytes are gone, and those that follow are others
            raise tarfile.ReadError(f"it has a sparse file {quote_name(self.member)} with a damaged map")
        while self.position < position and self.read(min(position - self.position, 2**20)):
            pass

    def read(self, size: int) -> bytes:
        if size < 0:
            raise tarfile.ReadError(f"it has no valid tar header at byte {self.position - BLOCK_BYTES:,} (a negative size)")
        if self.header_start is not None and self.position + size > self.header_start + HEADER_BYTES:
            raise tarfile.ReadError(f"it has a header of {size:,} bytes")
        data = self.stream.read(size) if self.position else self.head  # tarfile reads a block first
        while 0 < len(data) < size and (more := self.stream.read(size - len(data))):
            data += more
        self.position += len(data)
        self.ended = len(data) < size
        return data
