"""A tar stream -> samples, in the order of the tar.

In: an open file of a tar shard (plain, gzip, bzip2, xz or zstd, told by its first bytes).
Out: `Sample`s: one for each key that has an image, by WebDataset's rule (a key is the member's path up to the
first dot of its base name; neighbours with the same key are one sample; its first image counts, or the one that is asked for).
On request with the text of the member that holds the truth. Counted: what gives no sample and belongs to none.
Not here: compression, the format of headers, and decoding. Members are streamed, nothing is extracted to disk.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, NamedTuple, cast

from pipeline.formats.compression import Undecodable, detect_packing, unpack
from pipeline.formats.left_out import IMAGE_SUFFIXES, LIKE_IMAGES, LeftOut
from pipeline.formats.tar_headers import BLOCK_BYTES, explain_end, is_header, open_tar
from pipeline.model.spelling import read_name
from pipeline.store.contents import name_contents
from pipeline.store.uris import printable

TRUTH_BYTES = 2**12
SHARD_NAME = re.compile(r"\.(tar(\.(gz|bz2|xz|zst))?|tgz|tbz2|txz|tzst)$", re.IGNORECASE)
# Leftovers of other tools, and what is hidden: a dot before a name or a folder.
_HIDDEN = re.compile(r"(^|/)(\.[^/.][^/]*|__MACOSX|@eaDir|_temporary|_delta_log)/|(^|/)\.[^/]*$", re.DOTALL)
_KEY = re.compile(r"^((?:.*/)?[^./][^./]*)\.[^/]*$", re.DOTALL)  # webdataset.tariterators.base_plus_ext


class ShardUnreadable(Exception):
    """The shard cannot be read to its end; the message says why. Its samples so far are not the whole."""


@dataclass(frozen=True)
class Sample:
    """An image and its key. `index`: ordinal in the shard. `error`: why there are no bytes, or None.

    `truth`: what the input itself says the image shows, as it stands there, if that was asked for and it says something.
    """

    index: int
    key: str
    encoded: bytes
    error: str | None
    truth: str | None = None


class Said(NamedTuple):
    """What an input says of an image, or of a key that has none. `strange`: its own list of classes has no such one.

    `spelling`: what stands there, where `truth` is spelled otherwise.
    """

    key: str
    truth: str | None
    strange: bool = False
    is_image: bool = True
    spelling: str | None = None


def parse_said(key: str, text: str | None, is_image: bool = True) -> Said:
    """What a text says of an image."""
    name = None if text is None else read_name(text)
    return Said(key, name, False, is_image, text if name is not None and text != name else None)


def read_said(file: IO[bytes], suffix: str | None, image_suffix: str | None = None) -> Iterator[Said]:
    """What the members of a tar shard say of its images, once all are read. A text may lie apart from its image: the key counts.

    Raises: as `read_samples`.
    """
    apart: list[tuple[str, str]] = []
    samples = list(read_samples(file, 0, truth_suffix=suffix, image_suffix=image_suffix, apart=apart))
    of_key = dict(apart)
    for sample in samples:
        yield parse_said(sample.key, sample.truth or of_key.get(sample.key))
    beside = {sample.key: sample.truth for sample in samples}
    for key, truth in apart:
        if key not in beside or truth != (beside[key] or of_key[key]):  # it is of no image, or says another thing of one
            yield parse_said(key, truth, is_image=False)


def read_samples(file: IO[bytes], max_bytes: int, max_samples: int | None = None,
                 truth_suffix: str | None = None, image_suffix: str | None = None, left_out: LeftOut | None = None,
                 apart: list[tuple[str, str]] | None = None) -> Iterator[Sample]:
    """Stream the samples of a tar shard.

    Args:
        file: the shard, open for reading in binary; need not seek.
        max_bytes: an image of more encoded bytes is not read; its sample has error `too_large`.
        max_samples: a shard of more is not read to its end.
        truth_suffix: what follows the key's dot in the name of the member with the truth: `txt`, `cls`.
        image_suffix: the same of the image that counts, where a key has several: `jpg`, `rgb.png`; None: the first.
        left_out: counts the members that give no sample and belong to none.
        apart: takes key and text of members with a truth that lie beside no image.

    Raises:
        ShardUnreadable: not a tar, cut, or damaged: also where Python's tarfile would end in silence; or too many samples.
        OSError: of the file, as it comes.
    """
    try:
        stream, head = _tar_of(file)
        with open_tar(stream, head) as tar:
            try:
                for sample in _samples(tar, max_bytes, truth_suffix and truth_suffix.lower(), image_suffix and image_suffix.lower().lstrip("."),
                                       LeftOut() if left_out is None else left_out, [] if apart is None else apart):
                    if sample.index == max_samples:
                        raise ShardUnreadable(f"more than {max_samples:,} images; make smaller shards, or raise "
                                              "--max-shard-images")
                    yield sample
                _check_nothing_follows(tar)
            except tarfile.TarError as error:
                raise ShardUnreadable(explain_end(tar, error)) from error
    except (Undecodable, tarfile.TarError) as error:
        raise ShardUnreadable(str(error)) from error


def _tar_of(file: IO[bytes]) -> tuple[IO[bytes], bytes]:
    """The tar itself, whatever it is packed with: its stream, of which the first block is read already; and that block."""
    head, stream, packing = _block(file), file, None
    if not is_header(head) and (packing := detect_packing(head)) is not None:
        stream = unpack(file, head, packing)
        head = _block(stream)
    if not is_header(head):
        raise ShardUnreadable(_why_no_tar(head, packing))
    return stream, head


def _block(stream: IO[bytes]) -> bytes:
    """The first block, shorter only if the stream is."""
    block = b""
    while len(block) < BLOCK_BYTES and (more := stream.read(BLOCK_BYTES - len(block))):
        block += more
    return block


def _why_no_tar(head: bytes, packing: str | None) -> str:
    subject = "it is" if packing is None else f"its {packing} data is"
    if not head:
        return f"{subject} empty (0 bytes)"
    if packing is not None and (inner := detect_packing(head)) is not None:
        return f"it is compressed twice ({inner} inside {packing}); unpack it once"
    if (contents := name_contents(head)) is not None:
        return f"{subject} {contents}" + ("" if "not the file itself" in contents else ", not a tar")
    if len(head) < BLOCK_BYTES:
        return f"{subject} no tar: {len(head)} bytes are less than a header"
    return f"{subject} no tar, or damaged: no valid tar header at byte 0"


def _samples(tar: tarfile.TarFile, max_bytes: int, truth_suffix: str | None, image_suffix: str | None,
             left_out: LeftOut, apart: list[tuple[str, str]]) -> Iterator[Sample]:
    index, previous, image, truth = 0, None, None, None
    others: list[str] = []  # members of the key that are no images
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header; a shard may have many
        if member.isdir():
            continue
        match = None if _HIDDEN.search(member.name) else _KEY.match(member.name)
        if match is None:
            left_out.add_member("hidden" if _HIDDEN.search(member.name) else "other_name", printable(member.name))
            continue
        key = match[1]
        if key != previous:
            if image is not None:
                yield Sample(index, printable(str(previous)), *image, truth)
                index += 1
            elif truth is not None:
                apart.append((printable(str(previous)), truth))
            _count(others, image is not None, left_out)
            previous, image, truth, others = key, None, None, []
        suffix = member.name[len(key) + 1:].lower()
        if member.name.lower().endswith(IMAGE_SUFFIXES) and image_suffix in (None, suffix):
            if image is None:
                image = _content(tar, member, max_bytes)
            else:
                left_out.add_member("same_key", printable(member.name))
        elif truth_suffix is not None and suffix == truth_suffix:
            truth = _text(tar, member)
        else:
            others.append(member.name)
    if image is not None:
        yield Sample(index, printable(str(previous)), *image, truth)
    elif truth is not None:
        apart.append((printable(str(previous)), truth))
    _count(others, image is not None, left_out)


def _count(others: list[str], has_image: bool, left_out: LeftOut) -> None:
    """Count the members of a key that are not its image: all if it has none, else those that may be pictures themselves."""
    for name in others:
        may_be_image = name.lower().endswith(IMAGE_SUFFIXES) or LIKE_IMAGES.search(name)
        if may_be_image or not has_image:
            left_out.add_member("same_key" if may_be_image and has_image else "other_name", printable(name))


def _text(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str | None:
    if member.size > TRUTH_BYTES:
        raise ShardUnreadable(f"{member.name!r} has {member.size:,} bytes: too many for the name of a class")
    content, error = _content(tar, member, TRUTH_BYTES)
    text = content.decode("utf-8", "backslashreplace").strip("\r\n")
    return None if error or read_name(text) is None else text


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, max_bytes: int) -> tuple[bytes, str | None]:
    if not member.isfile():
        return b"", "not_a_file"
    if member.size > max_bytes:
        return b"", "too_large"
    if member.issparse():
        encoded = cast(IO[bytes], tar.extractfile(member)).read()
    else:  # an object for each file costs as much as its header
        encoded = cast(IO[bytes], tar.fileobj).read(member.size)
    if len(encoded) != member.size:
        raise tarfile.ReadError(f"cut inside {member.name!r}")
    return encoded, None


def _check_nothing_follows(tar: tarfile.TarFile) -> None:
    """Data after the end mark would be images nobody sees: a second tar appended, for one."""
    stream = cast(Any, tar.fileobj)
    while block := stream.read(2**20):
        if rest := block.lstrip(b"\0"):
            raise ShardUnreadable(f"data follows its end mark, at byte {stream.position - len(rest):,} (tars joined with "
                                  "cat?)")
