"""A Parquet file with a column of images -> samples, in the order of its rows.

In: an open Parquet file; the column holds the encoded bytes (of any of Arrow's types of bytes, dictionaries too), or Hugging
Face's struct of `bytes` and `path`.
Out: a `Sample` for each row, a few rows in memory at a time.
Not here: decoding.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as is_type

from pipeline.formats.compression import HEAD_BYTES
from pipeline.formats.tar import Said, Sample, ShardUnreadable, parse_said
from pipeline.model.spelling import name_number, spell
from pipeline.store.contents import name_contents
from pipeline.store.retry import describe_error, is_transient
from pipeline.store.uris import printable

ROWS_AT_ONCE = 16
BUFFER_BYTES = 2**23  # of each column that is read


def find_columns(schema: pa.Schema, image_column: str | None, key_column: str | None) -> tuple[str, str | None]:
    """The columns of the image and of the key: those named, or the only ones that fit.

    The key is, if none is named, a column `key` or `__key__`; else (None) the struct's path, or the row's number.

    Raises:
        ShardUnreadable: there is no such column, or several.
    """
    fitting = [field.name for field in schema if _holds_images(field.type)]
    for name in (image_column, key_column):
        if name is not None and name not in schema.names:
            raise ShardUnreadable(f"no column {name!r}; it has {', '.join(schema.names)}")
    if image_column is None:
        if len(fitting) != 1 and "image" not in fitting:
            columns = ", ".join(f"{field.name} {_type_name(field.type)}" for field in schema if not fitting or field.name in fitting)
            raise ShardUnreadable(f"{len(fitting) or 'no'} columns hold bytes, or structs of bytes and path ({columns}); "
                                  f"{'name one with --image-column' if fitting else 'if the images are loose files, give --format images'}")
        image_column = "image" if "image" in fitting else fitting[0]
    elif image_column not in fitting:
        raise ShardUnreadable(f"column {image_column!r} holds {_type_name(schema.field(image_column).type)}, not bytes of images")
    if key_column is None:
        key_column = next((name for name in ("key", "__key__") if name in schema.names), None)
    return image_column, key_column


def check_columns(file: Any, image_column: str | None, key_column: str | None) -> None:
    """Raise ShardUnreadable unless an open file is Parquet and has the columns."""
    with _unreadable(file):
        find_columns(pq.read_schema(file), image_column, key_column)


def _holds_images(kind: pa.DataType) -> bool:
    if is_type.is_struct(kind):
        return any(field.name == "bytes" and _holds_images(field.type) for field in kind)
    if is_type.is_dictionary(kind):
        return _holds_images(kind.value_type)
    return _holds_bytes(kind)


def _holds_bytes(kind: pa.DataType) -> bool:
    return bool(is_type.is_binary(kind) or is_type.is_large_binary(kind) or is_type.is_binary_view(kind)
                or is_type.is_fixed_size_binary(kind))


def _type_name(kind: pa.DataType) -> str:
    """A type in a few words; a struct of many fields would fill a page."""
    name = str(kind)
    return name if len(name) <= 60 else name[:57] + "..."


def read_rows(file: Any, image_column: str | None, key_column: str | None, max_bytes: int,
              max_samples: int | None = None, truth_column: str | None = None) -> Iterator[Sample]:
    """Stream the rows as samples; a null image has error `empty`, one of more than `max_bytes` `too_large`.

    The truth is that of `truth_column`; where Hugging Face's metadata name the classes of a number, its name.

    Raises:
        ShardUnreadable: not Parquet, damaged, without such columns, or of more than `max_samples` rows.
    """
    with _unreadable(file):
        parquet = pq.ParquetFile(file, buffer_size=BUFFER_BYTES, pre_buffer=False)
        image, key = find_columns(parquet.schema_arrow, image_column, key_column)
        if max_samples is not None and parquet.metadata.num_rows > max_samples:
            raise ShardUnreadable(f"more than {max_samples:,} images; make smaller shards, or raise --max-shard-images")
        columns = [name for name in (image, key, truth_column) if name is not None]
        index = 0
        for batch, names, truths in _batches(parquet, columns, key, truth_column):
            for value, name, truth in zip(batch[image], names, truths, strict=True):
                held = value.as_py() if value.is_valid else None
                encoded, path = (held.get("bytes"), held.get("path")) if isinstance(held, dict) else (held, None)
                name = name if name is not None else path if path is not None else index
                large = encoded is not None and len(encoded) > max_bytes
                yield Sample(index, _text(name), b"" if large or encoded is None else encoded,
                             "too_large" if large else "empty" if encoded is None else None, truth.truth)
                index += 1


def read_keys(file: Any, image_column: str | None, key_column: str | None,
              truth_column: str | None = None) -> Iterator[Said]:
    """The key and the truth of each row, as `read_rows` gives them; the images are not read.

    Raises: as `read_rows`.
    """
    with _unreadable(file):
        parquet = pq.ParquetFile(file, buffer_size=BUFFER_BYTES, pre_buffer=False)
        image, key = find_columns(parquet.schema_arrow, image_column, key_column)
        kind = parquet.schema_arrow.field(image).type
        path = f"{image}.path" if key is None and is_type.is_struct(kind) and kind.get_field_index("path") >= 0 else None
        columns = [name for name in (key, path, truth_column) if name is not None]
        if not columns:
            yield from (Said(str(index), None) for index in range(parquet.metadata.num_rows))
            return
        index = 0
        for batch, names, truths in _batches(parquet, columns, key, truth_column):
            paths = [held and held["path"] for held in batch[image].to_pylist()] if path else [None] * batch.num_rows
            for name, of_image, truth in zip(names, paths, truths, strict=True):
                yield truth._replace(key=_text(name if name is not None else of_image if of_image is not None else index))
                index += 1


def _batches(parquet: pq.ParquetFile, columns: list[str], key: str | None, truth_column: str | None) -> Iterator[
        tuple[pa.RecordBatch, list[Any], list[Said]]]:
    """Some rows at a time, their keys, and what they say, for no key yet."""
    classes = _class_names(parquet.schema_arrow, truth_column) if truth_column else []
    for batch in parquet.iter_batches(ROWS_AT_ONCE, columns=columns, use_threads=False):
        keys = batch[key].to_pylist() if key else [None] * batch.num_rows
        said = batch[truth_column].to_pylist() if truth_column else [None] * batch.num_rows
        yield batch, keys, [_truth(one, classes) for one in said]


def _truth(value: Any, classes: list[str]) -> Said:
    """A cell as the name of a class. It is strange if it is a number that no class has."""
    if value is None or isinstance(value, str | bytes):
        return parse_said("", None if value is None else _text(value))
    name = name_number(value)
    number = name is not None and name.isdecimal()
    if name is not None and number and classes and int(name) < len(classes):
        named = classes[int(name)]
        return Said("", spell(named) or None, spelling=named if spell(named) != named else None)
    return Said("", name, name is not None and (not number or bool(classes)))


@contextmanager
def _unreadable(file: Any) -> Iterator[None]:
    """What Arrow raises of a file, as `ShardUnreadable`."""
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ShardUnreadable(_why_unreadable(file, error)) from error
    except OSError as error:
        if error.errno is not None or is_transient(error):
            raise  # the store's failure, not the file's
        raise ShardUnreadable(f"damaged Parquet: {describe_error(error)}") from error


def _why_unreadable(file: Any, error: Exception) -> str:
    file.seek(0)
    head = file.read(HEAD_BYTES)
    contents = None if head.startswith(b"PAR1") else name_contents(head) if head else "empty (0 bytes)"
    if contents is None:
        return f"not a Parquet file that can be read: {describe_error(error)}"
    return f"it is {contents}" + ("" if contents.startswith("empty") or "itself" in contents else ", not a Parquet file")


def _text(value: Any) -> str:
    """A key or a truth as text: bytes that are not UTF-8 become `\\xNN`."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else printable(str(value))


def _class_names(schema: pa.Schema, column: str) -> list[str]:
    """The names of `datasets.ClassLabel`'s numbers, as its writer notes them; none if it did not.

    Raises:
        ShardUnreadable: there is no such column, or it holds neither text nor numbers.
    """
    if column not in schema.names:
        raise ShardUnreadable(f"no column {column!r}; it has {', '.join(schema.names)}")
    kind = schema.field(column).type
    while is_type.is_dictionary(kind):
        kind = kind.value_type
    tests = (is_type.is_string, is_type.is_large_string, is_type.is_string_view, _holds_bytes, is_type.is_integer, is_type.is_floating,
             is_type.is_decimal, is_type.is_null)
    if not any(test(kind) for test in tests):
        raise ShardUnreadable(f"column {column!r} holds {_type_name(kind)}, which names no class; it takes text or numbers")
    try:
        noted = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        feature = noted["info"]["features"][column]
        names = feature["names"] if feature["_type"] == "ClassLabel" else []
    except (ValueError, KeyError, TypeError):  # not noted, or by another tool
        return []
    return [str(name) for name in names] if isinstance(names, list) else []
