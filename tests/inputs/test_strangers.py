"""Random inputs: every file and member has a row or is counted as left out; nothing raises an error or hangs."""

import gzip
import io
import os
import random
import tarfile
import time
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.errors import UserError
from pipeline.formats.left_out import LeftOut
from pipeline.formats.loose import NOT_READ
from pipeline.formats.samples import ShardUnreadable
from pipeline.inputs.find import find_shards
from pipeline.inputs.read import Inputs
from pipeline.store import storage

SEEDS = range(300)
FOLDERS = ("", "", "a/", "a/b c/", "dt=2026-11-24/", "ü/", ".git/", "_temporary/0/", "__MACOSX/", "@eaDir/", "x.y/",
           "odd\udcfe/", "_x=1/")
STEMS = ("img", "IMG_1", "_DSC1", "._img", ".hidden", "Screenshot 10.15", "odd\udcff", "back\\xff", "back\\slash",
         "new\nline", "ü", "%41#?", "a" * 200)
IMAGES = (".jpg", ".JPG", ".jpeg", ".png", ".tif", ".webp")
OTHERS = ("", ".jfif", ".jpe", ".heic", ".txt", ".json", ".csv", ".01", ".zip", ".toolongasuffix")


def name_of(rng: random.Random, suffixes: tuple[str, ...], taken: set[str]) -> str:
    while (name := rng.choice(FOLDERS) + rng.choice(STEMS) + str(rng.randrange(50)) + rng.choice(suffixes)) in taken:
        pass
    taken.add(name)
    return name


def read(root: str, found: pa.Table) -> tuple[list[str | None], LeftOut, list[str]]:
    """The errors of all rows, what is left out of shards, and the shards that fail."""
    inputs, errors, left_out, failed = Inputs(None, None, 1000, None), [], LeftOut(), []
    for row in found.to_pylist():
        of_shard = LeftOut()
        try:
            with inputs.open(storage.child(root, row["path"]), row if "members" in row else None,
                             of_shard) as (samples, _):
                of_this = [sample.error for sample in samples]
        except (ShardUnreadable, OSError) as error:
            failed.append(f"{row['path']}: {error}")
        else:
            errors += of_this
            left_out.add(of_shard.rows())
    return errors, left_out, failed


def make_odd(rng: random.Random, path: Path) -> None:
    """Make a link to nothing or to itself, or a pipe."""
    kind = rng.choice(("dead", "circle", "pipe"))
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("absent" if kind == "dead" else path.name)


@pytest.mark.parametrize("seeds", [SEEDS[start::10] for start in range(10)])
def test_every_file_of_a_folder_is_a_row_or_left_out(tmp_path, seeds):
    for seed in seeds:
        rng, root, taken = random.Random(seed), tmp_path / str(seed), set[str]()
        root.mkdir()
        num_files = rng.randrange(1, 25)
        for _ in range(num_files):
            path = root / name_of(rng, IMAGES * 2 + OTHERS, taken)
            path.parent.mkdir(parents=True, exist_ok=True)
            if rng.random() < 0.2:
                make_odd(rng, path)
                continue
            path.write_bytes(rng.randbytes(rng.randrange(0, 1500)))
            if rng.random() < 0.3:
                os.utime(path, (0, rng.choice((0, -5, 2**31))))
        num_loops = int(rng.random() < 0.3)
        if num_loops:
            (root / "up").symlink_to(".", target_is_directory=True)
        begun = time.monotonic()
        found, left_out, _ = find_shards(str(root), "images")
        errors, _, failed = read(str(root), found)
        assert not failed and {error for error in errors if error} <= {"too_large", *NOT_READ.values()}
        beside = count_beside(taken)
        assert len(errors) + left_out.total() + beside == num_files + num_loops, (seed, left_out.rows())
        assert all(len(sentence.splitlines()) <= 2 for sentence in left_out.sentences())
        assert time.monotonic() - begun < 10


