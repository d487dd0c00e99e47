"""Final errors: errors of a training worker that would happen again. They end the training at once, without new tries.

In: an error of a worker. Out: a `FinalError`, which the worker raises; `EndAtFinalError`, with which Ray Train's
controller ends the training.
Other errors may not happen again: a process was killed, a node is gone, the store is away. Ray Train tries again then.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
from ray.exceptions import RayTaskError, UserCodeException
from ray.train import UserCallback

from pipeline.errors import UserError
from pipeline.formats.samples import ShardUnreadable
from pipeline.store.retry import Replaced, describe_error, is_transient

# Errors of our checks and of Python. RuntimeError is not one of them: torch raises it if another worker is gone.
FINAL_KINDS = (UserError, ShardUnreadable, Replaced, ValueError, TypeError, LookupError, ArithmeticError,
               AttributeError, AssertionError, torch.OutOfMemoryError)
# The same kinds in a traceback of Ray Data: of an error in a reader only its text reaches the worker.
FINAL_LINE = re.compile(r"^(?:[\w.]+\.)?(?:UserError|ShardUnreadable|Replaced|ValueError|TypeError|KeyError|IndexError"
                        r"|FileNotFoundError|PermissionError): (.+)$", re.MULTILINE)


class FinalError(Exception):
    """The same error would happen again. The message says why, without a full stop."""


def is_final(error: BaseException) -> bool:
    """Whether an error would happen again, by its kind and by the errors that caused it."""
    errors = list(_iterate_causes(error))
    if any(isinstance(cause, UserCodeException) for cause in errors):
        return FINAL_LINE.search(str(error)) is not None
    if any(isinstance(cause, Exception) and is_transient(cause) for cause in errors):
        return False
    return any(isinstance(cause, (FinalError, *FINAL_KINDS)) or (isinstance(cause, OSError) and cause.errno is not None)
               for cause in errors)


def to_final_error(error: Exception) -> FinalError:
    """A final error as a `FinalError` with its reason: the causes of an error do not reach the controller."""
    if reader_line := FINAL_LINE.search(str(error)) if isinstance(error, RayTaskError) else None:
        return FinalError(reader_line[1].rstrip("."))
    cause = next((cause for cause in _iterate_causes(error) if isinstance(cause, FINAL_KINDS)), error)
    advice = "; take a smaller --batch-size" if isinstance(cause, torch.OutOfMemoryError) else ""
    return FinalError(describe_error(cause) + advice)


def _iterate_causes(error: BaseException) -> Iterator[BaseException]:
    """An error, then the error that caused it, and so on."""
    current: BaseException | None = error
    while current is not None:
        yield current
        wrapped = getattr(current, "cause", None)  # of Ray's RayTaskError
        current = wrapped if isinstance(wrapped, BaseException) else current.__cause__


class EndAtFinalError(UserCallback):
    """Ends a training at a final error: after an error of a callback Ray Train's controller does not try again."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for error in worker_exceptions.values():
            if isinstance(error, FinalError):
                raise error
