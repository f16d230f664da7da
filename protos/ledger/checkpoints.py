"""Checkpoints (https://c2sp.org/tlog-checkpoint) and what witnesses add to them (https://c2sp.org/tlog-cosignature).

A checkpoint states the root of a log at one size. The log signs it (Ed25519 over the text); a witness's cosignature
says: as of this second, it is the largest checkpoint of this log that I have seen, and it continues all before it.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from protos.ledger.errors import NoteMalformed, SignatureInvalid
from protos.ledger.merkle import HASH_BYTES, MAX_SIZE
from protos.ledger.notes import COSIGNATURE_V1, ED25519, Note, NoteKey, NoteSignature

_ORIGIN: Final = re.compile(r"[!-*,-~]{1,200}")  # printable ASCII without spaces and plus signs
_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,18}")
_STAMP_BYTES: Final = 8
_SIGNATURE_BYTES: Final = 64


@dataclass(frozen=True)
class Checkpoint:
    """Size and root of one log.

    Raises:
        ValueError: A field is out of its range.
    """

    origin: str
    size: int
    root: bytes

    def __post_init__(self) -> None:
        if not _ORIGIN.fullmatch(self.origin):
            raise ValueError("expected an origin of printable ASCII without spaces and plus signs")
        if not 0 <= self.size <= MAX_SIZE or len(self.root) != HASH_BYTES:
            raise ValueError("expected a size of at most 2**62 and a root of 32 bytes")

    def text(self) -> str:
        """The three lines that are signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Read the signed text. Extension lines are refused: nobody could audit them.

        Raises:
            NoteMalformed: It is no checkpoint, or not written as `text` writes it.
        """
        lines = text.split("\n")
        if len(lines) == 4 and _NUMBER.fullmatch(lines[1]):
            try:
                checkpoint = cls(lines[0], int(lines[1]), base64.b64decode(lines[2], validate=True))
            except (binascii.Error, ValueError):
                checkpoint = None
            if checkpoint is not None and checkpoint.text() == text:
                return checkpoint
        raise NoteMalformed("expected a checkpoint (origin, size, root; three lines), found something else.")


def log_key(origin: str, public_bytes: bytes) -> NoteKey:
    """The key that signs a log's checkpoints; its name is the origin."""
    return NoteKey(origin, ED25519, public_bytes)


def witness_key(origin: str, member: str, public_bytes: bytes) -> NoteKey:
    """The key with which a member co-signs a log's checkpoints."""
    return NoteKey(f"{origin}/{member}", COSIGNATURE_V1, public_bytes)


def sign_checkpoint(checkpoint: Checkpoint, private: Ed25519PrivateKey) -> Note:
    """The log's own signature. The log must not sign what is inconsistent with what it signed before."""
    key = log_key(checkpoint.origin, private.public_key().public_bytes_raw())
    text = checkpoint.text()
    return Note(text, (NoteSignature(key.name, key.key_id, private.sign(text.encode())),))


def open_checkpoint(note: Note, key: NoteKey) -> Checkpoint:
    """The checkpoint of a note that the log has signed.

    Raises:
        NoteMalformed: It is no checkpoint of the log that the key is for.
        SignatureInvalid: The log has not signed it.
    """
    checkpoint = Checkpoint.parse(note.text)
    if checkpoint.origin != key.name:
        raise NoteMalformed(
            f"expected a checkpoint of {key.name}, found one of {checkpoint.origin[:80]}; it is of another log."
        )
    key.verify(note.text.encode(), note.by(key).signature)
    return checkpoint


def _cosigned_message(text: str, timestamp_s: int) -> bytes:
    return f"cosignature/v1\ntime {timestamp_s}\n{text}".encode()


def cosign(text: str, timestamp_s: int, key: NoteKey, private: Ed25519PrivateKey) -> NoteSignature:
    """A witness's line under a checkpoint's text, after it has checked and remembered it.

    Args:
        text: The checkpoint's text, without signatures.
        timestamp_s: Now, in Unix seconds.
        key: The witness's key, with its name.
        private: Its private half.
    """
    signature = private.sign(_cosigned_message(text, timestamp_s))
    return NoteSignature(key.name, key.key_id, timestamp_s.to_bytes(_STAMP_BYTES, "big") + signature)


def verify_cosignature(text: str, line: NoteSignature, key: NoteKey) -> int:
    """Check a witness's line under a checkpoint's text.

    Returns:
        When it signed, in Unix seconds.

    Raises:
        SignatureInvalid: The line is not this witness's, or not over this text.
    """
    if not line.is_by(key) or len(line.signature) != _STAMP_BYTES + _SIGNATURE_BYTES:
        raise SignatureInvalid(f"expected a cosignature of {key.name}, found another signature; ask that witness.")
    timestamp_s = int.from_bytes(line.signature[:_STAMP_BYTES], "big")
    key.verify(_cosigned_message(text, timestamp_s), line.signature[_STAMP_BYTES:])
    return timestamp_s
