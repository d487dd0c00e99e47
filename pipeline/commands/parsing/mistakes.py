"""What is wrong with a command line, told in one sentence that names the flag, the variable or the field of the file.

In: an error of the command-line library. Out: text.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import cyclopts
import pydantic
from cyclopts import (
    Argument,
    CoercionError,
    CycloptsError,
    MissingArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from pipeline.commands.parsing.values import PREFIX, field_name
from pipeline.config import describe_fault

MIN_LIKENESS = 0.6  # of two flags, one of which is the other misspelt


def describe_mistake(error: CycloptsError, verbs: Iterable[str]) -> str:
    """The sentence for an error. `verbs`: the names that a command line may begin with."""
    match error:
        case CoercionError(argument=Argument() as argument, token=token) if token is not None:
            return f"{token.keyword or argument.name} is {token.value!r}; {_describe_type(argument, token.value)}"
        case cyclopts.ValidationError(argument=Argument() as argument, __cause__=pydantic.ValidationError() as cause):
            return f"{_written_name(argument)} is {cause.errors()[0]['input']!r}; {describe_fault(cause)}"
        case MissingArgumentError(argument=Argument() as argument) if not argument.name.startswith("--"):
            return f"{argument.name} is missing."
        case MissingArgumentError(argument=Argument() as argument):
            name = field_name(argument)
            others = f"{PREFIX}{name.upper()}, or {name} in the file of --config"
            return f"{argument.name} is missing: give the flag with a value, {others}."
        case UnknownOptionError():
            flag = error.token.keyword or error.token.value.partition("=")[0]
            names = [name for argument in error.argument_collection for name in argument.names if name.startswith("--")]
            return f"{flag} is no flag of this command{_suggest(flag, [*names, '--config'])}."
        case UnusedCliTokensError():
            return f"{(error.unused_tokens or [''])[0]!r} is left over: no flag of this command takes it."
        case UnknownCommandError():
            word = (error.unused_tokens or [""])[0]
            return f"{word!r} is no verb of label-images{_suggest(word, verbs) or '; label-images --help lists them'}."
    error.verbose = False
    return " ".join(str(error).split())


def _written_name(argument: Argument) -> str:
    """The flag, the variable or the field that the value stands at."""
    return next((token.keyword for token in argument.tokens if token.keyword), argument.name)


def _describe_type(argument: Argument, text: str) -> str:
    try:
        pydantic.TypeAdapter[object](argument.field_info.annotation).validate_strings(text)
    except pydantic.ValidationError as error:
        return describe_fault(error)
    return "the value cannot be read."


def _suggest(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), 1, MIN_LIKENESS)
    return f"; write {near[0]}" if near else ""
