"""Packages that only some verbs need, and that `pip install` leaves out unless they are asked for."""

from __future__ import annotations

from importlib.util import find_spec

from pipeline.errors import UserError


def check_installed(verb: str, **extra_of_package: str) -> None:
    """Raise UserError, with the command that installs them, unless all packages are installed. No package is
    imported."""
    missing = [package for package in extra_of_package if find_spec(package) is None]
    if missing:
        extras = ",".join(sorted({extra_of_package[package] for package in missing}))
        raise UserError(
            f"label-images {verb} needs {' and '.join(missing)}: pip install 'label-pipeline[{extras}]', "
            f"or in a clone pip install -c constraints.txt '.[{extras}]'."
        )
