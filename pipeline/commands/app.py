"""The command `label-images`: a verb for each job, its flags, and the exit status.

In: a command line, `LABEL_*` variables, the file of `--config`. Out: one call of a verb; a mistake is one sentence on
stderr. Not here: what the verbs do (a file each), and their own flags (in the signatures of their functions).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from inspect import BoundArguments
from typing import Annotated, NamedTuple

from cyclopts import App, ArgumentCollection, CycloptsError, Group, Parameter

from pipeline.commands.bench import bench
from pipeline.commands.embeddings.duplicates import duplicates
from pipeline.commands.embeddings.index import index
from pipeline.commands.embeddings.relabel import relabel
from pipeline.commands.evaluate import evaluate
from pipeline.commands.finetune import finetune
from pipeline.commands.pack import pack
from pipeline.commands.parsing.mistakes import describe_mistake
from pipeline.commands.parsing.values import FILE_VARIABLE, field_name, list_flags, set_from_file, set_from_variables
from pipeline.commands.prune import prune
from pipeline.commands.query import describe_queries, query
from pipeline.commands.run import run
from pipeline.commands.train import train
from pipeline.commands.verify import verify
from pipeline.config import FieldError, check_values
from pipeline.errors import JobError, UserError, report_error

VERBS: tuple[Callable[..., int], ...] = (run, verify, query, pack, prune, relabel, duplicates, index, evaluate,
                                         finetune, train, bench)
HELP = """Label images with Inception-v4: shards of images in, Parquet tables of top-5 labels and embeddings out.

label-images VERB --help explains the flags of a verb."""
EPILOGUE = """Each flag can also be set by a variable (--max-rejected: LABEL_MAX_REJECTED) or in the file of --config
(max_rejected = 0.02). Flags win over variables, variables over the file.
A variable or a field of another verb is passed over."""


class Call(NamedTuple):
    """What a command line asks for: a verb, and its arguments.

    `keywords`: for each field that the command line has not set, the variable or the field of the file that has set it.
    """

    verb: Callable[..., int]
    arguments: BoundArguments
    keywords: Mapping[str, str]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; returns its exit status. None: the command line of this process."""
    try:
        call = parse_command(sys.argv[1:] if argv is None else argv, os.environ)
        if call is None:
            return 0
        with _naming_places(call.keywords):
            return call.verb(*call.arguments.args, **call.arguments.kwargs) or 0
    except JobError as error:
        return report_error(error)


def parse_command(argv: Sequence[str], environ: Mapping[str, str]) -> Call | None:
    """What a command line asks for; None where that was help or the version, which are printed.

    Raises:
        UserError: a mistake in the command line, a variable or the file.
    """
    keywords: dict[str, str] = {}
    app = create_app(environ, keywords)
    with _naming_places(keywords):
        try:
            call: Call | None = app.meta(argv, exit_on_error=False, print_error=False, result_action="return_value")
        except CycloptsError as error:
            raise UserError(describe_mistake(error, [verb.__name__ for verb in VERBS])) from None
        if call is not None:
            check_values(call.verb, call.arguments.kwargs)
    return call


@contextmanager
def _naming_places(keywords: Mapping[str, str]) -> Iterator[None]:
    """Let an error name the variable, or the field of the file, where the user wrote no flag."""
    try:
        yield
    except FieldError as error:
        if error.name not in keywords:
            raise
        raise UserError(f"{keywords[error.name]} {error.fault}") from None


def create_app(environ: Mapping[str, str], keywords: dict[str, str]) -> App:
    """The verbs and their flags. `keywords` gets, for each field that a variable or the file has set, the name that
    the user wrote."""
    app = App(
        name="label-images",
        help=HELP,
        version=_find_version,
        help_format="markdown",
        help_epilogue=EPILOGUE,
        default_parameter=Parameter(allow_repeating=True, show_env_var=False, negative_iterable=()),
    )
    for order, verb in enumerate(VERBS):
        queries = f"Questions by name:\n\n{describe_queries()}\n\n" if verb is query else ""
        app.command(verb, sort_key=order, help_epilogue=queries + EPILOGUE)
    app.register_install_completion_command()
    app.meta.group_parameters = Group("Settings", sort_key=9)

    @app.meta.default
    def parse(
        *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
        config: Annotated[str | None, Parameter(help="Read flags from this TOML file.")] = None,
    ) -> Call:
        path = config or environ.get(FILE_VARIABLE)

        def set_values(app_of_verb: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
            fields = _list_fields(app)
            set_from_variables(arguments, environ, fields)
            if path:
                set_from_file(arguments, path, fields)
            keywords.update(
                {
                    field_name(argument): str(argument.tokens[0].keyword)
                    for argument in list_flags(arguments)
                    if argument.tokens and argument.tokens[0].source != "cli"
                }
            )

        app.config = (set_values,)
        verb, arguments, _ = app.parse_args(tokens, exit_on_error=False, print_error=False)
        return Call(verb, arguments, keywords)

    return app


def _list_fields(app: App) -> set[str]:
    """The fields of all verbs."""
    return {
        field_name(argument)
        for verb in VERBS
        for argument in list_flags(app[verb.__name__].assemble_argument_collection())
    }


def _find_version() -> str:
    try:
        return version("label-pipeline")
    except PackageNotFoundError:
        return "not installed: this is a clone"
