"""The first bytes of a file that is no shard -> what the file is, in words that follow "it is ".

In: up to 512 bytes. Out: a phrase, or None if the bytes begin no known kind of file.
Not here: tars, and the compressions that the job reads.
"""

from __future__ import annotations

import codecs
import re

_SHOWN = 40  # characters of a text
_BINARY = (
    (rb"PK(\x03\x04|\x05\x06|\x07\x08)", "a zip archive"), (rb"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (rb"Rar!\x1a\x07", "a rar archive"), (rb"PAR1", "a Parquet file"), (rb"ARROW1\0\0", "an Arrow file"),
    (rb"\xff\xd8\xff", "a JPEG image"), (rb"\x89PNG\r\n\x1a\n", "a PNG image"), (rb"GIF8[79]a", "a GIF image"),
    (rb"RIFF....WEBP", "a WebP image"), (rb"II\*\0|MM\0\*", "a TIFF image"), (rb"BM.{4}\0\0\0\0", "a BMP image"),
    (rb"....ftyp", "an MP4, HEIC or AVIF file"), (rb"%PDF-", "a PDF document"), (rb"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (rb"SQLite format 3\0", "an SQLite database"), (rb"!<arch>\n", "an ar archive"),
    (rb"0707(01|02|07)", "a cpio archive"),
    (rb"\x04\x22\x4d\x18", "lz4 data"), (rb"LZIP", "lzip data"), (rb"\x1f\x9d", "data of compress(1)"),
    (rb"\x5d\0\0.{2}", "lzma data"), (rb"\x89LZO\0", "lzop data"), (rb"\x80[\x02-\x05]", "a Python pickle"),
)


def name_contents(head: bytes) -> str | None:
    """The kind of file that begins with these bytes: `a zip archive`, `text that begins 'url,label'`."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"version https://git-lfs.github.com/"):
        return "a Git LFS pointer, not the file itself (git lfs pull fetches it)"
    if re.match(rb"(\.git/|/|(\.\./)+\.git/)?annex/objects/", text):
        return "a git-annex pointer, not the file itself (git annex get fetches it)"
    if re.match(rb"(<!--.*?-->\s*)?<(!doctype\s+html|html|head|body)\b", text, re.IGNORECASE | re.DOTALL):
        return "an HTML page"
    if re.match(rb"<\?xml\b|<Error>", text):
        code = re.search(rb"<Code>(\w+)</Code>", text)
        return f"an XML error document ({code[1].decode('ascii', 'replace')})" if code else "an XML document"
    for magic, name in _BINARY:
        if re.match(magic, head, re.DOTALL):
            return name
    return _describe_text(text)


def _describe_text(text: bytes) -> str | None:
    """The phrase for UTF-8 without control characters. The last character may be cut. None for other bytes."""
    try:
        decoded = codecs.getincrementaldecoder("utf-8")().decode(text)
    except UnicodeDecodeError:
        return None
    if not decoded or not all(character.isprintable() or character in "\t\r\n" for character in decoded):
        return None
    return f"text that begins {decoded.splitlines()[0][:_SHOWN]!r}"
