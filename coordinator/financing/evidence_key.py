"""The key by which one document is found twice: a file of mode 0600 with 64 hexadecimal digits.

It belongs to the database: with another key nothing that is lent against would be found again. So it is made once, by
hand, and an absent one stops the start; back both up together.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from policies.key_files import load_secret, write_private
from protos.sealed_sum.secret import SecretBytes


class EvidenceKey(SecretBytes):
    """32 bytes; without them the fingerprints in the database are no dictionary of documents."""


def create_evidence_key(path: Path) -> EvidenceKey:
    """Make a new key and write it to a new file of mode 0600.

    Raises:
        SettingsRefused: There is a file already.
    """
    key = EvidenceKey(secrets.token_bytes(EvidenceKey.LENGTH))
    write_private(path, key.raw.hex().encode() + b"\n")
    return key


def load_evidence_key(path: Path) -> EvidenceKey:
    """Read a key.

    Raises:
        SettingsRefused: Absent, readable by others, or not 32 bytes in hexadecimal.
    """
    return EvidenceKey(load_secret(path, "a key of evidence", "`tallystick api init` makes one"))
