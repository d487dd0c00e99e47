"""The configuration of one run: what the user may choose, checked at birth, saved with the run.

In: command-line flags, `LABEL_*` variables, a TOML file (in that order of precedence).
Out: one frozen `Config`. Every mistake is a `UserError`: one sentence that names the flag.
Not here: anything that needs the network or a cluster to be checked.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.store.uris import canonical_uri, find_fault, is_same_place, is_within

ENV_PREFIX = "LABEL_"
OUTPUT_FOLDERS = ("labels", "classes", "shards", "runs", "reports", "_staging")  # that the job makes in an output
FORMATS = ("auto", "tar", "parquet", "images", "manifest")  # of an input


def _option(help: str, default: Any = dataclasses.MISSING, **metadata: Any) -> Any:
    """A config field with the help text that `--help` prints; `metavar` and `choices` as in argparse."""
    return field(default=default, metadata={"help": help, **metadata})


@dataclass(frozen=True, kw_only=True)
class Config:
    """What one run of the labelling job does. Fields are the long flags with `_` for `-`.

    `input` and `output` are canonical: a relative path would be another place in a process elsewhere.
    """

    input: str = _option(
        "where the images are: tar shards, Parquet files or loose images, a folder or one file, or a CSV that lists them in a "
        "column uri; local or s3://bucket/prefix; https:// for one file or a manifest; other schemes of fsspec may work, untried",
        metavar="URI")
    output: str = _option(
        "where the tables go: a folder, local or s3://, gs://, abfs://; belongs to one --input", metavar="URI")
    weights: str = _option(
        "'pretrained' (ImageNet-1k, from the Hugging Face hub), a path or URI of a .safetensors, .pth, .pt, .bin or .ckpt file of tensors only, "
        "or 'seed:N' (untrained: for trials, the labels mean nothing)", "pretrained", metavar="WEIGHTS")
    classes: str | None = _option(
        "CSV of label_id,wnid,label for weights of other classes (default: ImageNet-1k)", None, metavar="FILE.csv")
    format: str = _option("what the input is made of; auto takes a CSV for a manifest, and of a folder the tars if there "
                          "are any, else Parquet files, else loose images", "auto", choices=FORMATS)
    partition: str | None = _option("only shards below this folder of the input, such as dt=2026-11-24: nothing else is listed "
                                    "(default: all)", None, metavar="FOLDER")
    image_column: str | None = _option("the column of Parquet files with the encoded images, bytes or Hugging Face's struct of "
                                       "bytes and path (default: the only one that fits)", None, metavar="NAME")
    image_member: str | None = _option("where several images of a tar share a key: which is meant, by what follows the key's first "
                                       "dot, such as jpg or rgb.png (default: the first)", None, metavar="SUFFIX")
    key_column: str | None = _option("the column of Parquet files with the images' keys (default: key or __key__, else the "
                                     "struct's path, else the number of the row)", None, metavar="NAME")
    device: str = _option("where the network runs; auto takes GPUs if the cluster has any", "auto",
                          choices=("auto", "cuda", "cpu"))
    runner: str = _option("how a GPU runs the network: fast (captured graphs, fused kernels) proves itself against plain at the "
                          "start of each actor; auto takes plain where that fails, and says so; fast makes it an error", "auto",
                          choices=("auto", "fast", "plain"))
    precision: str = _option("arithmetic of the network; auto takes half precision where the device is fast at it",
                             "auto", choices=("auto", "fp32", "bf16", "fp16"))
    max_rejected: float = _option(
        "exit with 3 if more than this fraction of the images was rejected (everything is committed all the same)",
        0.01, metavar="FRACTION")
    batch_size: int | None = _option("images that the network takes at once (default: 96 on CPU, up to 256 on a GPU, by its size)", None, metavar="N")
    decoders: int | None = _option("decode actors (default: by the CPUs of each node)", None, metavar="N")
    decode_threads: int | None = _option("threads of a decode actor (default: by the CPUs of each node)", None,
                                         metavar="N")
    labellers: int | None = _option("labeller actors (default: one a GPU; one a CPU node without GPUs)", None,
                                    metavar="N")
    max_image_pixels: int = _option("an image of more pixels is rejected as too_large before it is decoded",
                                    100_000_000, metavar="N")
    max_image_bytes: int = _option("an image of more encoded bytes is rejected as too_large before it is read",
                                   64 * 2**20, metavar="N")
    max_shard_images: int = _option("a shard of more images is not labelled but listed as failed: its table is put together "
                                    "in memory, 7 KB an image", 200_000, metavar="N")
    reduced_decode: bool = _option("decode JPEGs of 2,728 pixels and more (shortest side) at 1/4 or 1/8 of their size: faster, "
                                   "and changes the logits by less than half precision does (default: on)", True)
    output_embeddings: str = _option("numbers of the embedding column: float16 is half the size, but Trino, Athena and Spark "
                                     "cannot read it; false leaves the column out", "float32",
                                     choices=("float32", "float16", "false"))
    lease: bool = _option("refuse to run while another run writes to the output (default: on)", True)
    run_name: str | None = _option("a name from the schedule, such as night-2026-11-24; the run id is the time, this and six "
                                   "random digits", None, metavar="NAME")
    keep_reports: int = _option("the newest so many reports are kept, older ones removed", 90, metavar="N")
    dry_run: bool = _option("say what would be labelled and how long it may take, and stop", False)

    def __post_init__(self) -> None:
        for spec in dataclasses.fields(self):
            _check_type(spec.name, spec.type, getattr(self, spec.name))
            choices = spec.metadata.get("choices")
            if choices and getattr(self, spec.name) not in choices:
                raise UserError(f"{flag(spec.name)} is {getattr(self, spec.name)!r}; "
                                f"it takes one of {', '.join(choices)}.")
        for name in ("batch_size", "decoders", "decode_threads", "labellers", "max_image_pixels", "max_image_bytes",
                     "max_shard_images", "keep_reports"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(f"{flag(name)} is {getattr(self, name)}; it must be at least 1.")
        if not 0 <= self.max_rejected <= 1:
            raise UserError(f"--max-rejected is {self.max_rejected}; it is a fraction from 0 to 1.")
        if self.partition is not None and not {"", ".", ".."}.isdisjoint(self.partition.rstrip("/").split("/")):
            raise UserError(f"--partition is {self.partition!r}; it is a folder relative to --input, such as dt=2026-11-24.")
        if self.run_name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._=-]{0,63}", self.run_name):
            raise UserError(f"--run-name is {self.run_name!r}; it takes up to 64 letters, digits and any of . _ = -")
        for name in ("input", "output", "weights", "classes"):
            check_uri(name, getattr(self, name))
        for name in ("input", "output"):
            object.__setattr__(self, name, canonical_uri(getattr(self, name)))
        if self.input.startswith("memory://"):
            raise UserError(f"--input {self.input} is in the memory of this process, and others read the images; name another place.")
        if is_same_place(self.input, self.output):
            raise UserError("--input and --output name the same place; the tables need a folder of their own.")
        if own := next((folder for folder in OUTPUT_FOLDERS if is_within(self.input + "/", f"{self.output}/{folder}")), None):
            raise UserError(f"--input {self.input} is in the folder {own} of --output {self.output}, which is for the job's own "
                            "tables; name another --output.")


def flag(name: str) -> str:
    """The long flag of a config field: `max_rejected` -> `--max-rejected`."""
    return "--" + name.replace("_", "-")


def parse_config(argv: Sequence[str], environ: Mapping[str, str], description: str) -> Config:
    """The config that flags, then `LABEL_*` variables, then `--config FILE.toml`, then defaults give.

    Raises:
        UserError: an unknown field, a value of the wrong type or out of range, an unreadable file.
        SystemExit: from argparse, with 2 for an unknown flag and 0 after `--help`.
    """
    flags = vars(_parser(description).parse_args(argv))
    path = flags.pop("config") or environ.get(ENV_PREFIX + "CONFIG")
    values = _from_file(path) if path else {}
    values |= _from_environ(environ)
    values |= {name: value for name, value in flags.items() if value is not None}
    for required in ("input", "output"):
        if required not in values:
            raise UserError(f"{flag(required)} is missing: give the flag, {ENV_PREFIX}{required.upper()}, "
                            "or the field in --config.")
    return Config(**values)


def _parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
        epilog="Each option can also be set by a variable (--max-rejected: LABEL_MAX_REJECTED) or in the file of\n"
               "--config (max_rejected = 0.02); flags win over variables, variables over the file.\n\n"
               "Exit status: 0 done or nothing to do, 1 something failed, 2 wrong usage or configuration,\n"
               "3 more images rejected than --max-rejected allows (all tables are committed all the same),\n"
               "4 another run writes to the output, 5 nothing is under --partition (nothing is written then).")
    parser.add_argument("--config", metavar="FILE.toml", help="read options from this file")
    for spec in dataclasses.fields(Config):
        default = "" if spec.default in (None, False, True, dataclasses.MISSING) else f" (default: {spec.default})"
        text = (spec.metadata["help"] + default).replace("%", "%%")
        if spec.type == "bool":
            parser.add_argument(flag(spec.name), action=argparse.BooleanOptionalAction, default=None, help=text)
        else:
            parser.add_argument(flag(spec.name), type=_CONVERT[str(spec.type).split(" | ")[0]], default=None,
                                help=text, metavar=spec.metadata.get("metavar"),
                                choices=spec.metadata.get("choices"))
    return parser


_CONVERT: dict[str, Any] = {"str": str, "int": int, "float": float}


def _from_environ(environ: Mapping[str, str]) -> dict[str, Any]:
    """What the variables say. Raises UserError for a value that does not fit, and for a name that seems misspelt."""
    known = [ENV_PREFIX + name.upper() for name in ("config", *(spec.name for spec in dataclasses.fields(Config)))]
    for variable in environ:
        if not variable.startswith(ENV_PREFIX) or variable in known or _SERVICE_LINK.search(variable):
            continue
        if near := _nearest(variable.removeprefix(ENV_PREFIX), [name.removeprefix(ENV_PREFIX) for name in known]):
            raise UserError(f"{variable} is no variable of this job; write {ENV_PREFIX}{near}, or unset it.")
    values: dict[str, Any] = {}
    for spec in dataclasses.fields(Config):
        variable = ENV_PREFIX + spec.name.upper()
        text = environ.get(variable)
        if text is None:
            continue
        try:
            values[spec.name] = _BOOLS[text.lower()] if spec.type == "bool" else \
                _CONVERT[str(spec.type).split(" | ")[0]](text)
        except (ValueError, KeyError):
            raise UserError(f"{variable} is {text!r}, which is not of type {spec.type}.") from None
    return values


# Kubernetes gives each pod such variables of the services beside it: LABEL_HEAD_SVC_SERVICE_HOST of label-head-svc.
_SERVICE_LINK = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_\w+)?$|_PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?$")
NEAR = 0.7  # how alike two names are where one is the other misspelt; LABEL_STUDIO_HOST is somebody else's


def _nearest(name: str, known: list[str]) -> str | None:
    """The name of those known that may have been meant."""
    return next(iter(difflib.get_close_matches(name.upper(), known, 1, NEAR)), None)


_BOOLS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False, "": False}


def _from_file(path: str) -> dict[str, Any]:
    try:
        values = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"--config {path} cannot be read: {error.strerror or error}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"--config {path} is not valid TOML: {error}.") from None
    known = {spec.name for spec in dataclasses.fields(Config)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise UserError(f"--config {path} has unknown field {unknown[0]!r}; known are {', '.join(sorted(known))}.")
    return values


_KINDS: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float), "bool": (bool,),
                                       "None": (type(None),)}


def _check_type(name: str, annotation: Any, value: Any) -> None:
    allowed = tuple(kind for part in str(annotation).split(" | ") for kind in _KINDS[part])
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        raise UserError(f"{flag(name)} is {value!r}, which is not of type {annotation}.")


def check_uri(name: str, uri: str | None) -> None:
    """Raise UserError if the URI given for a flag is empty, misspelt so that it would be another place, or holds credentials."""
    fault = find_fault(uri) if uri is not None else None
    if fault:
        raise UserError(f"{flag(name)} {fault}")
