"""A listing as rows."""

from pipeline.store.listing import list_files
from pipeline.store.storage import File


def files_below(uri: str) -> list[File]:
    """The files that `list_files` finds under a URI."""
    return [File(**row) for row in list_files(uri).to_pylist()]
