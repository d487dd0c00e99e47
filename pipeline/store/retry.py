"""One call to the store, repeated while its error may pass.

In: a call without arguments. Out: what the call returns, or its last error. No other code repeats a call to the store:
`storage` switches the libraries' own retries off, because retries of retries multiply.
Not here: a shard that was replaced is read again by the reader; after a dead process the run labels its shards again.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tenacity import Retrying, before_sleep_log, retry_if_exception, stop_after_attempt, wait_exponential
from tenacity.wait import wait_random_exponential

from pipeline.store.clouds.statuses import as_os_error

TRIES = 8
# Seconds. Each wait is twice as long as the one before, and half of it is random: about 24 s in all.
FIRST_WAIT_S, LONGEST_WAIT_S = 0.25, 16.0

Result = TypeVar("Result")

# Numbers of the operating system and of s3fs. In its errors.py 429 and 503 are EBUSY, 500 is EREMOTEIO, and unknown
# codes are EIO.
_TRANSIENT = {errno.EAGAIN, errno.EBUSY, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.EIO,
              errno.EPIPE, errno.EREMOTEIO, errno.ESTALE, errno.ETIMEDOUT}
# No answer, or half an answer. The names are of Python, botocore, aiohttp, requests, httpx and Azure's client; a store
# imports only its own. An OSError without a number is not transient: libraries raise one for a damaged file.
_TRANSIENT_KINDS = {"ConnectionError", "TimeoutError", "HTTPClientError", "IncompleteReadError", "ResponseParserError",
                    "ClientConnectionError", "ClientPayloadError", "Timeout", "ChunkedEncodingError", "TransportError",
                    "ServiceRequestError", "ServiceResponseError"}
_FINAL = (FileNotFoundError, PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError)
_SENTENCES = {"TimeoutError": "no answer in time", "MemoryError": "out of memory", "EOFError": "it ends too early",
              "FSTimeoutError": "no answer in time", "CancelledError": "cancelled"}
_LOGGER = logging.getLogger(__name__)


class Replaced(Exception):
    """The store has another version of the file than the version that is being read."""


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed a little later: no answer, half an answer, or "too busy"; not a refusal."""
    if not _TRANSIENT_KINDS.isdisjoint(kind.__name__ for kind in type(error).__mro__):
        return True
    return isinstance(error, OSError) and not isinstance(error, _FINAL) and error.errno in _TRANSIENT


def is_retryable(error: BaseException) -> bool:
    """Whether a shard that failed with this error is worth another attempt in the same run."""
    return isinstance(error, Replaced | MemoryError) or is_transient(error)


def with_retries(call: Callable[[], Result]) -> Result:
    """What `call` returns. A call with a transient error is repeated, `TRIES` calls in all.

    Raises:
        OSError: the last error of the call; the first one if it is not transient. An error with an HTTP status becomes
            an OSError.
        Exception: another error of the call, as it is.
    """
    half_s, longest_s = FIRST_WAIT_S / 2, LONGEST_WAIT_S / 2
    retrying = Retrying(
        stop=stop_after_attempt(TRIES), retry=retry_if_exception(is_transient), reraise=True, enabled=not _switched_off,
        wait=wait_exponential(half_s, longest_s) + wait_random_exponential(half_s, longest_s),
        before_sleep=before_sleep_log(_LOGGER, logging.INFO))
    result: Result = retrying(_call, call)
    return result


def _call(call: Callable[[], Result]) -> Result:
    try:
        return call()
    except Exception as error:
        if (plain := as_os_error(error)) is not None:
            raise plain from error
        raise


@contextmanager
def without_retries() -> Iterator[None]:
    """Repeat no call while the context lasts: the store is known to be away, and each call would wait for it again."""
    _switched_off.append(True)
    try:
        yield
    finally:
        _switched_off.pop()


_switched_off: list[bool] = []  # an entry for each context that lasts


def describe_error(error: BaseException, most: int = 500) -> str:
    """An error as a reason in one line without a full stop; at most the first `most` characters."""
    if isinstance(error, OSError) and error.strerror:
        text = error.strerror + (f": {error.filename}" if error.filename else "")
    else:
        text = str(error) if not isinstance(error, KeyError) else f"there is no {error}"
    text = text if text.strip() else _SENTENCES.get(type(error).__name__, type(error).__name__)
    return " ".join(text.split())[:most].rstrip(".")
