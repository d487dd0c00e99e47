"""An HTTP status in the exception of any library -> the same failure as an OSError with a number.

s3fs gives such errors itself. gcsfs, aiohttp, the hub's client and Azure's have exceptions of their own, so the rest
of the program would have to know each of them.
"""

from __future__ import annotations

import errno
from http import HTTPStatus

_NUMBERS = {401: errno.EACCES, 403: errno.EACCES, 404: errno.ENOENT, 410: errno.ENOENT, 409: errno.EEXIST,
            412: errno.EEXIST, 408: errno.EBUSY, 425: errno.EBUSY, 429: errno.EBUSY, 500: errno.EREMOTEIO,
            502: errno.EREMOTEIO, 503: errno.EBUSY, 504: errno.ETIMEDOUT}


def find_status(error: BaseException) -> int | None:
    """The HTTP status that a library put into its exception; None if there is none."""
    places = (error, getattr(error, "response", None))
    values = [getattr(place, name, None) for place in places for name in ("status_code", "status", "code")]
    statuses = [int(value) for value in values if isinstance(value, int | str) and str(value).isdecimal()]
    return next((status for status in statuses if 400 <= status < 600), None)


def as_os_error(error: Exception) -> OSError | None:
    """The same failure as an OSError; None if the error has a number already or if its status says nothing.

    Returns:
        PermissionError, FileNotFoundError or FileExistsError for their statuses; an OSError with a number that
        `retry.is_transient` knows where a later call may succeed.
    """
    if isinstance(error, OSError) and (error.errno is not None or type(error).__module__ == "builtins"):
        return None
    status = find_status(error)
    number = _NUMBERS.get(status) if status is not None else None
    if status is None or number is None:
        return None
    words = " ".join(str(error).split())
    return OSError(number, f"{status} {HTTPStatus(status).phrase}" + (f": {words}" if words else ""))
