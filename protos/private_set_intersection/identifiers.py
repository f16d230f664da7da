"""From what a member calls an entity to an element that only members can compute.

Identifiers are normalised by the type that the agreement states, so that two members that write one tax number
differently mean one entity. What cannot be normalised is counted and never shown.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import unicodedata
from array import array
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from numpy.typing import NDArray

from protos.private_set_intersection.curve import ELEMENT_BYTES, ElementArray
from protos.sealed_sum.canonical import encode
from protos.sealed_sum.keys import derive
from protos.sealed_sum.secret import SecretBytes, TagKey

IdentifierType = Literal["text", "digits", "code", "email", "phone"]
MAX_IDENTIFIER_CHARACTERS = 256
_SEPARATORS = re.compile(r"[\s./_\-()]+")
_EMAIL = re.compile(r"[^@\s]{1,64}@[^@\s]+\.[^@\s.]+")
_TOP_BIT = 0x7F


class MembersKey(SecretBytes):
    """K_members: keys the hash of identifiers; every member of the epoch can compute it, the coordinator cannot."""


class OrderSeed(SecretBytes):
    """Seed of the order in which a member sends its elements; nobody else can tell an entity by its place."""


def members_key(tag_key: TagKey, agreement_hash: bytes, epoch_id: bytes) -> MembersKey:
    """K_members of an epoch, from the key that the dealer gave to its members."""
    return derive(tag_key, MembersKey, salt=agreement_hash, info=encode("alignment/members-key", epoch_id))


def _folded(value: str) -> str:
    folded = value.casefold()
    return folded if folded.isascii() else unicodedata.normalize("NFKC", folded)  # folding can undo the normal form


def _text(value: str) -> str | None:
    return " ".join(_folded(value).split()) or None


def _digits(value: str) -> str | None:
    digits = _SEPARATORS.sub("", value)
    return digits if digits.isascii() and digits.isdigit() else None


def _code(value: str) -> str | None:
    code = _SEPARATORS.sub("", value).upper()
    return code if code.isascii() and code.isalnum() else None


def _email(value: str) -> str | None:
    email = _folded(value).strip()
    return email if _EMAIL.fullmatch(email) else None


def _phone(value: str) -> str | None:
    number = _SEPARATORS.sub("", value)
    international = number[1:] if number.startswith("+") else ""
    return "+" + international if international.isascii() and re.fullmatch(r"[1-9]\d{6,14}", international) else None


NORMALISERS: Mapping[IdentifierType, Callable[[str], str | None]] = MappingProxyType(
    {"text": _text, "digits": _digits, "code": _code, "email": _email, "phone": _phone}
)
"""`text`: case and white space do not matter. `digits`: tax or account numbers, separators do not matter, leading
zeros do. `code`: letters and digits, separators and case do not matter. `email`: case does not matter. `phone`:
with + and the country code (E.164)."""


def normalise(kind: IdentifierType, value: object) -> str | None:
    """The one form of an identifier, or None if it is malformed.

    Args:
        kind: Type of the agreement.
        value: As the source holds it; anything but text is malformed.
    """
    if not isinstance(value, str) or not 0 < len(value) <= MAX_IDENTIFIER_CHARACTERS:
        return None
    normal = NORMALISERS[kind](value if value.isascii() else unicodedata.normalize("NFKC", value))
    return normal if normal is not None and len(normal) <= MAX_IDENTIFIER_CHARACTERS else None


@dataclass(frozen=True, eq=False)
class KeyedEntities:
    """A member's own entities as elements, each once.

    Attributes:
        elements: (n, 32).
        rows: Which identifier each element came from, counted from 0, (n,); the first of duplicates.
        num_duplicates: Identifiers left out because they normalise to an earlier one.
        num_malformed: Identifiers left out because they do not normalise.
    """

    elements: ElementArray = field(repr=False)
    rows: NDArray[np.int64] = field(repr=False)
    num_duplicates: int
    num_malformed: int

    def __len__(self) -> int:
        return len(self.rows)

    def input_digest(self) -> bytes:
        """SHA-256 by which a resumed session knows that it still has the same entities, 32 bytes."""
        return hashlib.sha256(self.elements.tobytes() + self.rows.astype("<i8").tobytes()).digest()

    def arranged(self, seed: OrderSeed) -> KeyedEntities:
        """The same entities in the secret order of a seed."""
        order = shuffled_order(seed, len(self))
        return KeyedEntities(self.elements[order], self.rows[order], self.num_duplicates, self.num_malformed)


def keyed_entities(identifiers: Iterable[object], kind: IdentifierType, key: MembersKey) -> KeyedEntities:
    """Normalise, key and hash a member's consented identifiers.

    Each becomes SHA-256(HMAC-SHA256(K_members, type | identifier)) with the top bit cleared: a uniform 255-bit
    u-coordinate (rules B8, B9). The text itself is not kept, so that a million entities take 40 MB here.

    Args:
        identifiers: Of the entities that consented, in the order of the member's rows.
        kind: Type of the agreement.
        key: K_members of the epoch.
    """
    mac = hmac.new(key.raw, encode("alignment/identifier", kind), "sha256")
    data, rows, malformed = bytearray(), array("q"), 0
    for row, identifier in enumerate(identifiers):
        normal = normalise(kind, identifier)
        if normal is None:
            malformed += 1
            continue
        one = mac.copy()
        one.update(normal.encode())
        data += hashlib.sha256(one.digest()).digest()
        rows.append(row)
    elements = np.frombuffer(data, dtype=np.uint8).reshape(-1, ELEMENT_BYTES)
    elements[:, ELEMENT_BYTES - 1] &= _TOP_BIT
    kept_rows = np.frombuffer(rows, dtype=np.int64) if rows else np.zeros(0, dtype=np.int64)
    kept = _first_of_each(elements)
    duplicates = len(elements) - len(kept)
    if duplicates:
        elements, kept_rows = elements[kept], kept_rows[kept]
    return KeyedEntities(elements, kept_rows, duplicates, malformed)


def shuffled_order(seed: OrderSeed, count: int) -> NDArray[np.int64]:
    """A permutation of `count` places, drawn with ChaCha20, (count,).

    Places are sorted by 64 random bits each. Two equal draws, which keep their order, turn up with probability
    2^-25 among a million and then say which of two places came first, nothing else.
    """
    stream = Cipher(algorithms.ChaCha20(seed.raw, bytes(16)), mode=None).encryptor()
    keys = np.frombuffer(stream.update(bytes(8 * count)), dtype="<u8")
    return np.argsort(keys, kind="stable").astype(np.int64)


def _first_of_each(elements: ElementArray) -> NDArray[np.int64]:
    """Places of the first of each different element, ascending, (k,)."""
    words = elements.view("<u8") if len(elements) else np.zeros((0, 4), dtype="<u8")
    order = np.lexsort((words[:, 3], words[:, 2], words[:, 1], words[:, 0]))  # stable: equal ones keep their order
    ordered = words[order]
    first = np.ones(len(order), dtype=bool)
    first[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
    return np.sort(order[first]).astype(np.int64)
