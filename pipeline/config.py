"""The configuration of one run: what a user may choose, checked when it is created, saved with the run.

In: values of the right types. Out: one frozen `Config`. Each mistake is a `UserError`: one sentence that names the
flag. Not here: how flags, variables and files are read (`commands`), and checks that need the network or a cluster.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, get_type_hints

from annotated_types import Ge, Interval
from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from pipeline.errors import UserError
from pipeline.parse import parse_keep, parse_price
from pipeline.store.uris import canonical_uri, find_fault, is_same_place, is_within

# That the jobs make in an output.
OUTPUT_FOLDERS = ("labels", "classes", "shards", "runs", "reports", "near_duplicates", "index", "_staging",
                  "delta", "iceberg", "proofs")

Format = Literal["auto", "tar", "parquet", "images", "manifest"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Count = Annotated[int, Ge(1)]


@dataclass(frozen=True, kw_only=True)
class Config:
    """What one run of the labelling job does. The long flags are the names of the fields, with `-` for `_`.

    `input` and `output` are canonical: a relative path would be another place in a process elsewhere.

    Raises:
        UserError: a value of the wrong type or out of bounds, or two values that do not fit each other.
    """

    input: str
    """Where the images are: tar shards, Parquet files or loose images, a folder or one file, or a CSV that lists the
    images or the shards in a column uri, or a .txt with one URI a line, or a pattern such as s3://b/{000..127}.tar.
    Local, s3://, gs://, abfs://, hf://datasets/…, https:// (no folders); other schemes of fsspec may work, untried."""
    output: str
    """Where the tables go: a folder, local or s3://, gs://, abfs://. An output belongs to one --input."""
    weights: str = "pretrained"
    """'pretrained' (ImageNet-1k, from the Hugging Face hub), a path or URI of a .safetensors, .pth, .pt, .bin or .ckpt
    file of tensors only, or 'seed:N' (untrained: for trials, the labels mean nothing)."""
    classes: str | None = None
    """CSV of label_id,wnid,label for weights of other classes (default: ImageNet-1k)."""
    format: Format = "auto"
    """What the input is made of. auto takes a CSV for a manifest, and of a folder the tars if there are any, else
    Parquet files, else loose images."""
    partition: str | None = None
    """Only shards below this folder of the input, such as dt=2026-11-24. Nothing else is listed (default: all)."""
    limit_shards: Count | None = None
    """Only so many shards, the same ones each time: those whose paths have the smallest SHA-256. A later run without
    this flag labels the others (default: all)."""
    image_column: str | None = None
    """The column of Parquet files with the encoded images: bytes, or Hugging Face's struct of bytes and path
    (default: the only one that fits)."""
    image_member: str | None = None
    """Which image of a tar is meant where several share a key: what follows the key's first dot, such as jpg or rgb.png
    (default: the first)."""
    keep: str | None = None
    """What goes along from the input to the tables, such as caption,year:int,text=txt. A name is a column of a Parquet
    file or of a manifest, or of a tar the suffix of a member beside the image or a name in its JSON (default:
    nothing)."""
    key_column: str | None = None
    """The column of Parquet files with the images' keys (default: key or `__key__`, else the struct's path, else the
    number of the row)."""
    device: Literal["auto", "cuda", "cpu"] = "auto"
    """Where the network runs. auto takes GPUs if the cluster has any."""
    runner: Literal["auto", "fast", "plain"] = "auto"
    """How a device runs the network. fast (on a GPU captured graphs and fused kernels, on a CPU OpenVINO, if it is
    installed) proves itself against plain at the start of each actor. Where that fails, auto takes plain and says so,
    and fast makes it an error. On a CPU auto takes the faster one."""
    precision: Precision = "auto"
    """Arithmetic of the network. auto takes half precision where the device is fast at it."""
    max_rejected: Annotated[float, Interval(ge=0, le=1)] = 0.01
    """Exit with 3 if more than this fraction of the images was rejected, in all runs of this --run-name together.
    Everything is committed all the same."""
    batch_size: Count | None = None
    """Images that the network takes at once (default: 96 on CPU, up to 256 on a GPU, by its size)."""
    decoders: Count | None = None
    """Decode actors (default: by the CPUs of each node)."""
    decode_threads: Count | None = None
    """Threads of a decode actor (default: by the CPUs of each node)."""
    labellers: Count | None = None
    """Labeller actors (default: one a GPU; one a CPU node without GPUs)."""
    max_image_pixels: Count = 100_000_000
    """An image of more pixels is rejected as too_large before it is decoded."""
    max_image_bytes: Count = 64 * 2**20
    """An image of more encoded bytes is rejected as too_large before it is read."""
    max_shard_images: Count = 200_000
    """A shard of more images is not labelled but listed as failed: its table is put together in memory, 7 KB an
    image."""
    reduced_decode: bool = True
    """Decode JPEGs of 2,728 pixels and more (shortest side) at 1/4 or 1/8 of their size. This is faster, and changes
    the logits by less than half precision does."""
    table: Literal["parquet", "delta", "iceberg"] = "parquet"
    """What the tables are, for all runs of an output. parquet: one file a shard, right for any reader of a glob. delta
    and iceberg: a table with a log, in which a run is one version; needs the extra of that name."""
    output_embeddings: Literal["float32", "float16", "false"] = "float32"
    """Numbers of the embedding column. float16 is half the size, but Trino, Athena and Spark cannot read it. false
    leaves the column out."""
    lease: bool = True
    """Refuse to run while another run writes to the output."""
    run_name: str | None = None
    """A name from the schedule, such as night-2026-11-24. The run id is the time, this name and six random digits."""
    price: str | None = None
    """What an hour of the cluster costs, such as 'gpu=0.98,cpu=0.04', in any currency: the summary, the report and the
    table runs then say what the run and a million images cost."""
    keep_reports: Count = 90
    """The newest so many reports are kept, older ones removed."""
    dry_run: bool = False
    """Say what would be labelled and how long it may take, and stop."""

    def __post_init__(self) -> None:
        check_values(type(self), vars(self))
        if self.partition is not None and not {"", ".", ".."}.isdisjoint(self.partition.rstrip("/").split("/")):
            raise FieldError(
                "partition", f"is {self.partition!r}; it is a folder relative to --input, such as dt=2026-11-24."
            )
        if self.run_name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._=-]{0,63}", self.run_name):
            raise FieldError("run_name", f"is {self.run_name!r}; it takes up to 64 letters, digits and any of . _ = -")
        for name, parse in (("price", parse_price), ("keep", parse_keep)):
            try:
                parse(getattr(self, name))
            except ValueError as error:
                raise FieldError(name, str(error)) from None
        if self.table != "parquet" and self.output_embeddings == "float16":
            raise FieldError("output_embeddings", f"float16 has no type in --table {self.table}; "
                             "it takes one of float32, false.")
        for name in ("input", "output", "weights", "classes"):
            check_uri(name, getattr(self, name))
        for name in ("input", "output"):
            object.__setattr__(self, name, canonical_uri(getattr(self, name)))
        if self.input.startswith("memory://"):
            raise FieldError(
                "input",
                f"{self.input} is in the memory of this process, and others read the images; name another place.",
            )
        if is_same_place(self.input, self.output):
            raise UserError("--input and --output name the same place; the tables need a folder of their own.")
        for folder in OUTPUT_FOLDERS:
            if is_within(self.input + "/", f"{self.output}/{folder}"):
                raise FieldError(
                    "input",
                    f"{self.input} is in the folder {folder} of --output {self.output}, which is for the job's own "
                    "tables; name another --output.",
                )


