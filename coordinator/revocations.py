"""Revocation lists at the coordinator: a folder that the operator adds to, whose lists are pushed to every node.

The coordinator does not decide whose lists count, the nodes' policies do; it checks that a list is what it says it is.
"""

from __future__ import annotations

import logging
from pathlib import Path

from policies.errors import UserError
from policies.grant_files import REVOCATIONS_SUFFIX, read_revocations, revocation_paths, write_replacing
from policies.grants import Revocations, issuer_of

log = logging.getLogger(__name__)


class RevocationLists:
    """The newest list of every issuer.

    Args:
        folder: `*.revocations`; made when needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: dict[str, tuple[int, int, int]] = {}
        self._signed: dict[bytes, bytes] = {}
        self._newest: dict[bytes, Revocations] = {}
        self.refresh()

    @property
    def signed(self) -> tuple[bytes, ...]:
        """The newest list of each issuer, as signed."""
        return tuple(self._signed.values())

    def revoked(self, grant_id: str, issuer: bytes) -> bool:
        """Whether a grant is void."""
        listed = self._newest.get(issuer)
        return listed is not None and grant_id in listed.grant_ids

    def add(self, signed: bytes) -> bool:
        """Keep a list in the folder; true if it is newer than the known one of its issuer.

        Raises:
            GrantRefused: It is no list, or not signed by the issuer that it names.
            SettingsRefused: It cannot be written.
        """
        found = Revocations.read(signed, [issuer_of(signed)])
        if not self._is_newer(found):
            return False
        write_replacing(self._folder / f"{found.issuer.hex()}{REVOCATIONS_SUFFIX}", signed)
        self._take(found, signed)
        return True

    def refresh(self) -> list[bytes]:
        """Look at the folder again: the lists that are newer than the known ones. What is none is named in the log."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = []
        for path in revocation_paths(self._folder):
            try:
                status = path.stat()
                stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
                if self._seen.get(path.name) == stamp:
                    continue
                self._seen[path.name] = stamp
                signed, found = read_revocations(path)
            except FileNotFoundError:
                continue
            except UserError as refused:
                log.warning("not a revocation list, and not pushed: %s", refused)
                continue
            if self._is_newer(found):
                self._take(found, signed)
                fresh.append(signed)
        return fresh

    def _is_newer(self, found: Revocations) -> bool:
        known = self._newest.get(found.issuer)
        return known is None or found.version > known.version

    def _take(self, found: Revocations, signed: bytes) -> None:
        self._newest[found.issuer], self._signed[found.issuer] = found, signed
        log.info("revocation list version %d: %d grants are void", found.version, len(found.grant_ids))
