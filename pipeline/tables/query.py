"""Questions to the tables of an output, with DuckDB.

In: an output, one of its models, and SQL or the name of a query under `sql/duckdb/`. Out: DuckDB's relation over the views
`labels`, `top5`, `shards`, `runs` and `classes` (`sql/duckdb/views.sql`).
Queries take their settings from DuckDB's variables, so the same files serve its own shell.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import duckdb

from pipeline.config import check_uri
from pipeline.errors import JobError, UserError
from pipeline.store.explain import explain_error
from pipeline.store.storage import locate
from pipeline.store.uris import canonical_uri
from pipeline.tables import ledger, plan
from pipeline.tables.named_queries import SQL_FOLDER, list_queries
from pipeline.tables.output import labels_folder, only_model

_VARIABLE = re.compile(r"getvariable\('(\w+)'\)")
_OF_LABELS = re.compile(r"\b(labels|top5)\b")
_OWN_ERROR = "Invalid Input Error: the query "  # raised by our SQL, not by DuckDB
NAMED = 3  # files that are no tables, named in a sentence
_STRANGERS = """
SELECT num_orphans, run_id FROM runs
WHERE num_orphans IS NOT NULL AND json_extract_string(config, '$.partition') IS NULL ORDER BY run_id DESC LIMIT 1"""


def connect(output: str, model_id: str | None = None) -> duckdb.DuckDBPyConnection:
    """A connection with the views over an output, of the model that is named or its only one. The store is read as the job reads it.

    Raises:
        UserError: the output has no tables, those of several models and none is named, or cannot be read.
    """
    check_uri("output", output)
    output = canonical_uri(output)
    if "\\" in output:
        raise UserError(f"--output {output}: DuckDB takes \\ in a path for /; rename the folder, or link to it by another name.")
    model_id = model_id or only_model(output)
    connection = duckdb.connect()
    if "://" in output:
        connection.register_filesystem(locate(output)[0])
    _set(connection, {"output": output, "model": model_id})
    try:
        connection.execute((SQL_FOLDER / "views.sql").read_text(encoding="utf-8"))
    except duckdb.Error as error:
        raise UserError(f"--output {output} --model {model_id}: no tables can be read there "
                        f"({_describe_sql_error(error, 300)}){_not_ours(output, model_id)}.") from error
    except Exception as error:  # the store's own, each has others
        raise explain_error("--output", output, error) from error
    return connection


def ask(connection: duckdb.DuckDBPyConnection, question: str, settings: Mapping[str, str] | None = None) -> Any:
    """The answer to a named query, or to SQL of one's own, which is one SELECT. DuckDB may still find faults while it is read: see `told`.

    Raises:
        UserError: SQL that does other things than select, a setting that the query does not have, or what DuckDB says of the SQL.
    """
    sql = _text(question)
    known = set(_VARIABLE.findall(sql))
    for name in settings or {}:
        if name not in known:
            raise UserError(f"--set {name}: the query has no such setting; it has {', '.join(sorted(known)) or 'none'}.")
    with explaining_sql_errors(connection):
        statements = connection.extract_statements(sql)
        if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
            raise UserError(f"--sql is one SELECT; this {'holds ' + str(len(statements)) + ' statements' if len(statements) != 1 else 'is another statement'}.")
        _set(connection, settings or {})
        return connection.sql(sql)


@contextmanager
def explaining_sql_errors(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """What DuckDB or the store says meanwhile becomes a UserError in one sentence; it names the files that are no tables, if there are any."""
    try:
        yield
    except JobError:
        raise
    except Exception as error:
        if _OWN_ERROR in str(error):
            raise UserError(_describe_sql_error(error, 600).partition("Invalid Input Error: ")[2] + ".") from error
        output, model_id = connection.execute("SELECT getvariable('output'), getvariable('model')").fetchall()[0]
        if not isinstance(error, duckdb.Error):
            raise explain_error("--output", output, error) from error
        raise UserError(f"DuckDB: {_describe_sql_error(error, 600)}{_not_ours(output, model_id)}") from error


def note_foreign_tables(connection: duckdb.DuckDBPyConnection, question: str) -> str | None:
    """How many of the tables that a question reads are of no shard of the input, in a sentence; None if there are none.

    As the newest run over the whole input found: the input itself is not listed.
    """
    if not _OF_LABELS.search(_text(question)):
        return None
    try:
        found = connection.execute(_STRANGERS).fetchall()
    except duckdb.Error:  # all runs are older than the count
        return None
    if not found or not found[0][0]:
        return None
    return f"{found[0][0]:,} tables are of shards that the input no longer had at run {found[0][1]}; their rows are in the answer"


def _text(question: str) -> str:
    return (SQL_FOLDER / f"{question}.sql").read_text(encoding="utf-8") if question in list_queries() else question


def _not_ours(output: str, model_id: str) -> str:
    """The files below a model's labels that are no tables of ours, for the end of a sentence: of those that the ledger does not know."""
    try:
        unknown = plan.find_unrecorded(ledger.list_labels(output, model_id), ledger.read_finished(output, model_id, []))
        ours = set(ledger.read_footers(output, model_id, unknown)["file"].to_pylist())
    except Exception:  # noqa: BLE001  # it only explains another error
        return ""
    others = sorted(set(unknown["path"].to_pylist()) - ours)
    more = f" and {len(others) - NAMED:,} more" if len(others) > NAMED else ""
    return f"; no tables of the job, in {labels_folder(output, model_id)}: {', '.join(others[:NAMED])}{more}" if others else ""


def _describe_sql_error(error: Exception, length: int) -> str:
    return " ".join(str(error).split())[:length]


def _set(connection: duckdb.DuckDBPyConnection, settings: Mapping[str, str]) -> None:
    for name, value in settings.items():
        quoted = value.replace("'", "''")
        connection.execute(f"SET VARIABLE {name} = '{quoted}'")
