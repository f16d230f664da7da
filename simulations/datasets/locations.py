"""Where data sets lie: the shared folder beside the project, and the user's cache."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from policies.closed_model import shown_path
from policies.errors import UserError

SHARED_FOLDER_VARIABLE: Final = "TALLYSTICK_DATA"
_PROJECT_ROOT: Final = Path(__file__).resolve().parents[2]


class DataSetUnavailable(UserError):
    """A data set is not here and cannot be fetched; the sentence offers what works instead."""


def shared_folder(environ: Mapping[str, str]) -> Path:
    """The folder of shared data sets: `TALLYSTICK_DATA`, else `../shared/data` from the project's root."""
    given = environ.get(SHARED_FOLDER_VARIABLE)
    return Path(given) if given else _PROJECT_ROOT.parent / "shared" / "data"


def cache_folder(environ: Mapping[str, str]) -> Path:
    """The user's cache: `$XDG_CACHE_HOME/tallystick`, else `~/.cache/tallystick`."""
    given = environ.get("XDG_CACHE_HOME")
    # The base directory specification tells programs to ignore a relative path.
    base = Path(given) if given and Path(given).is_absolute() else _home(environ) / ".cache"
    return base / "tallystick"


def _home(environ: Mapping[str, str]) -> Path:
    home = environ.get("HOME")
    return Path(home) if home else Path.home()


def shared_file(relative_path: str, sha256: str, environ: Mapping[str, str]) -> Path | None:
    """A file of the shared folder, its digest checked.

    Args:
        relative_path: For example `gmsc/gmsc.parquet`.
        sha256: Expected SHA-256, hexadecimal.
        environ: The process environment.

    Returns:
        Its path, or None if there is no such file.

    Raises:
        DataSetUnavailable: A file of that name holds something else, or cannot be read.
    """
    path = shared_folder(environ) / relative_path
    if not path.is_file():
        return None
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as problem:
        raise DataSetUnavailable(
            f"{shown_path(path)}: cannot be read ({problem.strerror}); check its permissions."
        ) from None
    if found != sha256:
        raise DataSetUnavailable(
            f"{shown_path(path)}: expected the published data set, found a file with another SHA-256;"
            f" replace it, or point {SHARED_FOLDER_VARIABLE} elsewhere."
        )
    return path


def required_shared_file(name: str, relative_path: str, sha256: str, environ: Mapping[str, str]) -> Path:
    """As `shared_file`, for data sets that exist nowhere else.

    Raises:
        DataSetUnavailable: As `shared_file`, or there is no such file.
    """
    path = shared_file(relative_path, sha256, environ)
    if path is None:
        raise DataSetUnavailable(
            f"Data set {name!r}: expected {relative_path} in the shared data folder, found none;"
            f" set {SHARED_FOLDER_VARIABLE}, or use data set 'gmsc' or 'synthetic'."
        )
    return path
