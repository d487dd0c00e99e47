"""The queries under `sql/duckdb/` that have a name. DuckDB is not imported."""

from __future__ import annotations

from importlib.resources import files

SQL_FOLDER = files("pipeline.tables") / "sql" / "duckdb"


def list_queries() -> dict[str, str]:
    """The queries that have a name, and the comment that each begins with."""
    comments = {}
    for path in sorted(SQL_FOLDER.iterdir(), key=lambda path: path.name):
        if path.name != "views.sql":
            lines = path.read_text(encoding="utf-8").splitlines()
            comment = [line.removeprefix("-- ") for line in lines if line.startswith("--")]
            comments[path.name.removesuffix(".sql")] = "\n".join(comment)
    return comments
