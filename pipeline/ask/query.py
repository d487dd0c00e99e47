"""Questions to the tables of an output, with DuckDB.

In: an output, one of its models, and SQL or the name of a query under `sql/duckdb/`. Out: a relation of DuckDB over
the views `labels`, `top5`, `shards`, `runs` and `classes` (`sql/duckdb/views.sql`).
Queries take their settings from variables of DuckDB, so the same files serve DuckDB's own shell.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import duckdb

from pipeline.ask.named_queries import SQL_FOLDER, list_queries
from pipeline.config import check_uri
from pipeline.errors import JobError, UserError
from pipeline.store.explain import explain_error, explaining_errors
from pipeline.store.retry import describe_error
from pipeline.store.storage import locate
from pipeline.store.uris import canonical_uri
from pipeline.tables import label_tables, ledger, plan
from pipeline.tables.label_files import read_footers
from pipeline.tables.label_tables import find_kind
from pipeline.tables.layout import label_uri, labels_folder
from pipeline.tables.owner.models import only_model

_VARIABLE = re.compile(r"getvariable\('(\w+)'\)")
_READS_LABELS = re.compile(r"\b(labels|top5)\b")
_OWN_ERROR = "Invalid Input Error: the query "  # our SQL raises such an error, not DuckDB
NAMED = 3  # foreign files that a sentence names
_ORPHANS = """
SELECT num_orphans, run_id FROM runs
WHERE num_orphans IS NOT NULL AND json_extract_string(config, '$.partition') IS NULL ORDER BY run_id DESC LIMIT 1"""


def connect(output: str, model_id: str | None = None) -> duckdb.DuckDBPyConnection:
    """A connection with the views over an output. The store is read as the job reads it.

    Args:
        model_id: the model whose labels the views show; None: the only model of the output.

    Raises:
        UserError: the output has no tables, has those of several models and none is named, or cannot be read.
    """
    check_uri("output", output)
    output = canonical_uri(output)
    if "\\" in output:
        raise UserError(f"--output {output}: DuckDB takes \\ in a path for /; "
                        "rename the folder, or link to it by another name.")
    model_id = model_id or only_model(output)
    connection = duckdb.connect()
    if "://" in output:
        connection.register_filesystem(locate(output)[0])
    _set_variables(connection, {"output": output, "model": model_id})
    with explaining_errors("--output", output):
        _name_files(connection, output, model_id)
    try:
        connection.execute((SQL_FOLDER / "views.sql").read_text(encoding="utf-8"))
    except duckdb.Error as error:
        raise UserError(f"--output {output} --model {model_id}: no tables can be read there "
                        f"({describe_error(error, 300)}){_name_foreign_files(output, model_id)}.") from error
    except Exception as error:  # of the store, which has its own kinds
        raise explain_error("--output", output, error) from error
    return connection


def _name_files(connection: duckdb.DuckDBPyConnection, output: str, model_id: str) -> None:
    """Set the variable `files` to the files that the newest version of a lake table has."""
    if find_kind(output) == "parquet":
        return
    versions = label_tables.etags_of(label_tables.list_labels(output, model_id))
    uris = [label_uri(output, model_id, path, etag) for path, etag in versions.items()]
    if not uris:
        raise UserError(f"--output {output} has no tables of {model_id}: no run has committed one.")
    quoted = ", ".join("'" + re.sub(r"[*?\[]", r"[\g<0>]", uri).replace("'", "''") + "'" for uri in uris)
    connection.execute(f"SET VARIABLE files = [{quoted}]")


def ask(connection: duckdb.DuckDBPyConnection, question: str, settings: Mapping[str, str] | None = None) -> Any:
    """The answer to a question, as a relation of DuckDB.

    DuckDB may still raise while the relation is read: see `explaining_sql_errors`.

    Args:
        question: the name of a query, or one SELECT.
        settings: value by name of a setting of the query.

    Raises:
        UserError: the SQL is not one SELECT, the query has no such setting, or DuckDB refuses the SQL.
    """
    sql = _read_sql(question)
    names = set(_VARIABLE.findall(sql))
    for name in settings or {}:
        if name not in names:
            raise UserError(f"--set {name}: the query has no such setting; "
                            f"it has {', '.join(sorted(names)) or 'none'}.")
    with explaining_sql_errors(connection):
        statements = connection.extract_statements(sql)
        if len(statements) != 1:
            raise UserError(f"--sql is one SELECT; this holds {len(statements)} statements.")
        if statements[0].type != duckdb.StatementType.SELECT:
            raise UserError("--sql is one SELECT; this is another statement.")
        _set_variables(connection, settings or {})
        return connection.sql(sql)


@contextmanager
def explaining_sql_errors(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Raise an error of DuckDB or of the store as a UserError of one sentence, which names the files that are no
    tables of ours.
    """
    try:
        yield
    except JobError:
        raise
    except Exception as error:
        if _OWN_ERROR in str(error):
            raise UserError(describe_error(error, 600).partition("Invalid Input Error: ")[2] + ".") from error
        output, model_id = connection.execute("SELECT getvariable('output'), getvariable('model')").fetchall()[0]
        if not isinstance(error, duckdb.Error):
            raise explain_error("--output", output, error) from error
        raise UserError(f"DuckDB: {describe_error(error, 600)}{_name_foreign_files(output, model_id)}") from error


def note_foreign_tables(connection: duckdb.DuckDBPyConnection, question: str) -> str | None:
    """How many of the tables that a question reads belong to no shard of the input, in a sentence; None if there are
    none.

    The newest run over the whole input counted them. The input itself is not listed.
    """
    if not _READS_LABELS.search(_read_sql(question)):
        return None
    try:
        rows = connection.execute(_ORPHANS).fetchall()
    except duckdb.Error:  # all runs are older than the column
        return None
    if not rows or not rows[0][0]:
        return None
    num_tables, run_id = rows[0]
    return (f"{num_tables:,} tables are of shards that the input no longer had at run {run_id}; "
            "their rows are in the answer")


def _read_sql(question: str) -> str:
    """The SQL of a named query; other text is SQL already."""
    return (SQL_FOLDER / f"{question}.sql").read_text(encoding="utf-8") if question in list_queries() else question


def _name_foreign_files(output: str, model_id: str) -> str:
    """The end of a sentence: the files in the folder of a model's tables that are no tables of ours; empty if there
    are none.
    """
    foreign: list[str] = []
    with suppress(Exception):  # the sentence explains another error, and does without this part
        files = label_tables.list_labels(output, model_id)
        unknown = plan.find_unrecorded(files, ledger.read_finished(output, model_id, []))
        ours = set(read_footers(output, model_id, unknown)["file"].to_pylist())
        foreign = sorted(set(unknown["path"].to_pylist()) - ours)
    if not foreign:
        return ""
    more = f" and {len(foreign) - NAMED:,} more" if len(foreign) > NAMED else ""
    folder = labels_folder(output, model_id, find_kind(output))
    return f"; no tables of the job, in {folder}: {', '.join(foreign[:NAMED])}{more}"


def _set_variables(connection: duckdb.DuckDBPyConnection, values: Mapping[str, str]) -> None:
    for name, value in values.items():
        quoted = value.replace("'", "''")
        connection.execute(f"SET VARIABLE {name} = '{quoted}'")
