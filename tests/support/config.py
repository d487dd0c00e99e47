"""The config that a command line gives."""

from collections.abc import Mapping, Sequence

from pipeline.commands.app import parse_command
from pipeline.config import Config


def parse_config(argv: Sequence[str], environ: Mapping[str, str]) -> Config:
    """The config that flags of `label-images run`, then variables, then the file of `--config`, then defaults give."""
    call = parse_command(["run", *argv], environ)
    assert call is not None, "the flags ask for help, and give no config"
    config: Config = call.arguments.arguments["config"]
    return config
