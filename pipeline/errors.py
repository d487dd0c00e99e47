"""The errors that end a job in one sentence; each knows the exit status that the job ends with."""

from __future__ import annotations


class UserError(Exception):
    """A mistake the user can mend, told in one sentence that names the flag or file."""

    exit_code = 2
