"""The bytes of a CSV that a user made -> its columns, and the line of each row.

In: bytes, and the flag and the URI that errors name. Out: the cells as text, without blanks at their ends.
Not here: what the cells mean.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Collection

from pipeline.errors import UserError
from pipeline.store.retry import describe_error

DELIMITERS = ",;\t"


def parse_csv(flag: str, uri: str, data: bytes, single: Collection[str] = (), what: str = "a manifest") -> tuple[dict[str, list[str]], list[int]]:
    """Column name -> its values, of a row that is too short empty ones; and the number of each row's line.

    Args:
        single: the columns that may not occur twice.
        what: the file is, with its article.

    Raises:
        UserError: it is no CSV in UTF-8; the sentence names the line.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        why = "it is UTF-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "it is compressed (gzip)" \
            if data.startswith(b"\x1f\x8b") else f"byte {error.start:,} is not UTF-8"
        raise UserError(f"--{flag} {uri}: line {line}: {what} is text in UTF-8, and {why}.") from error
    head = text.partition("\n")[0]
    delimiter = max(DELIMITERS, key=head.count)  # of none, the comma
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    columns: dict[str, list[str]] = {}
    lines: list[int] = []
    try:
        names = [name.strip() for name in next(reader, [])]
        twice = [name for name, number in Counter(names).items() if number > 1 and name in single]
        if twice:
            raise UserError(f"--{flag} {uri}: line 1: there are several columns {twice[0]}.")
        columns = {name: [] for name in names if name}
        at = {name: names.index(name) for name in columns}
        for row in reader:
            if not row:
                continue  # an empty line is none
            if len(row) > len(names):
                raise UserError(f"--{flag} {uri}: line {reader.line_num}: {len(row)} values for {len(names)} columns; a comma in a value "
                                "needs quotes around it.")
            lines.append(reader.line_num)
            for name in columns:
                columns[name].append(row[at[name]].strip() if at[name] < len(row) else "")
    except csv.Error as error:
        raise UserError(f"--{flag} {uri}: line {reader.line_num}: not CSV ({describe_error(error)}).") from error
    return columns, lines
