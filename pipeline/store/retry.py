"""What the store does to one call: tried again where that helps, and not where it does not.

In: a call without arguments. Out: what it returns, or its last error. The only retries there are: the libraries' own are
switched off in `storage`, since tries of tries multiply.
Not here: reading a shard again after it was replaced (`reader`), labelling it again after a process died (`run`).
"""

from __future__ import annotations

import errno
import logging
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

TRIES = 8
FIRST_WAIT_S, LONGEST_WAIT_S = 0.25, 16.0  # doubled each time, half of it by chance: 24 s in all

Result = TypeVar("Result")

# As the operating system and s3fs (its errors.py: 429 and 503 are EBUSY, 500 EREMOTEIO, unknown codes EIO) number them.
_TRANSIENT = {errno.EAGAIN, errno.EBUSY, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.EIO,
              errno.EPIPE, errno.EREMOTEIO, errno.ESTALE, errno.ETIMEDOUT}
# No answer, or one cut off: of Python, and of botocore and aiohttp, which are not imported for a local store. An OSError that is
# none of these and has no number is no passing fault: so libraries call a damaged file.
_TRANSIENT_KINDS = {"ConnectionError", "TimeoutError", "HTTPClientError", "IncompleteReadError", "ResponseParserError",
                    "ClientConnectionError", "ClientPayloadError"}
_FINAL = (FileNotFoundError, PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError)


class Replaced(Exception):
    """The file is another version than the one that was being read."""


@contextmanager
def without_retries() -> Iterator[None]:
    """While the context lasts nothing is tried again: the store is known to be away, and each call would wait for it anew."""
    _patience.append(1)
    try:
        yield
    finally:
        _patience.pop()


_patience = [TRIES]


def with_retries(call: Callable[[], Result]) -> Result:
    """What `call` returns. A transient error is tried again, `TRIES` times in all, each wait longer; others pass."""
    wait_s = FIRST_WAIT_S
    for left in reversed(range(_patience[-1])):
        try:
            return call()
        except Exception as error:
            if not left or not is_transient(error):
                raise
            logging.getLogger(__name__).info("%d tries left after %r", left, error)
        time.sleep(random.uniform(wait_s / 2, wait_s))
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)
    raise AssertionError("unreachable")


def is_transient(error: Exception) -> bool:
    """Whether the same call may succeed a little later: no answer, a cut one, or 'too busy'; not a refusal."""
    if not _TRANSIENT_KINDS.isdisjoint(kind.__name__ for kind in type(error).__mro__):
        return True
    return isinstance(error, OSError) and not isinstance(error, _FINAL) and error.errno in _TRANSIENT


def is_retryable(error: Exception) -> bool:
    """Whether a shard that failed so is worth another attempt in the same run."""
    return isinstance(error, Replaced | MemoryError) or is_transient(error)


def describe_error(error: BaseException, most: int = 500) -> str:
    """An error as a reason in one line without a full stop, of its message the first `most` characters."""
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror + (f": {error.filename}" if error.filename else "")
    else:
        text = str(error) if not isinstance(error, KeyError) else f"there is no {error}"
    text = text if text.strip() else _WITHOUT_WORDS.get(type(error).__name__, type(error).__name__)
    return " ".join(text.split())[:most].rstrip(".")


_WITHOUT_WORDS = {"TimeoutError": "no answer in time", "MemoryError": "out of memory", "EOFError": "it ends too early",
                  "FSTimeoutError": "no answer in time", "CancelledError": "cancelled"}
