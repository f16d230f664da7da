"""Signed notes, as https://c2sp.org/signed-note has them: a text, a blank line, signature lines.

`key id = SHA-256(name || 0x0A || type || public key)[:4]`: a name and a type make one key several, so a signature of
one kind is never taken for another's.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from protos.ledger.errors import NoteMalformed, SignatureInvalid

ED25519: Final = 0x01
COSIGNATURE_V1: Final = 0x04
MAX_NOTE_BYTES: Final = 1 << 20
MAX_SIGNATURES: Final = 1100
_DASH: Final = "\N{EM DASH} "


@dataclass(frozen=True)
class NoteKey:
    """A public key that signs notes under a name.

    Raises:
        ValueError: The name is empty, or has a space or a plus sign; the key has not 32 bytes.
    """

    name: str
    kind: Literal[0x01, 0x04]
    public_bytes: bytes

    def __post_init__(self) -> None:
        if not self.name or "+" in self.name or any(c.isspace() or not c.isprintable() for c in self.name):
            raise ValueError(f"expected a key name without spaces and plus signs, found {self.name!r}")
        if len(self.public_bytes) != 32:
            raise ValueError(f"expected an Ed25519 key of 32 bytes, found {len(self.public_bytes)}")

    @property
    def key_id(self) -> bytes:
        """4 bytes that go before a signature of this key."""
        return hashlib.sha256(self.name.encode() + b"\n" + bytes([self.kind]) + self.public_bytes).digest()[:4]

    def encode(self) -> str:
        """The key as text (a "vkey"): `name+id+base64`."""
        material = base64.b64encode(bytes([self.kind]) + self.public_bytes).decode()
        return f"{self.name}+{self.key_id.hex()}+{material}"

    @classmethod
    def parse(cls, text: str) -> NoteKey:
        """Read what `encode` wrote.

        Raises:
            NoteMalformed: It is no such key.
        """
        name, _, rest = text.partition("+")
        key_id, _, material = rest.partition("+")
        raw = _base64(material)
        if len(raw) == 33 and raw[0] in (ED25519, COSIGNATURE_V1):
            try:
                key = cls(name, ED25519 if raw[0] == ED25519 else COSIGNATURE_V1, raw[1:])
            except ValueError:
                key = None
            if key is not None and key.key_id.hex() == key_id:
                return key
        raise NoteMalformed(f"expected a key as name+id+base64, found {text[:60]!a}; copy it whole.")

    def verify(self, message: bytes, signature: bytes) -> None:
        """Check an Ed25519 signature (RFC 8032).

        Raises:
            SignatureInvalid: It is not this key's over this message.
        """
        try:
            Ed25519PublicKey.from_public_bytes(self.public_bytes).verify(signature, message)
        except (InvalidSignature, ValueError):
            raise SignatureInvalid(
                f"expected a signature of {self.name}, found one that does not verify; what it signs was altered."
            ) from None


@dataclass(frozen=True)
class NoteSignature:
    """One signature line: `— name base64(key id || signature)`."""

    name: str
    key_id: bytes
    signature: bytes

    def encode(self) -> str:
        """The line, without its line break."""
        return f"{_DASH}{self.name} {base64.b64encode(self.key_id + self.signature).decode()}"

    @classmethod
    def parse(cls, line: str) -> NoteSignature:
        """Read one line.

        Raises:
            NoteMalformed: It is no signature line.
        """
        name, space, encoded = line.removeprefix(_DASH).partition(" ")
        raw = _base64(encoded)
        if not line.startswith(_DASH) or not name or not space or len(raw) < 5:
            raise NoteMalformed(f"expected a signature line, found {line[:60]!a}; the note was altered.")
        return cls(name, raw[:4], raw[4:])

    def is_by(self, key: NoteKey) -> bool:
        """Whether the line claims to be of this key."""
        return self.name == key.name and self.key_id == key.key_id


@dataclass(frozen=True)
class Note:
    """A text with its signatures; nothing here says that any of them is valid."""

    text: str
    """Ends with a line break."""
    signatures: tuple[NoteSignature, ...]

    def encode(self) -> str:
        """The note as it travels."""
        return self.text + "\n" + "".join(f"{one.encode()}\n" for one in self.signatures)

    def by(self, key: NoteKey) -> NoteSignature:
        """The first signature that claims to be of this key.

        Raises:
            SignatureInvalid: There is none.
        """
        for one in self.signatures:
            if one.is_by(key):
                return one
        raise SignatureInvalid(f"expected a signature of {key.name}, found none; ask for the signed note.")

    def known(self, keys: Iterable[NoteKey]) -> Note:
        """The note without the lines of other keys, which nobody who holds these can check."""
        mine = tuple(keys)
        return Note(self.text, tuple(one for one in self.signatures if any(one.is_by(key) for key in mine)))


def parse_note(raw: bytes) -> Note:
    """Read a signed note; what is not written exactly as `Note.encode` writes it is refused.

    Raises:
        NoteMalformed: It is no signed note.
    """
    if len(raw) > MAX_NOTE_BYTES:
        raise NoteMalformed(f"expected a note of at most {MAX_NOTE_BYTES} bytes, found {len(raw)}.")
    try:
        whole = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise NoteMalformed("expected a note in UTF-8, found other bytes; the note was altered.") from None
    if any(c < " " and c != "\n" for c in whole):
        raise NoteMalformed("expected a note without control characters, found one; the note was altered.")
    text, blank, lines = whole.rpartition("\n\n")
    signatures = lines.split("\n")
    if not blank or not text or signatures.pop() != "" or not 0 < len(signatures) <= MAX_SIGNATURES:
        raise NoteMalformed("expected a text, a blank line and signature lines, found something else.")
    return Note(text + "\n", tuple(NoteSignature.parse(line) for line in signatures))


def _base64(text: str) -> bytes:
    """Strict standard base64; empty for whatever is not the one encoding of its bytes."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
    return raw if base64.b64encode(raw).decode() == text else b""
