"""The key of entity tokens: members and the issuer of grants share it, the platform never gets it.

With it the platform's own list of customers would be a dictionary for the tokens. A file of mode 0600 holds it as
64 hexadecimal digits; it travels between members outside this system, as their other secrets do.
"""

from __future__ import annotations

import hmac
import secrets
from pathlib import Path

from policies.key_files import load_secret, write_private
from protos.sealed_sum.secret import SecretBytes

_HINT = "`tallystick grant new-key` makes one, and the members take over its file as it is"


class TokenKey(SecretBytes):
    """32 bytes; keys the tokens of entities and of documents, and who answers for an entity."""

    @property
    def check_value(self) -> str:
        """Eight digits by which two people see on the telephone that they hold the same key; they give nothing away."""
        return hmac.digest(self.raw, b"tallystick/token-key/check", "sha256").hex()[:8]


def create_token_key(path: Path) -> TokenKey:
    """Make a new key and write it to a new file of mode 0600.

    Raises:
        SettingsRefused: There is a file already.
    """
    key = TokenKey(secrets.token_bytes(TokenKey.LENGTH))
    write_private(path, key.raw.hex().encode() + b"\n")
    return key


def load_token_key(path: Path) -> TokenKey:
    """Read a key.

    Raises:
        SettingsRefused: Absent, readable by others, or not 32 bytes in hexadecimal.
    """
    return TokenKey(load_secret(path, "the members' token key", _HINT))
