"""Values of flags that stand elsewhere: in `LABEL_*` variables and in the file of `--config`.

In: the flags of a verb, some of which the command line has set. Out: the others are set, first from variables, then
from the file. Each mistake is a `UserError` that names the variable, or the file and its field.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from cyclopts import Argument, ArgumentCollection, Token

from pipeline.errors import UserError

PREFIX = "LABEL_"
FILE_VARIABLE = PREFIX + "CONFIG"
# Kubernetes gives each pod such variables of the services beside it: LABEL_HEAD_SVC_SERVICE_HOST of label-head-svc.
_SERVICE_LINK = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_\w+)?$|_PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?$")
MIN_LIKENESS = 0.7  # of two names, one of which is the other misspelt; LABEL_STUDIO_HOST is another program's


def field_name(argument: Argument) -> str:
    """The field of a flag: `--max-rejected` -> `max_rejected`."""
    return argument.name.removeprefix("--").replace("-", "_")


def list_flags(arguments: ArgumentCollection) -> list[Argument]:
    """The arguments that are flags: neither the positional ones, nor a dataclass as a whole."""
    return [argument for argument in arguments if argument.name.startswith("--")]


def set_from_variables(arguments: ArgumentCollection, environ: Mapping[str, str], fields: Collection[str]) -> None:
    """Set each flag that is not set and has a variable.

    Args:
        fields: those of all verbs. Their variables are for other verbs, and no misspelt ones of this verb.

    Raises:
        UserError: the name of a variable is close to one of this verb, so that it seems misspelt.
    """
    flags = {field_name(argument).upper(): argument for argument in list_flags(arguments)}
    known = {FILE_VARIABLE, *(PREFIX + name.upper() for name in fields)}
    for variable in sorted(environ):
        if not variable.startswith(PREFIX) or variable in known or _SERVICE_LINK.search(variable):
            continue
        near = difflib.get_close_matches(variable.removeprefix(PREFIX).upper(), [*flags, "CONFIG"], 1, MIN_LIKENESS)
        if near:
            raise UserError(f"{variable} is no variable of this job; write {PREFIX}{near[0]}, or unset it.")
    for name, argument in flags.items():
        text = environ.get(PREFIX + name)
        if text is not None and not argument.tokens:
            texts = ["false"] if argument.hint is bool and not text else argument.env_var_split(text)
            for index, part in enumerate(texts):
                argument.append(Token(keyword=PREFIX + name, value=part, source="variable", index=index))


def set_from_file(arguments: ArgumentCollection, path: str, fields: Collection[str]) -> None:
    """Set each flag that is not set and has a field in a TOML file.

    Args:
        fields: those of all verbs. One file may serve several verbs: a verb passes over the fields of the others.

    Raises:
        UserError: the file cannot be read, or has a field that is none of any verb.
    """
    values = _read_file(path)
    unknown = sorted(values.keys() - fields)
    if unknown:
        names = [field_name(argument) for argument in list_flags(arguments)]
        near = difflib.get_close_matches(unknown[0], names, 1, MIN_LIKENESS)
        raise UserError(
            f"--config {path} has unknown field {unknown[0]!r}; "
            + (f"write {near[0]}." if near else f"known are {', '.join(sorted(names))}.")
        )
    for argument in list_flags(arguments):
        name = field_name(argument)
        if name in values and not argument.tokens:
            argument.append(Token(keyword=f"{name} in --config {path}", implicit_value=values[name], source="file"))


def _read_file(path: str) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--config {path} cannot be read: {error.strerror or error}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"--config {path} is not valid TOML: {error}.") from None
