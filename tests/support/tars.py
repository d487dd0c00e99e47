"""Tars and compressed files made byte by byte, as tools write them that are not on every machine."""

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zlib

import pyarrow as pa

POSIX, GNU, V7 = b"ustar\x0000", b"ustar  \0", bytes(8)
END = bytes(1024)


def make_tar(*members: tuple[str, bytes]) -> bytes:
    """A tar of members: name and content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def header(name: bytes, size: int, kind: bytes = b"0", magic: bytes = POSIX, behind: bytes = b"",
           size_field: bytes | None = None) -> bytes:
    """A header block; `behind`: what stands from byte 345 on, where POSIX has the prefix and GNU the times."""
    field = size_field or b"%011o\0" % size
    block = bytearray(name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + field + b"00000000000\0" + b" " * 8
                      + kind + bytes(100) + magic + bytes(80) + behind).ljust(512, b"\0")
    return signed(block)


def signed(block: bytes | bytearray) -> bytes:
    """The header with the right sum."""
    block = bytearray(block)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def member(name: bytes, content: bytes, *options: bytes) -> bytes:
    """A header and its content; `options`: kind, magic and what is behind of `header`."""
    return header(name, len(content), *options) + content + bytes(-len(content) % 512)


def gzip_member(content: bytes, flags: int = 0) -> bytes:
    """A member of gzip with the optional fields of `flags`: FHCRC 2, FEXTRA 4 (as bgzip's), FNAME 8, FCOMMENT 16."""
    head = b"\x1f\x8b\x08" + bytes([flags]) + b"\1\2\3\4\0\3"
    head += b"\x06\0BC\2\0\xff\xff" if flags & 4 else b""
    head += b"name.tar\0" if flags & 8 else b""
    head += b"a comment\0" if flags & 16 else b""
    head += struct.pack("<H", zlib.crc32(head) & 0xFFFF) if flags & 2 else b""
    return head + gzip.compress(content)[10:]


def skippable(content: bytes, number: int = 0) -> bytes:
    """A frame that zstd skips, as pzstd and seekable zstd write; `number`: 0 to 15."""
    return struct.pack("<II", 0x184D2A50 + number, len(content)) + content


def raw_frame(content: bytes, window_log: int = 20, dictionary: int = 0) -> bytes:
    """A frame of zstd that keeps its content as it is, without its size and a checksum."""
    frame = b"\x28\xb5\x2f\xfd" + (b"\1" if dictionary else b"\0") + bytes([(window_log - 10) << 3])
    frame += bytes([dictionary]) if dictionary else b""
    pieces = [content[at:at + 2**16] for at in range(0, len(content), 2**16)] or [b""]
    for at, piece in enumerate(pieces):
        frame += ((len(piece) << 3) + (at == len(pieces) - 1)).to_bytes(3, "little") + piece
    return frame


def sized_frame(content: bytes) -> bytes:
    """A frame of zstd with the size of its content."""
    return bytes(pa.compress(content, "zstd", asbytes=True))


def streamed_frame(content: bytes) -> bytes:
    """A frame of zstd without it."""
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue())


PACKINGS = {
    "gzip": [gzip_member, lambda data: gzip_member(data, 30), lambda data: gzip_member(data, 4)],
    "bzip2": [bz2.compress, lambda data: bz2.compress(data, 1)],
    "xz": [lzma.compress, lambda data: lzma.compress(data, check=lzma.CHECK_NONE),
           lambda data: lzma.compress(data, check=lzma.CHECK_SHA256)],
    "zstd": [raw_frame, sized_frame, streamed_frame],
}
