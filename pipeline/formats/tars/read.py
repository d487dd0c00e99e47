"""A tar stream -> samples, in the order of the tar.

In: an open tar shard: plain, gzip, bzip2, xz or zstd. Its first bytes say which.
Out: one `Sample` for each key that has an image. The rule is WebDataset's: the key is the path of a member up to the
first dot of its base name. Neighbours with the same key are one sample. The first image of a key counts, or the image
with the suffix that the caller asks for. On request a sample has the text of the member with the truth, and the
values of other members beside the image (`kept_members`).
Members that give no sample and belong to no image are counted.
Not here: compression, the format of headers, decoding. Members are streamed; nothing is extracted to disk.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator, Sequence
from typing import IO, Any, NamedTuple, cast

from pipeline.formats.kept import MAX_BYTES as MAX_KEPT_BYTES
from pipeline.formats.left_out import IMAGE_SUFFIXES, LIKE_IMAGES, LeftOut
from pipeline.formats.samples import KeyTruth, Sample, ShardUnreadable, parse_key_truth
from pipeline.formats.tars.compression import Undecodable, detect_packing, unpack
from pipeline.formats.tars.headers import BLOCK_BYTES, explain_end, is_header, open_tar
from pipeline.formats.tars.kept_members import JSON, find_kept
from pipeline.model.spelling import read_name
from pipeline.store.contents import name_contents
from pipeline.store.uris import printable

MAX_TRUTH_BYTES = 2**12
SHARD_NAME = re.compile(r"\.(tar(\.(gz|bz2|xz|zst))?|tgz|tbz2|txz|tzst)$", re.IGNORECASE)
# Files that other tools leave behind, and hidden files and folders: their names begin with a dot.
_HIDDEN = re.compile(r"(^|/)(\.[^/.][^/]*|__MACOSX|@eaDir|_temporary|_delta_log)/|(^|/)\.[^/]*$", re.DOTALL)
_KEY = re.compile(r"^((?:.*/)?[^./][^./]*)\.[^/]*$", re.DOTALL)  # webdataset.tariterators.base_plus_ext


def read_key_truths(file: IO[bytes], suffix: str | None, image_suffix: str | None = None) -> Iterator[KeyTruth]:
    """The keys of a tar shard with their truths. The whole tar is read before the first one is yielded.

    A text need not lie beside its image: the key joins the two.

    Args:
        suffix: of the members with the truth; None: every truth is None.
        image_suffix: as in `read_samples`.

    Raises: as `read_samples`.
    """
    lone_texts: list[tuple[str, str]] = []
    samples = list(read_samples(file, 0, truth_suffix=suffix, image_suffix=image_suffix, lone_texts=lone_texts))
    lone_text_of = dict(lone_texts)
    for sample in samples:
        yield parse_key_truth(sample.key, sample.truth or lone_text_of.get(sample.key))
    text_beside = {sample.key: sample.truth for sample in samples}
    for key, text in lone_texts:
        # The text has no image, or it contradicts the text that its image has already.
        if key not in text_beside or text != (text_beside[key] or lone_text_of[key]):
            yield parse_key_truth(key, text, is_image=False)


def read_samples(file: IO[bytes], max_bytes: int, max_samples: int | None = None,
                 truth_suffix: str | None = None, image_suffix: str | None = None, left_out: LeftOut | None = None,
                 lone_texts: list[tuple[str, str]] | None = None, keep: Sequence[str] = ()) -> Iterator[Sample]:
    """Stream the samples of a tar shard.

    Args:
        file: the shard, open for reading in binary. It need not seek.
        max_bytes: a larger image is not read; its sample has the error `too_large`.
        max_samples: a shard with more samples is unreadable. None: any number.
        truth_suffix: of the member with the truth: the part of its name behind the key's dot, such as `txt` or `cls`.
        image_suffix: of the image that counts if a key has several, such as `jpg` or `rgb.png`. None: the first image.
        left_out: counts the members that give no sample and belong to none.
        lone_texts: receives key and text of each member with a truth that lies beside no image.
        keep: the sources of `--keep`: suffixes of members, or names in the member `.json`.

    Raises:
        ShardUnreadable: the file is no tar, it is cut or damaged (also where Python's tarfile would end in silence), or
            it has too many samples.
        OSError: the file cannot be read; the error passes unchanged.
    """
    truth_suffix = truth_suffix and truth_suffix.lower()
    image_suffix = image_suffix and image_suffix.lower().lstrip(".")
    left_out = LeftOut() if left_out is None else left_out
    lone_texts = [] if lone_texts is None else lone_texts
    kept_suffixes = frozenset((*(source.lower() for source in keep), JSON)) if keep else frozenset()
    wanted = _Wanted(max_bytes, truth_suffix, image_suffix, tuple(keep), kept_suffixes)
    try:
        stream, head = _open_tar_stream(file)
        with open_tar(stream, head, can_seek=stream is file and file.seekable()) as tar:
            try:
                for sample in _iterate_samples(tar, wanted, left_out, lone_texts):
                    if sample.index == max_samples:
                        raise ShardUnreadable(f"more than {max_samples:,} images; make smaller shards, or raise "
                                              "--max-shard-images")
                    yield sample
                _check_nothing_follows(tar)
            except tarfile.TarError as error:
                raise ShardUnreadable(explain_end(tar, error)) from error
    except (Undecodable, tarfile.TarError) as error:
        raise ShardUnreadable(str(error)) from error


def _open_tar_stream(file: IO[bytes]) -> tuple[IO[bytes], bytes]:
    """The stream of the unpacked tar, and its first block. That block is already taken from the stream."""
    head, stream, packing = _read_block(file), file, None
    if not is_header(head) and (packing := detect_packing(head)) is not None:
        stream = unpack(file, head, packing)
        head = _read_block(stream)
    if not is_header(head):
        raise ShardUnreadable(_explain_no_tar(head, packing))
    return stream, head


def _read_block(stream: IO[bytes]) -> bytes:
    """The next block; shorter only if the stream ends."""
    block = b""
    while len(block) < BLOCK_BYTES and (more := stream.read(BLOCK_BYTES - len(block))):
        block += more
    return block


def _explain_no_tar(head: bytes, packing: str | None) -> str:
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


class _Wanted(NamedTuple):
    """What the caller asks for. `kept_suffixes`: of the members that may have values of `keep`."""

    max_bytes: int
    truth_suffix: str | None
    image_suffix: str | None
    keep: tuple[str, ...]
    kept_suffixes: frozenset[str]


def _iterate_samples(tar: tarfile.TarFile, wanted: _Wanted, left_out: LeftOut,
                     lone_texts: list[tuple[str, str]]) -> Iterator[Sample]:
    num_samples, previous, image, truth = 0, None, None, None
    others: list[str] = []  # members of the key that are neither its image nor its truth
    kept: dict[str, bytes] = {}  # the content of those that may have values of `keep`, by suffix

    def finish_key() -> Sample | None:
        """The sample of the key that has just ended, if it has an image; what it has besides is counted or kept."""
        _count_others(others, image is not None, left_out)
        if image is not None:
            values = find_kept(printable(str(previous)), kept, wanted.keep) if wanted.keep else ()
            return Sample(num_samples, printable(str(previous)), *image, truth, values)
        if truth is not None:
            lone_texts.append((printable(str(previous)), truth))
        return None

    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header; a shard may have many
        if member.isdir():
            continue
        match = None if _HIDDEN.search(member.name) else _KEY.match(member.name)
        if match is None:
            left_out.add_name("hidden" if _HIDDEN.search(member.name) else "other_name", printable(member.name))
            continue
        key = match[1]
        if key != previous:
            if sample := finish_key():
                yield sample
                num_samples += 1
            previous, image, truth, others, kept = key, None, None, [], {}
        suffix = member.name[len(key) + 1:].lower()
        if member.name.lower().endswith(IMAGE_SUFFIXES) and wanted.image_suffix in (None, suffix):
            if image is None:
                image = _read_content(tar, member, wanted.max_bytes)
            else:
                left_out.add_name("same_key", printable(member.name))
        elif wanted.truth_suffix is not None and suffix == wanted.truth_suffix:
            truth = _read_truth(tar, member)
        else:
            others.append(member.name)
            if suffix in wanted.kept_suffixes:
                kept[suffix] = _read_kept(tar, member)
    if sample := finish_key():
        yield sample


def _count_others(names: list[str], has_image: bool, left_out: LeftOut) -> None:
    """Count the other members of a key: all of them if the key has no image, else those that may be images too."""
    for name in names:
        may_be_image = name.lower().endswith(IMAGE_SUFFIXES) or LIKE_IMAGES.search(name)
        if may_be_image or not has_image:
            left_out.add_name("same_key" if may_be_image and has_image else "other_name", printable(name))


def _read_truth(tar: tarfile.TarFile, member: tarfile.TarInfo) -> str | None:
    if member.size > MAX_TRUTH_BYTES:
        raise ShardUnreadable(f"{member.name!r} has {member.size:,} bytes: too many for the name of a class")
    content, error = _read_content(tar, member, MAX_TRUTH_BYTES)
    text = content.decode("utf-8", "backslashreplace").strip("\r\n")
    return None if error or read_name(text) is None else text


def _read_kept(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    content, error = _read_content(tar, member, MAX_KEPT_BYTES)
    if error == "too_large":
        raise ShardUnreadable(f"{member.name!r} has {member.size:,} bytes: too many for a value of --keep, which takes "
                              f"{MAX_KEPT_BYTES:,}")
    return content


def _read_content(tar: tarfile.TarFile, member: tarfile.TarInfo, max_bytes: int) -> tuple[bytes, str | None]:
    """The bytes of a member and None; or no bytes and a reason code."""
    if not member.isfile():
        return b"", "not_a_file"
    if member.size > max_bytes:
        return b"", "too_large"
    if member.issparse():
        encoded = cast(IO[bytes], tar.extractfile(member)).read()
    else:  # `extractfile` makes an object for each member, which costs as much as reading the header
        encoded = cast(IO[bytes], tar.fileobj).read(member.size)
    if len(encoded) != member.size:
        raise tarfile.ReadError(f"cut inside {member.name!r}")
    return encoded, None


def _check_nothing_follows(tar: tarfile.TarFile) -> None:
    """Raise ShardUnreadable if data follows the end mark, such as a second tar: nobody would see its images."""
    stream = cast(Any, tar.fileobj)
    while block := stream.read(2**20):
        if rest := block.lstrip(b"\0"):
            raise ShardUnreadable(f"data follows its end mark, at byte {stream.position - len(rest):,} (tars joined "
                                  "with cat?)")
