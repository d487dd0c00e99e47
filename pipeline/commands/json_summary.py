"""`--summary FILE|-`: what a verb did, as one JSON object, for programs.

In: the figures of a verb. Out: a file, or stdout; then what is meant for people goes to stderr.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Annotated, Any

from cyclopts import Parameter

from pipeline.config import check_uri
from pipeline.errors import JobError

SummaryPlace = Annotated[
    str | None,
    Parameter(
        help="Write what was done as one JSON object to this file (any URI). - stands for stdout; what is meant for "
        "people then goes to stderr.",
        allow_leading_hyphen=True,
    ),
]


@contextmanager
def writing_summary(place: str | None) -> Iterator[Callable[[dict[str, Any]], None]]:
    """A context that gives a function, which takes the figures of a verb and writes them to `place`.

    A JobError in the context is written too, as `error` and `exit_code`, and passes.

    Raises:
        UserError: `place` is no URI, or cannot be written.
    """
    if place is None:
        yield lambda figures: None
        return
    if place != "-":
        check_uri("summary", place)
    stdout = sys.stdout

    def write(figures: dict[str, Any]) -> None:
        text = json.dumps(figures, indent=2, ensure_ascii=False, default=str) + "\n"
        if place == "-":
            stdout.write(text)
            stdout.flush()  # a process that was asked to end does not wait for more
        else:
            _put(place, text)

    with redirect_stdout(sys.stderr if place == "-" else stdout):
        try:
            yield write
        except JobError as error:
            write({"error": str(error), "exit_code": error.exit_code})
            raise


def _put(place: str, text: str) -> None:
    from pipeline.store import storage
    from pipeline.store.explain import explaining_errors
    from pipeline.store.uris import canonical_uri

    with explaining_errors("--summary", place):
        storage.put_whole(canonical_uri(place), text.encode())
