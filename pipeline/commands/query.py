"""`label-images query`: a question to the tables of an output, answered by DuckDB."""

from __future__ import annotations

import sys

from pipeline.ask.named_queries import list_queries
from pipeline.commands.extras import check_installed
from pipeline.commands.flags import Model, Output
from pipeline.config import FieldError
from pipeline.errors import UserError

MAX_ROWS = 10_000


def query(
    query: str | None = None,
    /,
    *,
    output: Output,
    model: Model = None,
    set: list[str] | None = None,
    sql: str | None = None,
) -> int:
    """Put a question to the tables, by name or in SQL.

    SQL is over the views labels, top5, shards, runs and classes.

    ```
    label-images query --output s3://bucket/tables labels
    label-images query --output tables/ neighbours \\
      --set key=n02492660_howler_monkey --set number=5
    label-images query --output tables/ \\
      --sql "SELECT label, count(*) FROM labels GROUP BY ALL"
    ```

    Exit status: 0 answered, 2 wrong usage, or what DuckDB says of the question.

    Args:
        query: A question by its name.
        set: A setting of the question, as NAME=VALUE. The flag may be given several times.
        sql: A question of one's own: one SELECT.
    """
    if (query is None) == (sql is None):
        raise UserError("QUERY and --sql: give one of them.")
    if query is not None and query not in list_queries():
        raise UserError(f"QUERY is {query!r}; it takes one of {', '.join(list_queries())}.")
    settings = set or []
    for setting in settings:
        if "=" not in setting:
            raise FieldError("set", f"is {setting!r}; it takes NAME=VALUE.")
    check_installed("query", duckdb="sql")
    from pipeline.ask.query import ask, connect, explaining_sql_errors, note_foreign_tables

    question = query if query is not None else str(sql)
    connection = connect(output, model)
    with explaining_sql_errors(connection):
        ask(connection, question, dict(setting.split("=", 1) for setting in settings)).show(max_rows=MAX_ROWS)
    if note := note_foreign_tables(connection, question):
        print(f"note: {note}", file=sys.stderr)
    return 0


def describe_queries() -> str:
    """The queries that have a name, as a list for the help."""
    return "\n".join(f"- {name}: {' '.join(comment.split())}" for name, comment in list_queries().items())
