"""The kept columns of an output (`--keep`): the same names and types in all its tables.

In: the config, the shards, the output as it stands. Out: the config with a type for each kept column; a `UserError` if
the tables of the output have other columns. The first run of an output chooses the types that the user does not name:
of a Parquet column its own, else text.
"""

from __future__ import annotations

import re
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as is_type

from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.formats.kept import kept_type
from pipeline.inputs.find import MAX_CHECKED
from pipeline.inputs.kinds import KINDS, kind_of_shard
from pipeline.inputs.read import shard_uri
from pipeline.parse import KeptColumn, format_keep, parse_keep
from pipeline.store import storage
from pipeline.store.explain import explaining_errors
from pipeline.store.read_parquet import DAMAGE
from pipeline.store.retry import is_transient
from pipeline.tables.label_tables import has_tables
from pipeline.tables.owner.claim import Mark
from pipeline.tables.table_paths import is_our_column


def settle_keep(config: Config, shards: pa.Table, root: str, mark: Mark | None) -> Config:
    """The config with the types of its kept columns, which are those of the output if it has tables.

    Args:
        shards: of the input. `root`: of the input.
        mark: what the output belongs to; None if it is new.

    Raises:
        UserError: the tables of the output have other kept columns, or a column cannot be kept.
    """
    wanted = parse_keep(config.keep)
    for column in wanted:
        if is_our_column(column.name):
            raise UserError(f"--keep {column}: the tables have a column {column.name} of their own; give it another "
                            f"name, such as kept_{column.name}={column.source}.")
    before = parse_keep(mark.keep) if mark else ()
    if mark and not _is_same(wanted, before):
        with explaining_errors("--output", config.output):
            if has_tables(config.output):
                now, then = (f"--keep {keep}" if keep else "no --keep" for keep in (config.keep, mark.keep))
                raise UserError(f"--output {config.output} was labelled with {then}, and now there is {now}: all its "
                                "tables have the same columns; give the same, or another --output.")
    if not wanted:
        return config
    _check_folders(wanted, shards)
    if mark and _is_same(wanted, before):
        return replace(config, keep=mark.keep)
    with explaining_errors("--input", config.input):
        return replace(config, keep=format_keep(_choose_types(wanted, shards, root)))


def _is_same(wanted: tuple[KeptColumn, ...], before: tuple[KeptColumn, ...]) -> bool:
    """Whether the columns are those of before; a type that is not named is any."""
    return len(wanted) == len(before) and all(
        (column.name, column.source) == (old.name, old.source) and column.type in (None, old.type)
        for column, old in zip(wanted, before, strict=True))


def _check_folders(wanted: tuple[KeptColumn, ...], shards: pa.Table) -> None:
    """Raise UserError if a folder of the input is a column already, for engines that read `name=value` so."""
    names = {column.name.lower() for column in wanted}
    for path in shards["path"].to_pylist():
        for name in re.findall(r"(?<![^/])([^/=]+)=[^/]*/", path):
            if name.lower() in names:
                raise UserError(f"--keep {name}: the folders {name}=… of the input are a column {name} of the tables "
                                f"already; give it another name, such as kept_{name}=….")


def _choose_types(wanted: tuple[KeptColumn, ...], shards: pa.Table, root: str) -> tuple[KeptColumn, ...]:
    """The columns, each with a type."""
    rows = shards.slice(0, MAX_CHECKED).to_pylist()
    if "members" in shards.column_names:
        if shards["members"][0][0]["kept"].as_py() is None:
            raise UserError(f"--keep {format_keep(wanted)}: loose images have nothing to keep; a manifest may have "
                            "columns beside its column uri, and pack takes texts beside the images into tars.")
    elif kind_of_shard(rows[0]["path"]) is KINDS["parquet"]:
        return _choose_by_schemas(wanted, [uri.rpartition("/")[0] if row.get("part") else uri
                                           for row in rows if (uri := shard_uri(root, row))])
    return tuple(replace(column, type=column.type or "text") for column in wanted)


def _choose_by_schemas(wanted: tuple[KeptColumn, ...], uris: list[str]) -> tuple[KeptColumn, ...]:
    """The types of the first file that has each column."""
    kinds: dict[str, pa.DataType] = {}
    seen: list[str] = []
    for uri in dict.fromkeys(uris):
        try:
            with storage.open_read(uri) as (file, _):
                schema = pq.read_schema(file)
        except (OSError, *DAMAGE) as error:  # such a shard fails when it is read
            if is_transient(error):
                raise
            continue
        seen = seen or schema.names
        kinds |= {name: schema.field(name).type for name in schema.names if name not in kinds}
        if all(column.source in kinds for column in wanted):
            break
    for column in wanted:
        if column.source not in kinds:
            raise UserError(f"--keep {column}: no column {column.source!r} in the first Parquet files; they have "
                            f"{', '.join(seen)}.")
        if is_type.is_binary(kinds[column.source]) or (is_type.is_struct(kinds[column.source]) and any(
                field.name == "bytes" for field in kinds[column.source])):
            raise UserError(f"--keep {column}: the column holds bytes, not text or numbers.")
    return tuple(replace(column, type=column.type or kept_type(kinds[column.source])) for column in wanted)
