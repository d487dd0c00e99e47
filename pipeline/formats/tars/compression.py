"""An open compressed file -> the bytes that its own tool makes of it: gzip(1), bzip2(1), xz(1), zstd(1).

In: a file open for reading, and its first bytes. The file need not seek.
Out: one stream of the contents of all parts of the file: members of gzip, streams of bzip2 and xz, frames of zstd.
Data behind the last part is ignored if the tool ignores it, and is an error if the tool calls it an error.
This module never closes the file.
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

HEAD_BYTES = 512  # enough to recognise a file
CHUNK_BYTES = 2**15  # for each call of a decoder; a chunk is copied once for each part that ends in it
MAX_READ_BYTES = 2**20  # of one call of pyarrow
_MAGIC = {"gzip": rb"\x1f\x8b", "bzip2": rb"BZh[1-9]", "xz": rb"\xfd7zXZ\x00",
          "zstd": rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"}  # second: a frame to skip, as pzstd writes
_EXPLANATIONS = {  # of pyarrow's messages
    "Dictionary mismatch": "it needs the dictionary that it was made with, and a shard has none; pack it without -D",
    "Frame requires too much memory for decoding":
        "its window is over 128 MiB, which zstd(1) too refuses; pack it with --long=27 or less",
}


class Undecodable(Exception):
    """The compressed data is cut, is damaged, or needs an option that is not supported. The message says which."""


def detect_packing(head: bytes) -> str | None:
    """The tool that unpacks a file with these first bytes: `gzip`, `bzip2`, `xz` or `zstd`; None if there is none."""
    return next((name for name, magic in _MAGIC.items() if re.match(magic, head)), None)


def unpack(file: IO[bytes], head: bytes, packing: str) -> IO[bytes]:
    """The contents of a compressed file, as a stream.

    Args:
        file: open for reading; its position is behind `head`.
        head: the first bytes of the file.
        packing: the result of `detect_packing`.

    Returns:
        A stream. Its `read` raises Undecodable; errors of the file pass unchanged.
    """
    source = _Source(file, head)
    if packing == "zstd":
        return cast(IO[bytes], _Frames(source))
    return cast(IO[bytes], io.BufferedReader(_Parts(source, packing), 2**17))


class _Source:
    """The compressed file, with the position of the next byte. Bytes can be put back."""

    closed = False  # pyarrow reads this attribute

    def __init__(self, file: IO[bytes], head: bytes) -> None:
        self.file = file
        self.ahead = head
        self.position = 0  # of the next byte in the file
        self.failure: Exception | None = None  # raised by the file

    def read(self, size: int = CHUNK_BYTES) -> bytes:
        """Up to `size` bytes; none at the end of the file."""
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
        """The next bytes, which stay unread. There are fewer than `number` only at the end of the file."""
        data = b""
        while len(data) < number and (more := self.read()):
            data += more
        self.put_back(data)
        return data[:number]

    def skip_zeros(self) -> int:
        """Go to the next byte that is not zero, or to the end. Returns the number of skipped zeros."""
        start = self.position
        while data := self.read():
            if rest := data.lstrip(b"\0"):
                self.put_back(rest)
                break
        return self.position - start

    def close(self) -> None:
        """Do nothing: pyarrow would close the file, but only its owner may close it."""


class _Parts(io.RawIOBase):
    """The contents of all parts of a file, one after the other."""

    def __init__(self, source: _Source, packing: str) -> None:
        self.source = source
        self.packing = packing
        self.new_decoder, self.next_part_follows = _DECODERS[packing]
        self.decoder = self.new_decoder()
        self.ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.ended:
            if self.decoder.eof:
                self.source.put_back(self.decoder.unused_data)
                self.ended = not self.next_part_follows(self.source)
                self.decoder = self.new_decoder()
                continue
            chunk = self.source.read() if self.decoder.needs_input else b""
            try:
                data = self.decoder.decompress(chunk, len(buffer))
            except (zlib.error, OSError, lzma.LZMAError, ValueError) as error:
                raise Undecodable(f"its {self.packing} data is damaged before byte {self.source.position:,} "
                                  f"({str(error).rpartition(': ')[2]})") from error
            if data:
                buffer[:len(data)] = data
                return len(data)
            if not chunk and self.decoder.needs_input and not self.decoder.eof:
                raise _cut_error(self.packing, self.source)
        return 0


class _Inflater:
    """The decoder of one gzip member, header and checksums included, with the interface of bz2's decoder."""

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
    """Whether another member follows. Zeros, such as the padding of a tape, and data that is no member are ignored."""
    source.skip_zeros()
    return _begins(source.next_bytes(2), rb"\x1f", rb"\x8b")


def _bzip2_follows(source: _Source) -> bool:
    """Whether another stream follows. Other data is ignored; the first bytes of a stream alone are a cut stream."""
    return _begins(source.next_bytes(4), b"B", b"Z", b"h", b"[1-9]")


def _xz_follows(source: _Source) -> bool:
    """Whether another stream follows. Padding is a multiple of four zeros; other data must be a stream."""
    start = source.position
    if source.skip_zeros() % 4:
        raise Undecodable(f"its xz data is damaged at byte {start:,} (padding that is not a multiple of four zeros)")
    return bool(source.next_bytes(1))


def _begins(data: bytes, *patterns: bytes) -> bool:
    """Whether each byte matches its pattern, and there is at least one byte."""
    pairs = zip(data[:len(patterns)], patterns, strict=False)
    return bool(data) and all(re.match(pattern, bytes([byte])) for byte, pattern in pairs)


# Of each tool: what makes the decoder of a part; whether another part follows.
_DECODERS: dict[str, tuple[Callable[[], Any], Callable[[_Source], bool]]] = {
    "gzip": (_Inflater, _member_follows), "bzip2": (bz2.BZ2Decompressor, _bzip2_follows),
    "xz": (lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ), _xz_follows)}


class _Frames:
    """The contents of all frames of a zstd file, by pyarrow, which passes over the frames to skip."""

    def __init__(self, source: _Source) -> None:
        self.source = source
        self.stream = pa.CompressedInputStream(pa.PythonFile(source, mode="r"), "zstd")

    def read(self, size: int) -> bytes:
        """Up to `size` bytes, and no more than `MAX_READ_BYTES`.

        pyarrow allocates the memory for all of them first. If it then raises, it never frees that memory.
        """
        try:
            data: bytes = self.stream.read(min(size, MAX_READ_BYTES))
        except (OSError, pa.ArrowException) as error:
            if self.source.failure is not None:
                raise self.source.failure from None
            reason = str(error).rpartition(": ")[2]
            if reason.startswith("Truncated"):
                raise _cut_error("zstd", self.source) from error
            raise Undecodable(_EXPLANATIONS.get(reason, "its zstd data is damaged before byte "
                                                   f"{self.source.position:,} ({reason})")) from error
        return data


def _cut_error(packing: str, source: _Source) -> Undecodable:
    return Undecodable(f"its {packing} data ends too early, at byte {source.position:,}: it was cut")
