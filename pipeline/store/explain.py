"""A failure of the store -> one sentence that says how the user named the place, and what is wrong with it.

In: any exception that a store raises. Out: a `UserError`. The caller says how the user named the place: the store knows
no flag of the command line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import JobError, UserError
from pipeline.store.retry import describe_error, is_transient
from pipeline.store.storage import locate

# Stores whose put is atomic: a reader sees the old object, no object, or the whole new object.
ATOMIC_PUT = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az")
_PATTERN = re.compile(r"[*?\[{]")
# No credentials, or no such machine: of botocore, Azure's client, Google's and socket.
_NO_ANSWER = ("NoCredentialsError", "PartialCredentialsError", "ClientAuthenticationError", "DefaultCredentialsError",
              "RefreshError", "gaierror")


def check_atomic_put(named: str, uri: str) -> None:
    """Raise UserError unless a put to this store is atomic, and the store's package is there.

    Args:
        named: how the user named the place.
    """
    scheme = uri.split("://")[0] if "://" in uri else "file"
    if scheme != "file" and scheme not in ATOMIC_PUT:
        raise UserError(f"{named} {uri}: a file put to {scheme}:// is not whole-or-absent; use a local folder or "
                        f"one of {', '.join(name + '://' for name in ATOMIC_PUT[:5])}.")
    with explaining_errors(named, uri):
        locate(uri)


@contextmanager
def explaining_errors(named: str, uri: str) -> Iterator[None]:
    """Raise any error in the context as a UserError of one sentence.

    Each store has its own exceptions, so every Exception is caught. A JobError passes as it is.

    Args:
        named: how the user named the place, such as `--output`.
    """
    try:
        yield
    except JobError:
        raise
    except Exception as error:
        raise explain_error(named, uri, error) from error


def explain_error(named: str, uri: str, error: Exception) -> UserError:
    """The sentence for a failure of the store at the place that the user named so."""
    if isinstance(error, FileNotFoundError) and _PATTERN.search(uri):
        reason = ("does not exist: a name is taken as it stands, and * ? [ ] { } do not stand for others; name the "
                  "folder")
    elif isinstance(error, FileNotFoundError):
        reason = "does not exist"
    elif isinstance(error, PermissionError):
        # The store's own words may name the cause: an expired token, an unknown key, a wrong clock.
        words = describe_error(error, 200) if "://" in uri else ""
        reason = f"may not be read or written with the credentials at hand{words and f' ({words})'}"
    elif isinstance(error, ImportError):
        reason = f"needs a package that is not installed: {describe_error(error)}"
    elif is_transient(error) or type(error).__name__ in _NO_ANSWER:
        reason = f"cannot be reached ({describe_error(error, 300)})"
    else:
        reason = f"cannot be used ({describe_error(error, 300)})"
    return UserError(f"{named} {uri} {reason}.")