def count_beside(names: set[str]) -> int:
    """Files that belong to an image: the same path up to its last suffix, and no pictures by their suffix."""
    def visible(name: str) -> bool:
        *folders, base = name.split("/")
        return not base.startswith(".") and not any(
            part.startswith(".") or (part.startswith("_") and "=" not in part) or part == "@eaDir" for part in folders)

    images = {os.path.splitext(name)[0] for name in names if visible(name) and name.lower().endswith(IMAGES)}
    others = [name for name in names if visible(name)
              and not name.lower().endswith((*IMAGES, ".jfif", ".jpe", ".heic", ".parquet"))]
    return sum(os.path.splitext(name)[0] in images for name in others)


@pytest.mark.parametrize("seeds", [SEEDS[start::10] for start in range(10)])
def test_every_member_of_a_tar_is_a_row_or_left_out(tmp_path, seeds):
    for seed in seeds:
        rng, taken, buffer = random.Random(1000 + seed), set[str](), io.BytesIO()
        kind = rng.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT))
        with tarfile.open(fileobj=buffer, mode="w", format=kind) as tar:
            for _ in range(rng.randrange(0, 25)):
                info = tarfile.TarInfo(name_of(rng, IMAGES * 2 + OTHERS + (".depth.png",), taken))
                info.type = rng.choice((tarfile.REGTYPE,) * 8 + (tarfile.SYMTYPE, tarfile.FIFOTYPE))
                content = rng.randbytes(rng.randrange(0, 1500)) if info.isreg() else b""
                info.size, info.linkname = len(content), "absent" if info.issym() else ""
                tar.addfile(info, io.BytesIO(content))
            end = tar.offset  # behind it there are zeros only
        num_members, data = len(taken), buffer.getvalue()
        cut = rng.random() < 0.2
        if cut:
            data = data[:rng.randrange(end + 1)]
        if packed := rng.random() < 0.3:
            data = gzip.compress(data)
        path = tmp_path / f"{seed}.tar{'.gz' if packed else ''}"
        path.write_bytes(data)
        errors, left_out, failed = read(str(tmp_path), find_shards(str(path)).shards)
        if cut:
            assert len(failed) == 1 and "\n" not in failed[0].removeprefix(path.name), (seed, failed)
            continue
        assert not failed, (seed, failed)
        beside = num_members - len(errors) - left_out.total()
        assert 0 <= beside <= len([name for name in taken
                                   if name.endswith((".txt", ".json", ".csv", ".01", ".zip", ".toolongasuffix"))]), seed
        assert (beside == 0) or errors


@pytest.mark.parametrize("seeds", [SEEDS[start::10] for start in range(10)])
def test_every_line_of_a_manifest_is_a_row_or_one_sentence(tmp_path, seeds):
    (tmp_path / "a.jpg").write_bytes(b"one")
    (tmp_path / "folder").mkdir()
    etag = storage.stat(str(tmp_path / "a.jpg")).etag
    sane = ("a.jpg", "", "folder", "absent.jpg", f"{tmp_path}/a.jpg", f"file://{tmp_path}/a.jpg", "n" * 300, " a.jpg ",
            "ü.jpg", '"a,b.jpg"')
    mad = ("foo://x/y.jpg", "a.jpg,b,c,d", '"a.jpg', "s3://key:secret@b/x.jpg", "z\0.jpg")
    for seed in seeds:
        rng = random.Random(2000 + seed)
        lines = rng.choices(sane + (mad if rng.random() < 0.3 else ()), k=rng.randrange(1, 12))
        is_mad = any(line in mad for line in lines)
        header = "uri"
        if with_version := rng.random() < 0.3:
            header = "size,etag,uri"
            lines = [f"3,{rng.choice((etag, 'stale', f'W/{etag}'))},{line}" for line in lines]
        text = rng.choice(("\n", "\r\n")).join([header, *lines]) + rng.choice(("", "\n"))
        path = tmp_path / f"{seed}.csv"
        path.write_bytes(rng.choice((b"", b"\xef\xbb\xbf")) + text.encode())
        try:
            errors, _, failed = read(str(path), find_shards(str(path)).shards)
        except UserError as error:
            assert (is_mad or not any(lines)) and len(str(error).splitlines()) == 1, (seed, lines)
            continue
        blank = sum(line == "" for line in lines) if not with_version else 0  # an empty line is none
        assert not is_mad and not failed and len(errors) == len(lines) - blank, (seed, lines)
        assert {error for error in errors if error} <= {"not_a_file", "replaced"}
