"""Revocation lists that reached this node, on its disk before it says so: a restart does not bring a grant back."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

from policies.grant_files import REVOCATIONS_SUFFIX, read_revocations, revocation_paths, write_replacing
from policies.grants import Revocations
from policies.key_files import make_private_folder

log = logging.getLogger(__name__)


def revocations_folder(state_dir: Path) -> Path:
    """Where a node keeps the lists that the gateway pushed."""
    return state_dir / "revocations"


def read_folder(folder: Path, issuers: Collection[bytes]) -> dict[bytes, Revocations]:
    """The highest version of every issuer's list in a folder; lists of other issuers speak of grants that do not count.

    Raises:
        GrantRefused: A file is no list of the issuer that it names: it could hide what was revoked.
        SettingsRefused: There is no such folder, or a file cannot be read.
    """
    newest: dict[bytes, Revocations] = {}
    for path in revocation_paths(folder):
        _, found = read_revocations(path)
        if found.issuer in issuers and is_newer(found, newest.get(found.issuer)):
            newest[found.issuer] = found
    return newest


def is_newer(found: Revocations, known: Revocations | None) -> bool:
    """Whether a list replaces the known one; an old list cannot bring a grant back."""
    return known is None or found.version > known.version


class RevocationStore:
    """The newest list of every issuer, in memory and in a folder.

    Args:
        folder: Made when needed, mode 0700; read here.
        issuers: Whose lists count.

    Raises:
        GrantRefused: A file of the folder is no list.
    """

    def __init__(self, folder: Path, issuers: Collection[bytes]) -> None:
        make_private_folder(folder)
        self._folder = folder
        self._issuers = issuers
        self._newest = read_folder(folder, issuers)

    def take(self, signed: bytes) -> Revocations:
        """Take up a list, unless it is older than the known one; on the disk when this returns.

        Returns:
            The list that counts now.

        Raises:
            GrantRefused: It is not signed by an issuer of this node's policy.
            SettingsRefused: It cannot be written; then it does not count, and must not be acknowledged.
        """
        found = Revocations.read(signed, self._issuers)
        known = self._newest.get(found.issuer)
        if known is not None and not is_newer(found, known):
            return known
        write_replacing(self._folder / f"{found.issuer.hex()}{REVOCATIONS_SUFFIX}", signed)
        self._newest[found.issuer] = found
        log.info("revocation list version %d: %d grants are void", found.version, len(found.grant_ids))
        return found

    def revoked(self, grant_id: str, issuer: bytes) -> bool:
        """Whether a grant is void."""
        listed = self._newest.get(issuer)
        return listed is not None and grant_id in listed.grant_ids
