"""What fails in a training worker and would fail again: it is told at once, and not tried three times more.

In: an error of a worker. Out: `Final`, by which the worker marks it, and `Ending`, by which Ray Train's controller ends the run.
A process that was killed, a node that is gone and a store that is away may be others the next time: these Ray Train tries again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import torch
from ray.exceptions import RayTaskError, UserCodeException
from ray.train import UserCallback

from pipeline.errors import UserError
from pipeline.formats.tar import ShardUnreadable
from pipeline.store.retry import Replaced, describe_error, is_transient

# Of our checks and of Python. A RuntimeError is not among them: so torch says that another worker is gone.
KINDS = (UserError, ShardUnreadable, Replaced, ValueError, TypeError, LookupError, ArithmeticError, AttributeError, AssertionError,
         torch.OutOfMemoryError)
# As a traceback of Ray Data names them: of what a reader raised, no more than the text comes along.
NAMED = re.compile(r"^(?:[\w.]+\.)?(?:UserError|ShardUnreadable|Replaced|ValueError|TypeError|KeyError|IndexError|FileNotFoundError|PermissionError): "
                   r"(.+)$", re.MULTILINE)


class Final(Exception):
    """The same would fail again. The message says why, without a full stop."""


def is_final(error: BaseException) -> bool:
    """Whether the same would fail again, by the error and what it was raised from."""
    errors = list(_causes(error))
    if any(isinstance(one, UserCodeException) for one in errors):
        return NAMED.search(str(error)) is not None
    if any(isinstance(one, Exception) and is_transient(one) for one in errors):
        return False
    return any(isinstance(one, (Final, *KINDS)) or (isinstance(one, OSError) and one.errno is not None) for one in errors)


def mark_final(error: Exception) -> Final:
    """A final error as one that its reader knows: what an error was raised from does not come along from a worker."""
    if by_reader := NAMED.search(str(error)) if isinstance(error, RayTaskError) else None:
        return Final(by_reader[1].rstrip("."))
    said = next((one for one in _causes(error) if isinstance(one, KINDS)), error)
    return Final(describe_error(said) + ("; take a smaller --batch-size" if isinstance(said, torch.OutOfMemoryError) else ""))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, what Ray wraps in it, and what it was raised from."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        wrapped = getattr(seen, "cause", None)  # of Ray's RayTaskError
        seen = wrapped if isinstance(wrapped, BaseException) else seen.__cause__


class Ending(UserCallback):
    """Ends a training at a final error: what a callback raises, Ray Train's controller does not try again."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        for error in worker_exceptions.values():
            if isinstance(error, Final):
                raise error
