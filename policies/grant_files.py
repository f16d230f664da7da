"""Grants and revocation lists as files: `*.grant`, and `*.revocations`, of whose versions the highest counts."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from policies.closed_model import read_bounded, shown_path
from policies.errors import SettingsRefused
from policies.grants import Grant, GrantRefused, Revocations, issuer_of
from protos.masked_sum.request import MAX_GRANT_BYTES

GRANT_SUFFIX = ".grant"
REVOCATIONS_SUFFIX = ".revocations"
MAX_REVOCATIONS_BYTES = 8 << 20
"""About 200,000 grants."""


def read_grant(path: Path, issuers: Collection[bytes] | None = None) -> Grant:
    """Read a grant and check its signature.

    Args:
        path: The file.
        issuers: Whose grants count; None takes the one that the file itself names.

    Raises:
        GrantRefused: It is no grant, or not signed by one of `issuers`.
        SettingsRefused: The file cannot be read.
    """
    signed = read_bounded(path, SettingsRefused, MAX_GRANT_BYTES)
    try:
        return Grant.read(signed, [issuer_of(signed)] if issuers is None else issuers)
    except GrantRefused as refused:
        raise _in_file(path, refused) from refused


def read_revocations(path: Path, issuers: Collection[bytes] | None = None) -> tuple[bytes, Revocations]:
    """Read a revocation list, as signed and as understood, and check its signature; see `read_grant`.

    Raises:
        GrantRefused: It is no list, or not signed by one of `issuers`.
        SettingsRefused: The file cannot be read.
    """
    signed = read_bounded(path, SettingsRefused, MAX_REVOCATIONS_BYTES)
    try:
        return signed, Revocations.read(signed, [issuer_of(signed)] if issuers is None else issuers)
    except GrantRefused as refused:
        raise _in_file(path, refused) from refused


def grant_paths(folder: Path) -> Iterator[Path]:
    """The grants of a folder, by name.

    Raises:
        SettingsRefused: There is no such folder.
    """
    return _of_folder(folder, GRANT_SUFFIX, "grants")


def revocation_paths(folder: Path) -> Iterator[Path]:
    """The revocation lists of a folder, by name.

    Raises:
        SettingsRefused: There is no such folder.
    """
    return _of_folder(folder, REVOCATIONS_SUFFIX, "revocation lists")


def write_replacing(path: Path, content: bytes) -> None:
    """Write a file of mode 0600 beside its place and move it there, on the disk when this returns.

    Raises:
        SettingsRefused: It cannot be written.
    """
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            Path(name).replace(path)
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as problem:
        raise SettingsRefused(
            f"{shown_path(path)}: cannot be written ({problem.strerror}); check the folder and its permissions."
        ) from None


def _of_folder(folder: Path, suffix: str, what: str) -> Iterator[Path]:
    if not folder.is_dir():
        raise SettingsRefused(
            f"{shown_path(folder)}: expected a folder of {what} (`*{suffix}`), found none; make it, even if it stays"
            " empty, or correct the path."
        )
    return iter(sorted(folder.glob(f"*{suffix}")))


def _in_file(path: Path, refused: GrantRefused) -> GrantRefused:
    return GrantRefused(refused.code, f"{shown_path(path)}: {refused}.")
