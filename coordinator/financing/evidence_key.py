"""The key by which one document is found twice: 32 bytes in a file of mode 0600, made at the first start.

It belongs to the database: with another key nothing that is lent against would be found again. Back both up together.
"""

from __future__ import annotations

import re
import secrets
from pathlib import Path

from policies.closed_model import HEX_32_BYTES, read_bounded, shown_path
from policies.errors import SettingsRefused
from policies.key_files import check_private, write_private
from protos.sealed_sum.secret import SecretBytes

FILE_NAME = "evidence.key"


class EvidenceKey(SecretBytes):
    """Keys the fingerprints of documents that are lent against."""


def load_or_create_evidence_key(path: Path) -> EvidenceKey:
    """Read the key, or make one where there is no file.

    Args:
        path: The file; see `FILE_NAME`.

    Raises:
        SettingsRefused: Readable by others, or not 32 bytes in hexadecimal.
    """
    if not path.exists():
        key = EvidenceKey(secrets.token_bytes(EvidenceKey.LENGTH))
        write_private(path, key.raw.hex().encode() + b"\n")
        return key
    check_private(path)
    text = read_bounded(path, SettingsRefused).strip().decode("ascii", errors="replace")
    if not re.fullmatch(HEX_32_BYTES, text):
        raise SettingsRefused(
            f"{shown_path(path)}: expected the evidence key as 64 hexadecimal digits, found something else; restore it"
            " from the backup that belongs to the database."
        )
    return EvidenceKey(bytes.fromhex(text))
