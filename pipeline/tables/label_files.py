"""The file of one shard: rows -> Parquet bytes, with a footer that names the version of the shard; and the footer
read back.

In: tables of `ROWS`, with kept columns or without. Out: the bytes of a file; `FOOTERS`, one row for each file that has
our footer.
Not here: where the file lies (`layout`), and who puts it (the sink).
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.formats.kept import kept_fields
from pipeline.model.spec import EMBEDDING_SIZE
from pipeline.parse import KeptColumn, format_keep
from pipeline.store import storage
from pipeline.store.read_parquet import DAMAGE
from pipeline.store.retry import with_retries
from pipeline.store.versions import File
from pipeline.tables.labels import ROWS
from pipeline.tables.layout import is_in_lake, label_uri
from pipeline.tables.plan import FINISHED

GROUP_ROWS = 8192  # rows of a row group, at least: 50 MB of embeddings
READS_AT_ONCE = 16
_WITH_DICTIONARY = ["shard", "label_id", "label", "error", "top5.list.element.label_id", "top5.list.element.label"]
_WITH_STATISTICS = ["shard", "index", "key", "width", "height", "sha256", "label_id", "label", "prob", "error"]

FOOTERS = pa.schema([*FINISHED, ("run_id", pa.string()), ("source_uri", pa.string()), ("num_images", pa.int64()),
                     ("num_rejected", pa.int64())])


@dataclass(frozen=True)
class ShardVersion:
    """The version of a shard that was read. `shard`: path relative to the input. `size`: bytes."""

    shard: str
    uri: str
    size: int
    etag: str


def file_schema(embeddings: str, keep: Sequence[KeptColumn] = (), *, lake: bool = False) -> pa.Schema:
    """The schema of a file: `ROWS`, with the embedding as `float32` or `float16`, or without it for `false`; behind
    them the kept columns.

    Args:
        lake: with types that Delta and Iceberg have (lists of any length, whole numbers of 32 bits), and with the ids
            of fields that an Iceberg table gives.
    """
    schema, at = pa.schema([*ROWS, *kept_fields(keep)]), ROWS.get_field_index("embedding")
    if lake:
        schema = _number_fields(_widen(schema))
    elif embeddings == "float16":
        schema = schema.set(at, ROWS.field(at).with_type(pa.list_(pa.float16(), EMBEDDING_SIZE)))
    return schema.remove(at) if embeddings == "false" else schema


def _widen(schema: pa.Schema) -> pa.Schema:
    """A schema with the types of lakes."""
    wide = {"label_id": pa.int32(), "embedding": pa.list_(pa.float32()),
            "top5": pa.list_(pa.struct([("label_id", pa.int32()), ("label", pa.string()), ("prob", pa.float32())]))}
    return pa.schema([field.with_type(wide.get(field.name, field.type)) for field in schema])


def _number_fields(schema: pa.Schema) -> pa.Schema:
    """A schema with an id for each field: first the columns, then what is in them, as Iceberg numbers a new table."""
    numbers = itertools.count(1)

    def number(field: pa.Field) -> pa.Field:
        return field.with_metadata({"PARQUET:field_id": str(next(numbers))})

    def number_inside(field: pa.Field) -> pa.Field:
        kind = field.type
        if pa.types.is_list(kind):
            return field.with_type(pa.list_(number_inside(number(kind.value_field.with_name("element")))))
        if pa.types.is_struct(kind):
            return field.with_type(pa.struct([number_inside(inner) for inner in [number(inner) for inner in kind]]))
        return field

    return pa.schema([number_inside(field) for field in [number(field) for field in schema]])


def make_footer(source: ShardVersion, model_id: str, run_id: str, keep: tuple[KeptColumn, ...] = ()) -> dict[str, str]:
    """The footer of the file of a shard; `encode_file` adds `num_rows` and `num_rejected`, and `read_footers` reads it.
    """
    footer = {"source_uri": source.uri, "source_size": str(source.size), "source_etag": source.etag,
              "model_id": model_id, "run_id": run_id}
    return footer | ({"keep": str(format_keep(keep))} if keep else {})


def encode_file(pieces: Iterable[pa.Table], schema: pa.Schema, footer: dict[str, str] | None = None) -> bytes:
    """A Parquet file of rows: zstd, dictionaries for text and ids only, no statistics of embeddings, page index.

    The function keeps some thousand rows of the pieces at a time.

    Args:
        pieces: tables with the columns of the schema, in the order of the rows.
        schema: of `file_schema`.
        footer: of `make_footer`; None for a piece in the staging folder.
    """
    buffer = io.BytesIO()
    kept = [name for name in schema.names if name not in ROWS.names]
    num_rows = num_rejected = 0
    with pq.ParquetWriter(buffer, schema, compression="zstd", use_dictionary=[*_WITH_DICTIONARY, *kept],
                          write_statistics=[*_WITH_STATISTICS, *kept], write_page_index=True) as writer:
        for group in _group_rows(pieces):
            writer.write_table(group.select(schema.names).cast(schema))
            num_rows += group.num_rows
            num_rejected += group.num_rows - group["error"].null_count
        if footer:
            writer.add_key_value_metadata({**footer, "num_rows": str(num_rows), "num_rejected": str(num_rejected)})
    return buffer.getvalue()


def _group_rows(pieces: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The rows of all pieces, a table for each row group."""
    group: list[pa.Table] = []
    for piece in pieces:
        group.append(piece.replace_schema_metadata())
        if sum(table.num_rows for table in group) >= GROUP_ROWS:
            yield pa.concat_tables(group)
            group = []
    if group:
        yield pa.concat_tables(group)


def read_footers(output: str, model_id: str, files: pa.Table) -> pa.Table:
    """The footers of files of a model, as `FOOTERS`. A file without our footer has no row, and its shard is labelled
    again.

    Args:
        files: of `FILES`, such as `label_tables` lists.
    """
    def read(path: str, etag: str) -> dict[str, Any] | None:
        uri = label_uri(output, model_id, path, etag)
        try:
            version, metadata = with_retries(lambda: _read_metadata(uri))
            footer = {name.decode(): value.decode() for name, value in metadata.items()}
            return {"file": path, "file_size": version.size,
                    "file_etag": etag if is_in_lake(etag) else version.etag,
                    "source_size": int(footer["source_size"]), "source_etag": footer["source_etag"],
                    "source_uri": footer["source_uri"], "run_id": footer.get("run_id"),  # null: before runs had names
                    "num_images": int(footer["num_rows"]), "num_rejected": int(footer["num_rejected"])}
        except (FileNotFoundError, *DAMAGE):
            return None
        except OSError as error:
            if error.errno is not None:
                raise
            return None  # pyarrow raises such an error for a damaged footer

    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        found = pool.map(read, files["path"].to_pylist(), files["etag"].to_pylist())
        rows = [row for row in found if row is not None]
    return pa.Table.from_pylist(rows, FOOTERS)


def _read_metadata(uri: str) -> tuple[File, dict[bytes, bytes]]:
    with storage.open_read(uri) as (file, version):
        return version, pq.read_metadata(file).metadata or {}