class FieldError(UserError):
    """A value that one field does not take. As text, the field is named by its flag.

    `name`: the field. `fault`: the rest of the sentence, which begins behind the name.
    """

    def __init__(self, name: str, fault: str) -> None:
        super().__init__(name, fault)
        self.name, self.fault = name, fault

    def __str__(self) -> str:
        return f"{flag(self.name)} {self.fault}"


def flag(name: str) -> str:
    """The long flag of a field: `max_rejected` -> `--max-rejected`."""
    return "--" + name.replace("_", "-")


def check_uri(name: str, uri: str | None) -> None:
    """Raise FieldError if the URI given for a field is empty, misspelt so that it would be another place, or holds
    credentials."""
    fault = find_fault(uri) if uri is not None else None
    if fault:
        raise FieldError(name, fault)


def check_values(owner: type | Callable[..., Any], values: Mapping[str, Any]) -> None:
    """Raise FieldError unless the values have the types, choices and bounds that the annotations of a dataclass or
    function ask for."""
    for name, adapter in _adapters(owner).items():
        if name in values:
            try:
                adapter.validate_python(values[name])
            except ValidationError as error:
                raise FieldError(name, f"is {values[name]!r}; {describe_fault(error)}") from None


@cache
def _adapters(owner: type | Callable[..., Any]) -> dict[str, TypeAdapter[Any]]:
    """The check of each field. A field that is a dataclass has none: it checks itself when it is created."""
    adapters = {}
    for name, hint in get_type_hints(owner, include_extras=True).items():
        try:
            adapters[name] = TypeAdapter[Any](hint, config=ConfigDict(strict=True, allow_inf_nan=False))
        except PydanticUserError as error:
            if error.code != "type-adapter-config-unused":
                raise
    return adapters


_FAULTS = {
    "int": "it must be a whole number",
    "float": "it must be a number",
    "bool": "it must be true or false",
    "string": "it must be text",
    "list": "it must be a list",
    "finite": "it must be a finite number",
    "literal": "it takes one of {expected}",
    "greater_than_equal": "it must be at least {ge}",
    "greater_than": "it must be more than {gt}",
    "less_than_equal": "it must be at most {le}",
    "less_than": "it must be less than {lt}",
}


def describe_fault(error: ValidationError) -> str:
    """What the first fault of a value is, as the end of a sentence."""
    fault = error.errors(include_url=False)[0]
    words = _FAULTS.get(fault["type"]) or _FAULTS.get(fault["type"].partition("_")[0], "it does not fit")
    known = {
        name: f"{limit:,}" if isinstance(limit, int) else f"{limit:g}" if isinstance(limit, float) else str(limit)
        for name, limit in fault.get("ctx", {}).items()
    }
    known["expected"] = known.get("expected", "").replace("'", "").replace(" or ", ", ")
    return words.format(**known) + "."
