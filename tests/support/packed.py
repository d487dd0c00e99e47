"""Folders of files to pack, and what the packed shards hold."""

import tarfile
from pathlib import Path

from pipeline.config import Config
from pipeline.formats.tars.read import read_samples
from pipeline.inputs.read import Inputs
from pipeline.truth import sources

INPUTS = Inputs(None, None, Config.max_image_bytes, None)


def fill(root: Path, *names: str) -> Path:
    """A folder of files that hold their own names."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def keys(output: Path) -> dict[str, str]:
    """The key of each image of the shards, by its content."""
    found = []
    for shard in sorted(output.glob("*.tar")):
        with shard.open("rb") as file:
            found += [(sample.encoded.decode(), sample.key) for sample in read_samples(file, 2**20)]
    assert len(found) == len(dict(found))
    return dict(found)


def members(output: Path) -> list[str]:
    names = []
    for shard in sorted(output.glob("*.tar")):
        with tarfile.open(shard) as tar:
            names += tar.getnames()
    return names


def truths(output: Path, where: str = "member:cls") -> dict[str, str]:
    return {row["name"]: row["value"]
            for row in sources.read_truth(sources.Examples(str(output), where, INPUTS)).given.to_pylist()}


def shard_bytes(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in output.iterdir()}
