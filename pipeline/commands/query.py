"""`label-images query`: a question to the tables of an output, answered by DuckDB."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Any

from pipeline.ask.named_queries import list_queries
from pipeline.commands.extras import check_installed
from pipeline.commands.flags import Model, Output
from pipeline.config import FieldError, check_uri
from pipeline.errors import UserError

MAX_ROWS = 10_000
SETTINGS = ("key", "sha256", "shard", "number")  # of the query neighbours


def query(
    query: str | None = None,
    /,
    *,
    output: Output,
    model: Model = None,
    set: list[str] | None = None,
    sql: str | None = None,
    pictures: str | None = None,
) -> int:
    """Put a question to the tables, by name or in SQL.

    SQL is over the views labels, top5, shards, runs and classes.

    ```
    label-images query --output s3://bucket/tables labels
    label-images query --output tables/ neighbours \\
      --set key=n02492660_howler_monkey --set number=5
    label-images query --output tables/ \\
      --sql "SELECT label, count(*) FROM labels GROUP BY ALL"
    label-images query --output tables/ low_confidence --pictures unsure.html
    ```

    Exit status: 0 answered, 2 wrong usage, or what DuckDB says of the question.

    Args:
        query: A question by its name.
        set: A setting of the question, as NAME=VALUE. The flag may be given several times.
        sql: A question of one's own: one SELECT.
        pictures: Write the images of the answer to this HTML file, small, beside their columns; the first 300. They are
            read again from the shards, so the answer needs the columns shard, and index or key.
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
    values = dict(setting.split("=", 1) for setting in settings)
    connection = connect(output, model)
    output, model_id = connection.execute("SELECT getvariable('output'), getvariable('model')").fetchall()[0]
    with explaining_sql_errors(connection):
        rows = find_neighbours(output, model_id, values) if question == "neighbours" else None
        answer = ask(connection, question, values) if rows is None else connection.from_arrow(rows)
        answer.show(max_rows=MAX_ROWS)
        if pictures is not None:
            write_pictures(answer, pictures, output, model_id)
    if note := note_foreign_tables(connection, question):
        print(f"note: {note}", file=sys.stderr)
    return 0


def find_neighbours(output: str, model_id: str, settings: dict[str, str]) -> Any:
    """The answer of the query neighbours by the index, a table of Arrow; None if there is no index, for SQL to answer.

    A setting `image` becomes the setting `embedding`, which SQL knows.
    """
    if (image := settings.pop("image", None)) is not None:
        from pipeline.embeddings.one_image import embed_image  # torch, which takes seconds

        settings["embedding"] = str(embed_image(image, output, model_id).tolist())
    exact = settings.get("exact") == "true"
    opened = None
    if find_spec("faiss") is not None and settings.keys() <= {*SETTINGS, "exact", "embedding"}:
        from pipeline.embeddings.neighbours import open_neighbours

        opened = open_neighbours(output, model_id)
    settings.pop("exact", None)
    if opened is None:
        return None
    rows = opened.answer(settings, exact=exact)
    print(
        f"by the index of {opened.num_known:,} images"
        + (f"; {opened.num_unknown:,} more, which it does not know, were compared one by one: label-images index "
           "brings it up to date" if opened.num_unknown else ""),
        file=sys.stderr,
    )
    return rows


def write_pictures(answer: Any, place: str, output: str, model_id: str) -> None:
    """Write the page of the images of an answer, a relation of DuckDB, and say what is not in it."""
    from pipeline.ask.pictures import SHOWN, Source, draw_pictures, make_pictures, render_pictures
    from pipeline.commands.flags import NO_INPUT_FLAGS, choose_inputs
    from pipeline.store import storage
    from pipeline.store.explain import explaining_errors
    from pipeline.store.uris import canonical_uri
    from pipeline.tables.history import read_settings

    check_uri("pictures", place)
    rows = answer.limit(SHOWN + 1).fetchall()
    shown = make_pictures(answer.columns, rows[:SHOWN])
    inputs, format = choose_inputs(NO_INPUT_FLAGS, read_settings(output, model_id))
    draw_pictures(shown, Source(canonical_uri(output), model_id, inputs, format))
    misses = sum(not picture.jpeg for picture in shown)
    notes = [f"{misses:,} of the {len(shown):,} images cannot be shown"] if misses else []
    notes += [f"only the first {SHOWN} images are shown"] if len(rows) > SHOWN else []
    with explaining_errors("--pictures", place):
        storage.put_whole(canonical_uri(place), render_pictures("Images of the answer", notes, [("", shown)]).encode())
    print(f"pictures  {place}", *notes, sep="\nnote      ")


def describe_queries() -> str:
    """The queries that have a name, as a list for the help."""
    return "\n".join(f"- {name}: {' '.join(comment.split())}" for name, comment in list_queries().items())
