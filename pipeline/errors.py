"""The errors that end a job. The message of each is one sentence for the user; `exit_code` is the exit status of the job.

`report_error` is the one place where such an error becomes a line on stderr and a status. Not here: the request to end
(`stop.Stopped`), and the status of a run that ended by itself (`run.summary.Summary.exit_code`).
"""

from __future__ import annotations

import sys


class JobError(Exception):
    """The job cannot go on, through no mistake of the user: no cluster answers, another run is at work, nothing is there."""

    exit_code = 1


class UserError(JobError):
    """A mistake that the user can mend. The sentence names the flag or the file."""

    exit_code = 2


def report_error(error: JobError) -> int:
    """Print the sentence of an error on stderr, and return the exit status of the job."""
    print(f"error: {error}", file=sys.stderr)
    return error.exit_code
