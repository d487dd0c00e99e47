"""The columns of a Parquet file: which hold images, keys and truths, and what their cells say.

In: a schema of Arrow, or cells. Out: names of columns, truths, text; `ShardUnreadable` if the file does not have them.
Not here: the rows (`parquet.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as is_type

from pipeline.formats.samples import KeyTruth, ShardUnreadable, parse_key_truth
from pipeline.formats.tars.compression import HEAD_BYTES
from pipeline.model.spelling import normalize_name, read_number
from pipeline.store.contents import name_contents
from pipeline.store.retry import describe_error, is_transient
from pipeline.store.uris import printable

MAX_TYPE_NAME = 60  # characters


def find_columns(schema: pa.Schema, image_column: str | None, key_column: str | None) -> tuple[str, str | None]:
    """The names of the column of images and of the column of keys.

    Args:
        image_column: None: the only column that can hold images, or `image` if several can.
        key_column: None: the column `key` or `__key__`. If there is neither, the second result is None: the key is then
            the struct's path, or the number of the row.

    Raises:
        ShardUnreadable: there is no such column, or several can hold images.
    """
    fitting = [field.name for field in schema if _holds_images(field.type)]
    for name in (image_column, key_column):
        if name is not None and name not in schema.names:
            raise ShardUnreadable(f"no column {name!r}; it has {', '.join(schema.names)}")
    if image_column is None:
        if len(fitting) != 1 and "image" not in fitting:
            columns = ", ".join(f"{field.name} {_type_name(field.type)}" for field in schema
                                if not fitting or field.name in fitting)
            without_images = "if the images are loose files, give --format images"
            advice = "name one with --image-column" if fitting else without_images
            raise ShardUnreadable(f"{len(fitting) or 'no'} columns hold bytes, or structs of bytes and path "
                                  f"({columns}); {advice}")
        image_column = "image" if "image" in fitting else fitting[0]
    elif image_column not in fitting:
        raise ShardUnreadable(f"column {image_column!r} holds {_type_name(schema.field(image_column).type)}, "
                              "not bytes of images")
    if key_column is None:
        key_column = next((name for name in ("key", "__key__") if name in schema.names), None)
    return image_column, key_column


def check_columns(file: Any, image_column: str | None, key_column: str | None) -> None:
    """Raise ShardUnreadable unless the open file is Parquet and has the columns."""
    with raising_unreadable(file):
        find_columns(pq.read_schema(file), image_column, key_column)


def parse_truth(cell: Any, classes: list[str]) -> KeyTruth:
    """The truth of a cell, with an empty key. A number that has no name among `classes` is strange."""
    if cell is None or isinstance(cell, str | bytes):
        return parse_key_truth("", None if cell is None else to_text(cell))
    text = read_number(cell)
    is_number = text is not None and text.isdecimal()
    if text is not None and is_number and classes and int(text) < len(classes):
        spelling = classes[int(text)]
        name = normalize_name(spelling)
        return KeyTruth("", name or None, spelling=spelling if name != spelling else None)
    return KeyTruth("", text, text is not None and (not is_number or bool(classes)))


def class_names(schema: pa.Schema, column: str) -> list[str]:
    """The names that Hugging Face's metadata give to the numbers of a `ClassLabel` column; empty if there are none.

    Raises:
        ShardUnreadable: there is no such column, or it holds neither text nor numbers.
    """
    if column not in schema.names:
        raise ShardUnreadable(f"no column {column!r}; it has {', '.join(schema.names)}")
    kind = schema.field(column).type
    while is_type.is_dictionary(kind):
        kind = kind.value_type
    tests = (is_type.is_string, is_type.is_large_string, is_type.is_string_view, _holds_bytes, is_type.is_integer,
             is_type.is_floating, is_type.is_decimal, is_type.is_null)
    if not any(test(kind) for test in tests):
        raise ShardUnreadable(f"column {column!r} holds {_type_name(kind)}, which names no class; it takes text or "
                              "numbers")
    try:
        metadata = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        feature = metadata["info"]["features"][column]
        names = feature["names"] if feature["_type"] == "ClassLabel" else []
    except (ValueError, KeyError, TypeError):  # no such metadata, or metadata of another tool
        return []
    return [str(name) for name in names] if isinstance(names, list) else []


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
    """The name of a type, cut short: the name of a struct with many fields would fill a page."""
    name = str(kind)
    return name if len(name) <= MAX_TYPE_NAME else name[:MAX_TYPE_NAME - 3] + "..."


def to_text(value: Any) -> str:
    """A key or a truth as text. Bytes that are not UTF-8 become `\\xNN`."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else printable(str(value))


@contextmanager
def raising_unreadable(file: Any) -> Iterator[None]:
    """Raise ShardUnreadable for an error of Arrow that means: the file is damaged or is not Parquet."""
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ShardUnreadable(_explain_no_parquet(file, error)) from error
    except OSError as error:
        if error.errno is not None or is_transient(error):
            raise  # the store failed; nothing is known of the file
        raise ShardUnreadable(f"damaged Parquet: {describe_error(error)}") from error


def _explain_no_parquet(file: Any, error: Exception) -> str:
    file.seek(0)
    head = file.read(HEAD_BYTES)
    contents = None if head.startswith(b"PAR1") else name_contents(head) if head else "empty (0 bytes)"
    if contents is None:
        return f"not a Parquet file that can be read: {describe_error(error)}"
    return f"it is {contents}" + ("" if contents.startswith("empty") or "itself" in contents else ", not a Parquet "
                                                                                                  "file")
