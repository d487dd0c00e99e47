"""The images of rows, read again from their shards, as small pictures; and a page of them.

In: rows with shard, and index or key. Out: a JPEG for each, or why there is none; one HTML file without scripts.
An image whose bytes are not those that were labelled gives no picture: the row's SHA-256 tells.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from typing import Any

import jinja2
import numpy as np
import pyarrow as pa

from pipeline.config import Config, Format
from pipeline.errors import CaughtError, UserError
from pipeline.formats.samples import Sample
from pipeline.images.decode import decode
from pipeline.inputs.find import find_shards
from pipeline.inputs.kinds import ANY_SHARD_FILE
from pipeline.inputs.read import Inputs, group_of, shard_uri
from pipeline.model.spec import INPUT_SIZE
from pipeline.report.gallery import draw_thumbnail
from pipeline.store.read_parquet import read_table
from pipeline.store.retry import describe_error
from pipeline.store.storage import is_no_file, read_bytes
from pipeline.tables.label_files import read_footers
from pipeline.tables.label_tables import etags_of, list_labels
from pipeline.tables.layout import label_uri
from pipeline.tables.owner.claim import read_mark
from pipeline.tables.table_paths import table_path

SHARDS_AT_ONCE = 8
SHOWN = 300  # pictures of a page; a picture is 4 to 8 KB
HIDDEN = ("embedding", "top5", "sha256")  # columns of an answer that stand beside no picture


def make_pictures(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[Picture]:
    """A picture for each row of an answer, without its image.

    Raises:
        UserError: the answer does not say which images it is about.
    """
    if "shard" not in columns or not {"index", "key"} & {*columns}:
        raise UserError("--pictures: the answer does not say which images it is about; select shard, and index or key.")
    pictures = []
    for values in rows:
        row = dict(zip(columns, values, strict=True))
        shown = {name: round(value, 4) if isinstance(value, float) else value
                 for name, value in row.items() if name not in HIDDEN and value is not None}
        pictures.append(Picture(row["shard"], row.get("index"), row.get("key"), shown))
    return pictures


@dataclass
class Picture:
    """A row of an answer with its image. `index`, `key`: one of them may be None. `jpeg`: 150 x 150; None: `miss` says
    why. `columns`: what is shown beside it."""

    shard: str
    index: int | None
    key: str | None
    columns: dict[str, Any]
    jpeg: bytes | None = None
    miss: str = ""


@dataclass(frozen=True)
class Source:
    """Where the images of an output are read again. `inputs`, `format`: as the job had them."""

    output: str
    model_id: str
    inputs: Inputs
    format: Format

    @cached_property
    def shards(self) -> dict[str, tuple[str, dict[str, Any]]]:
        """The URI, and the row of the listing, of each shard of the input. Listed once, and only if it is needed."""
        mark = read_mark(self.output, [])
        if mark is None:
            return {}
        found = find_shards(mark.input, self.format, output=self.output)
        return {row["path"]: (shard_uri(found.root, row), row) for row in found.shards.to_pylist()}

    @cached_property
    def _versions(self) -> dict[str, str]:
        return etags_of(list_labels(self.output, self.model_id))

    def find_version(self, path: str) -> str:
        """The etag of a table. Raises FileNotFoundError if it is no more."""
        if path not in self._versions:
            raise FileNotFoundError("the shard has no table any more")
        return self._versions[path]


def draw_pictures(pictures: Sequence[Picture], source: Source) -> None:
    """Fill in `jpeg`, or `miss`, of each picture. Each shard is read once, up to the last image that is asked for."""
    by_shard: dict[str, list[Picture]] = {}
    for picture in pictures:
        by_shard.setdefault(picture.shard, []).append(picture)
    with ThreadPoolExecutor(SHARDS_AT_ONCE) as pool:
        list(pool.map(lambda shard: _draw_of_shard(shard, by_shard[shard], source), by_shard))


def _draw_of_shard(shard: str, pictures: list[Picture], source: Source) -> None:
    with CaughtError() as caught:
        digests = _read_digests(source, shard)
        for sample in _read_samples(source, shard):
            wanted = [one for one in pictures if not one.jpeg and not one.miss
                      and (one.index == sample.index if one.index is not None else one.key == sample.key)]
            for picture in wanted:
                _draw(picture, sample, digests.get(sample.index), source.inputs)
            if all(one.jpeg or one.miss for one in pictures):
                break
    reason = describe_error(caught.error) if caught.error is not None else "the shard has no such image any more"
    for picture in pictures:
        if not picture.jpeg and not picture.miss:
            picture.miss = reason


def _read_digests(source: Source, shard: str) -> dict[int, str | None]:
    """The SHA-256 of each image of a shard when it was labelled, by its index."""
    path = table_path(shard)
    table = read_table(read_bytes(label_uri(source.output, source.model_id, path, source.find_version(path))),
                       ["index", "sha256"])
    return dict(zip(table["index"].to_pylist(), table["sha256"].to_pylist(), strict=True))


def _read_samples(source: Source, shard: str) -> Iterator[Sample]:
    """The samples of a shard, read where it was labelled, or else where the input has it now."""
    path = table_path(shard)
    files = pa.table({"path": [path], "etag": [source.find_version(path)]})
    footers = read_footers(source.output, source.model_id, files).to_pylist()
    uri = footers[0]["source_uri"] if footers else None
    if uri and re.search(ANY_SHARD_FILE, shard, re.IGNORECASE):
        with CaughtError() as caught, source.inputs.open(uri) as (samples, _):
            yield from samples
            return
        if caught.error is not None and not is_no_file(caught.error):
            raise caught.error
    if shard not in source.shards:
        raise FileNotFoundError("the input has no such shard any more")
    uri, row = source.shards[shard]
    with source.inputs.open(uri, group_of(row)) as (samples, _):
        yield from samples


def _draw(picture: Picture, sample: Sample, digest: str | None, inputs: Inputs) -> None:
    if sample.error:
        picture.miss = sample.error
    elif hashlib.sha256(sample.encoded).hexdigest() != digest:
        picture.miss = "the image was changed since it was labelled"
    else:
        slot_HWC = np.zeros((INPUT_SIZE, INPUT_SIZE, 3), np.uint8)
        decoded = decode(sample.encoded, slot_HWC, max_pixels=Config.max_image_pixels, max_bytes=inputs.max_image_bytes)
        if decoded.error:
            picture.miss = decoded.error
        else:
            picture.jpeg = draw_thumbnail(slot_HWC.tobytes())


def render_pictures(title: str, notes: Iterable[str], groups: Sequence[tuple[str, Sequence[Picture]]]) -> str:
    """The text of a page: groups of pictures, each under its heading, which may be empty."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True,
                                     undefined=jinja2.StrictUndefined)
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode()
    template = environment.from_string((files("pipeline.ask") / "pictures.html.j2").read_text(encoding="utf-8"))
    return template.render(title=title, notes=list(notes), groups=groups)
