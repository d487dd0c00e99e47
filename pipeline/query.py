"""Questions to the tables of an output, with DuckDB.

In: an output, and SQL or the name of a query under `sql/duckdb/`. Out: DuckDB's relation over the views `labels`, `top5`,
`shards`, `runs` and `classes` (`sql/duckdb/views.sql`).
Queries take their settings from DuckDB's variables, so the same files serve its own shell.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import duckdb

from pipeline.config import UserError, canonical_uri, check_uri
from pipeline.storage import locate

_SQL = files("pipeline") / "sql" / "duckdb"
_VARIABLE = re.compile(r"getvariable\('(\w+)'\)")


def named() -> dict[str, str]:
    """The queries that have a name, and the comment that each begins with."""
    found = {}
    for path in sorted(_SQL.iterdir(), key=lambda path: path.name):
        if path.name != "views.sql":
            lines = path.read_text(encoding="utf-8").splitlines()
            comment = [line.removeprefix("-- ") for line in lines if line.startswith("--")]
            found[path.name.removesuffix(".sql")] = "\n".join(comment)
    return found


def connect(output: str, model_id: str | None = None) -> duckdb.DuckDBPyConnection:
    """A connection with the views over an output, all its models or one. The store is read as the job reads it.

    Raises:
        UserError: the output has no tables, or cannot be read.
    """
    check_uri("output", output)
    output = canonical_uri(output)
    connection = duckdb.connect()
    if "://" in output:
        connection.register_filesystem(locate(output)[0])
    _set(connection, {"output": output} | ({"model": model_id} if model_id else {}))
    try:
        connection.execute((_SQL / "views.sql").read_text(encoding="utf-8"))
    except duckdb.Error as error:
        raise UserError(f"--output {output}{f' --model {model_id}' if model_id else ''}: no tables can be read there "
                        f"({' '.join(str(error).split())[:300]}).") from error
    return connection


def ask(connection: duckdb.DuckDBPyConnection, question: str, settings: Mapping[str, str] | None = None) -> Any:
    """The answer to a named query, or to SQL of one's own.

    Raises:
        UserError: a setting that the query does not have, or what DuckDB says of the SQL.
    """
    path = _SQL / f"{question}.sql"
    sql = path.read_text(encoding="utf-8") if question in named() else question
    known = set(_VARIABLE.findall(sql))
    for name in settings or {}:
        if name not in known:
            raise UserError(f"--set {name}: the query has no such setting; it has {', '.join(sorted(known)) or 'none'}.")
    _set(connection, settings or {})
    try:
        return connection.sql(sql)
    except duckdb.Error as error:
        raise UserError(f"DuckDB: {' '.join(str(error).split())[:600]}") from error


def _set(connection: duckdb.DuckDBPyConnection, settings: Mapping[str, str]) -> None:
    for name, value in settings.items():
        quoted = value.replace("'", "''")
        connection.execute(f"SET VARIABLE {name} = '{quoted}'")
