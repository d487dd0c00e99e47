"""The bytes of a user's CSV -> its columns, and the line number of each row.

In: bytes; the flag and the URI for error messages. Out: cells as text, without blanks at their ends.
Not here: the meaning of the cells.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Collection

from pipeline.errors import UserError
from pipeline.store.retry import describe_error

DELIMITERS = ",;\t"


def parse_csv(flag: str, uri: str, data: bytes, unique: Collection[str] = (),
              title: str = "a manifest") -> tuple[dict[str, list[str]], list[int]]:
    """The values of each column by its name, and the line number of each row. A missing cell at a row's end is empty.

    Args:
        flag: the flag that names the file, without dashes.
        unique: names of columns that may occur once only.
        title: what the file is, with its article.

    Raises:
        UserError: the bytes are no CSV in UTF-8; the sentence names the line.
    """
    text = decode_text(flag, uri, data, title)
    first_line = text.partition("\n")[0]
    delimiter = max(DELIMITERS, key=first_line.count)  # the comma if there is none
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    columns: dict[str, list[str]] = {}
    lines: list[int] = []
    try:
        names = [name.strip() for name in next(reader, [])]
        repeated = [name for name, number in Counter(names).items() if number > 1 and name in unique]
        if repeated:
            raise UserError(f"--{flag} {uri}: line 1: there are several columns {repeated[0]}.")
        columns = {name: [] for name in names if name}
        place_of = {name: names.index(name) for name in columns}
        for row in reader:
            if not row:
                continue  # an empty line is no row
            if len(row) > len(names):
                raise UserError(f"--{flag} {uri}: line {reader.line_num}: {len(row)} values for {len(names)} columns; "
                                "a comma in a value needs quotes around it.")
            lines.append(reader.line_num)
            for name, place in place_of.items():
                columns[name].append(row[place].strip() if place < len(row) else "")
    except csv.Error as error:
        raise UserError(f"--{flag} {uri}: line {reader.line_num}: not CSV ({describe_error(error)}).") from error
    return columns, lines


def decode_text(flag: str, uri: str, data: bytes, title: str) -> str:
    """The text of UTF-8. Raises UserError with the number of the line that is none."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            reason = "it is UTF-16"
        elif data.startswith(b"\x1f\x8b"):
            reason = "it is compressed (gzip)"
        else:
            reason = f"byte {error.start:,} is not UTF-8"
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"--{flag} {uri}: line {line}: {title} is text in UTF-8, and {reason}.") from error
