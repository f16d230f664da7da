"""The keys that sign tokens: `signing-<id>.pem` files of mode 0600, newest first by the time in their names.

A new key is published before it signs, and an old one verifies until the last token that it signed has ended: so that
whoever caches the published keys never meets a token of a key it has not seen.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coordinator.identity.clients import LOOK_EVERY_S
from policies.errors import SettingsRefused
from policies.key_files import create_identity_key, load_identity_key, make_private_folder

TOKEN_S: Final = 900
"""How long a token holds."""
PUBLISHED_BEFORE_S: Final = 300
"""A new key signs so long after it was published; the first one at once."""
_NAME: Final = re.compile(r"signing-([0-9]{10,12})\.pem")


@dataclass(frozen=True)
class SigningKeyFile:
    """One key.

    Attributes:
        kid: Its name in tokens: RFC 7638 would do as well; the time it was made says more.
        made_s: Unix seconds.
        private: Signs.
    """

    kid: str
    made_s: int
    private: Ed25519PrivateKey = field(repr=False)

    def jwk(self) -> dict[str, Any]:
        """The public half (RFC 8037)."""
        document: dict[str, Any] = jwt.algorithms.OKPAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
        return {**document, "kid": self.kid, "alg": "EdDSA", "use": "sig"}


class SigningKeys:
    """The folder's keys, read again when one was added or removed.

    Args:
        folder: Of mode 0700.
        now: Unix seconds.
        monotonic: Seconds that only grow.
    """

    def __init__(
        self,
        folder: Path,
        *,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._now = now
        self._monotonic = monotonic
        self._names: tuple[str, ...] = ()
        self._keys: tuple[SigningKeyFile, ...] = ()
        self._look_at = float("-inf")

    def add(self) -> str:
        """Make a new key; it is published at once and signs after `PUBLISHED_BEFORE_S`.

        Returns:
            Its kid.

        Raises:
            SettingsRefused: The folder cannot be written, or a key was made in this very second.
        """
        make_private_folder(self._folder)
        kid = str(int(self._now()))
        create_identity_key(self._folder / f"signing-{kid}.pem")
        self._look_at = float("-inf")
        return kid

    def published(self) -> tuple[SigningKeyFile, ...]:
        """Keys that verify now, newest first.

        Raises:
            SettingsRefused: There is none, or one cannot be read.
        """
        keys, now = self._all(), self._now()
        kept = [keys[0]]
        for newer, key in itertools.pairwise(keys):
            # The older one signed until the newer took over; its last token ends so long after.
            if now < newer.made_s + PUBLISHED_BEFORE_S + TOKEN_S:
                kept.append(key)
        return tuple(kept)

    def signing(self) -> SigningKeyFile:
        """The key that signs now."""
        keys, now = self._all(), self._now()
        return next((key for key in keys if key.made_s + PUBLISHED_BEFORE_S <= now), keys[-1])

    def by_kid(self, kid: object) -> SigningKeyFile | None:
        """A published key by its name."""
        return next((key for key in self.published() if key.kid == kid), None)

    def _all(self) -> tuple[SigningKeyFile, ...]:
        if self._monotonic() >= self._look_at:
            try:
                names = tuple(sorted((p.name for p in self._folder.iterdir() if _NAME.fullmatch(p.name)), reverse=True))
            except OSError:
                names = ()
            if names != self._names:
                self._keys = tuple(self._read(name) for name in names)
                self._names = names
            self._look_at = self._monotonic() + LOOK_EVERY_S
        if not self._keys:
            raise SettingsRefused(
                f"Expected a key that signs tokens in {self._folder}, found none; `tallystick client rotate-key` makes"
                " one."
            )
        return self._keys

    def _read(self, name: str) -> SigningKeyFile:
        found = _NAME.fullmatch(name)
        if found is None:
            raise SettingsRefused(f"Expected a signing key's file name, found {name!r}.")
        return SigningKeyFile(found[1], int(found[1]), load_identity_key(self._folder / name))
