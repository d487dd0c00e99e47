"""The errors that end a job. The message of each is one sentence for the user; `exit_code` is the exit status of the
job.

`report_error` is the one place where such an error becomes a line on stderr and a status. Not here: the request to end
(`stop.Stopped`), and the status of a run that ended by itself (`run.summary.Summary.exit_code`).
"""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self


class JobError(Exception):
    """The job cannot go on, through no mistake of the user: no cluster answers, another run is at work, nothing is
    there.
    """

    exit_code = 1


class UserError(JobError):
    """A mistake that the user can mend. The sentence names the flag or the file."""

    exit_code = 2


def report_error(error: JobError) -> int:
    """Print the sentence of an error on stderr, and return the exit status of the job."""
    print(f"error: {error}", file=sys.stderr)
    return error.exit_code


class CaughtError:
    """A context that ends at the first Exception, of any kind, and keeps it in `error`; None if all went well.

    For places where nobody can list the kinds, since a store, Ray or a thread of our own raises them, and where the
    program goes on. A BaseException, such as `stop.Stopped`, passes.
    """

    def __init__(self) -> None:
        self.error: Exception | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 traceback: TracebackType | None) -> bool:
        if isinstance(error, Exception):
            self.error = error
            return True
        return False
