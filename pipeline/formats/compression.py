"""An open compressed file -> the bytes that its own tool makes of it: gzip(1), bzip2(1), xz(1), zstd(1).

In: a file open for reading, which need not seek, and its first bytes. Out: a stream of what it holds, over all its parts:
members of gzip, streams of bzip2 and xz, frames of zstd. What the tool ignores behind the last part is ignored; what the
tool calls an error is one. The file is never closed from here.
Not here: what the bytes mean.
"""

from __future__ import annotations

import bz2
import io
import lzma
import re
import zlib
from collections.abc import Callable
from typing import IO, Any, cast

import pyarrow as pa

HEAD_BYTES = 512  # enough to tell what a file is
CHUNK_BYTES = 2**15  # of the file, for each call of a decoder; it is copied once for each part that ends in it
MOST_BYTES = 2**20  # of one call of pyarrow
_MAGIC = {"gzip": rb"\x1f\x8b", "bzip2": rb"BZh[1-9]", "xz": rb"\xfd7zXZ\x00",
          "zstd": rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"}  # the latter begins a frame to be skipped, as pzstd writes
_MEANING = {
    "Dictionary mismatch": "it needs the dictionary that it was made with, and a shard has none; pack it without -D",
    "Frame requires too much memory for decoding":
        "its window is over 128 MiB, which zstd(1) too refuses; pack it with --long=27 or less",
}


class Undecodable(Exception):
    """The compressed data is cut, damaged, or of a kind that is not read; the message says which and where."""


def detect_packing(head: bytes) -> str | None:
    """The tool that a file with these first bytes is for: `gzip`, `bzip2`, `xz`, `zstd`; None if for none of them."""
    return next((name for name, magic in _MAGIC.items() if re.match(magic, head)), None)


def unpack(file: IO[bytes], head: bytes, packing: str) -> IO[bytes]:
    """What a compressed file holds.

    Args:
        file: the file, open for reading behind `head`.
        head: its first bytes.
        packing: as `packing_of` says.

    Returns:
        A stream; its `read` raises Undecodable, and errors of the file as they come.
    """
    source = _Source(file, head)
    if packing == "zstd":
        return cast(IO[bytes], _Frames(source))
    return cast(IO[bytes], io.BufferedReader(_Parts(source, packing), 2**17))


class _Source:
    """The compressed file, with a count of what was taken; bytes can be put back."""

    closed = False  # pyarrow asks

    def __init__(self, file: IO[bytes], head: bytes) -> None:
        self.file = file
        self.ahead = head
        self.position = 0  # in the file, of the next byte
        self.failure: Exception | None = None  # of the file itself

    def read(self, size: int = CHUNK_BYTES) -> bytes:
        """Some bytes, at most `size`; none at the end."""
        try:
            data = self.ahead[:size] or self.file.read(size)
        except Exception as error:
            self.failure = error
            raise
        self.ahead = self.ahead[size:]
        self.position += len(data)
        return data

    def put_back(self, data: bytes) -> None:
        self.ahead = data + self.ahead
        self.position -= len(data)

    def next_bytes(self, number: int) -> bytes:
        """The next bytes, fewer only at the end; they are still to be read."""
        found = b""
        while len(found) < number and (more := self.read()):
            found += more
        self.put_back(found)
        return found[:number]

    def skip_zeros(self) -> int:
        """Go to the next byte that is not zero, or to the end; how many zeros were skipped."""
        began = self.position
        while data := self.read():
            if rest := data.lstrip(b"\0"):
                self.put_back(rest)
                break
        return self.position - began

    def close(self) -> None:
        """Do nothing: pyarrow closes what it read, and the file is for its owner to close."""


class _Parts(io.RawIOBase):
    """What the parts of a file hold, one behind the other."""

    def __init__(self, source: _Source, packing: str) -> None:
        self.source = source
        self.packing = packing
        self.new_decoder, self.goes_on = _KINDS[packing]
        self.decoder = self.new_decoder()
        self.ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, room: Any) -> int:
        while not self.ended:
            if self.decoder.eof:
                self.source.put_back(self.decoder.unused_data)
                self.ended = not self.goes_on(self.source)
                self.decoder = self.new_decoder()
                continue
            chunk = self.source.read() if self.decoder.needs_input else b""
            try:
                data = self.decoder.decompress(chunk, len(room))
            except (zlib.error, OSError, lzma.LZMAError, ValueError) as error:
                raise Undecodable(f"its {self.packing} data is damaged before byte {self.source.position:,} "
                                  f"({str(error).rpartition(': ')[2]})") from error
            if data:
                room[:len(data)] = data
                return len(data)
            if not chunk and self.decoder.needs_input and not self.decoder.eof:
                raise _cut(self.packing, self.source)
        return 0


class _Inflater:
    """zlib's decoder of one member, with its header and its sums, in the shape of the decoders of bz2 and lzma."""

    def __init__(self) -> None:
        self.decoder = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self.decoder.eof

    @property
    def unused_data(self) -> bytes:
        return self.decoder.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        decoded = self.decoder.decompress(self.decoder.unconsumed_tail + data, max_length)
        self.needs_input = not self.decoder.unconsumed_tail
        return decoded


def _member_follows(source: _Source) -> bool:
    """Zeros, as a tape's blocks end with, and what is no member are ignored; a member behind zeros is read."""
    source.skip_zeros()
    return _begins(source.next_bytes(2), rb"\x1f", rb"\x8b")


def _bzip2_follows(source: _Source) -> bool:
    """What does not begin as a stream is ignored; a beginning without its rest is a cut stream."""
    return _begins(source.next_bytes(4), b"B", b"Z", b"h", b"[1-9]")


def _xz_follows(source: _Source) -> bool:
    """Padding by zeros, four by four; anything else must be a stream."""
    began = source.position
    if source.skip_zeros() % 4:
        raise Undecodable(f"its xz data is damaged at byte {began:,} (padding that is not a multiple of four zeros)")
    return bool(source.next_bytes(1))


def _begins(found: bytes, *magic: bytes) -> bool:
    return bool(found) and all(re.match(one, found[at:at + 1]) for at, one in enumerate(magic) if at < len(found))


_KINDS: dict[str, tuple[Callable[[], Any], Callable[[_Source], bool]]] = {
    "gzip": (_Inflater, _member_follows), "bzip2": (bz2.BZ2Decompressor, _bzip2_follows),
    "xz": (lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ), _xz_follows)}


class _Frames:
    """What the frames of a zstd file hold, by pyarrow, which skips those to be skipped."""

    def __init__(self, source: _Source) -> None:
        self.source = source
        self.stream = pa.CompressedInputStream(pa.PythonFile(source, mode="r"), "zstd")

    def read(self, size: int) -> bytes:
        """Up to `size` bytes, at most `MOST_BYTES`: pyarrow makes room for all of them first, and keeps it for ever if it then raises."""
        try:
            data: bytes = self.stream.read(min(size, MOST_BYTES))
        except (OSError, pa.ArrowException) as error:
            if self.source.failure is not None:
                raise self.source.failure from None
            reason = str(error).rpartition(": ")[2]
            if reason.startswith("Truncated"):
                raise _cut("zstd", self.source) from error
            raise Undecodable(_MEANING.get(reason, f"its zstd data is damaged before byte {self.source.position:,} "
                                                   f"({reason})")) from error
        return data


def _cut(packing: str, source: _Source) -> Undecodable:
    return Undecodable(f"its {packing} data ends too early, at byte {source.position:,}: it was cut")
