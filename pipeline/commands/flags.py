"""The flags that several verbs share, each written once; and what the verbs make of them.

In: values of flags, and the config of the newest run over an output. Out: how samples are read, and where the truth is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from cyclopts import Group, Parameter

from pipeline.config import Config, Count, Format, check_values
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.inputs.read import Inputs
    from pipeline.truth.sources import Examples

Fields = TypeVar("Fields")
Flat = Annotated[Fields, Parameter(name="*")]  # a dataclass: each field is a flag of its own

Input = Annotated[str, Parameter(help="The shards, as given to label-images run.")]
OptionalInput = Annotated[str | None, Parameter(help="The shards, as given to label-images run.")]
Output = Annotated[str, Parameter(help="The tables, as given to label-images run.")]
Model = Annotated[str | None, Parameter(help="The model_id of the model whose tables are read, if there are several.")]
Truth = Annotated[
    str | None,
    Parameter(
        help="Where the classes of the images are: FILE.csv (columns shard and key, or file_name, path and the like; "
        "and label_id, wnid or label), folder (the name of the folder that an image is in), member:SUFFIX (of a tar, "
        "beside the image: member:cls) or column:NAME (of a Parquet file). Default: what --input seems to have."
    ),
]


@dataclass(frozen=True, kw_only=True)
class InputFlags:
    """How samples are read: the flags of these names of label-images run. None: not given."""

    format: Format | None = None
    image_member: str | None = None
    image_column: str | None = None
    key_column: str | None = None
    max_image_bytes: Count | None = None

    def __post_init__(self) -> None:
        check_values(type(self), vars(self))


NO_INPUT_FLAGS = InputFlags()
_READING = "How samples are read"
AsTheRun = Annotated[
    InputFlags,
    Parameter(
        name="*",
        group=Group(
            _READING,
            help="As given to label-images run. Default: as the newest run over --output had them.",
            sort_key=3,
        ),
    ),
]
AsRunHasThem = Annotated[
    InputFlags,
    Parameter(
        name="*", group=Group(_READING, help="As label-images run has them, with the same defaults.", sort_key=3)
    ),
]


def choose_inputs(flags: InputFlags, settings: dict[str, Any]) -> tuple[Inputs, Format]:
    """How samples are read, and the format of the input. A flag that is not given is taken from `settings`, the fields
    of a config."""
    from pipeline.inputs.read import Inputs

    def choose(name: str) -> Any:
        value = getattr(flags, name)
        return value if value is not None else settings.get(name, getattr(Config, name))

    return Inputs(
        choose("image_column"),
        choose("key_column"),
        choose("max_image_bytes"),
        None,
        image_member=choose("image_member"),
    ), choose("format")


def find_truth(output: str, model: str | None, input: str | None, truth: str | None, flags: InputFlags) -> Examples:
    """Where the truth of the images of an output is.

    Raises:
        UserError: neither `truth` nor `input` is given, `truth` is no place for a truth, or no truth is found in the
            input.
    """
    from pipeline.tables.history import read_settings
    from pipeline.truth.sources import Examples, check_where, guess_where

    if truth:
        check_where(truth, input is not None or truth == "folder")
    elif not input:
        raise UserError("--truth and --input are missing: say with one of --truth or --input where the truth is.")
    inputs, format = choose_inputs(flags, read_settings(output, model))
    return Examples(input, truth or guess_where(str(input), inputs, format), inputs, format)
