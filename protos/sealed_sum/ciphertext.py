"""The TenSEAL edge: BFV ciphertexts as arrays of residues, and an envelope of our own on the wire.

TenSEAL trusts lengths in what it loads (a `sizes` field of 2^20 crashes the process), accepts flipped bits and
decrypts keyless ciphertexts (A5). So nothing received ever reaches its parsers: received bytes have one exact
length, become residues that are each checked against their prime, and only then are written, by us, into the
serialisation TenSEAL loads. Parameters are pinned; contexts are built here and never loaded from a message.

Layout of SEAL 4.x as bundled with tenseal 0.3.18 ("<HBBBBHQ": magic, header size, version, compression, size).
"""

from __future__ import annotations

import struct
from functools import cache
from typing import Any, Self, TypeAlias

import numpy as np
import tenseal
import tenseal.sealapi  # registers the SEAL types that the parameters below are read through
import zstandard
from numpy.typing import NDArray

from protos.sealed_sum.errors import DealRefused, MalformedCiphertext
from protos.sealed_sum.layout import Slots
from protos.sealed_sum.parameters import (
    CIPHERTEXT_BYTES,
    COEFF_MOD_BIT_SIZES,
    KEY_PRIMES,
    MAX_CIPHERTEXTS,
    PLAIN_MODULUS,
    POLY_MODULUS_DEGREE,
    PRIMES,
    RESIDUE_BITS,
)

_POLYNOMIALS = 2
_SHAPE = (_POLYNOMIALS, len(PRIMES), POLY_MODULUS_DEGREE)
_RESIDUES = _POLYNOMIALS * len(PRIMES) * POLY_MODULUS_DEGREE
_RAW_BYTES = 8 * _RESIDUES
_PRIME_COLUMN = np.array(PRIMES, dtype=np.uint64).reshape(1, 1, len(PRIMES), 1)
_HEADER = struct.Struct("<HBBBBHQ")
_MAGIC, _HEADER_BYTES, _MAJOR, _MINOR, _STORED, _ZSTD = 0xA15E, 16, 4, 3, 0, 2
KEY_BYTES = 8 * len(KEY_PRIMES) * POLY_MODULUS_DEGREE

Residues: TypeAlias = NDArray[np.uint64]


# ---- residues on the wire ----


def pack(residues: Residues) -> bytes:
    """Pack residues of ciphertexts at 36 bits each.

    Args:
        residues: uint64 of shape (count, 2, 2, 4096), each below its prime.

    Returns:
        count * 73,728 bytes; two residues are 9 bytes, little endian.
    """
    pairs = residues.reshape(-1, 2)
    low = pairs[:, 0] | (pairs[:, 1] << np.uint64(RESIDUE_BITS))  # the upper 8 bits of the second fall off
    packed = np.empty((len(pairs), 9), dtype=np.uint8)
    packed[:, :8] = low.astype("<u8", copy=False).view(np.uint8).reshape(-1, 8)
    packed[:, 8] = pairs[:, 1] >> np.uint64(64 - RESIDUE_BITS)
    return packed.tobytes()


def unpack(data: bytes, count: int) -> Residues:
    """Read `count` received ciphertexts, checking everything that can be checked without a key.

    Returns:
        uint64 of shape (count, 2, 2, 4096), each residue below its prime.

    Raises:
        MalformedCiphertext: Wrong length, a residue not below its prime, or a second polynomial of zeros
            (a "transparent" ciphertext, which anybody can make without a key).
    """
    if not 0 < count <= MAX_CIPHERTEXTS or len(data) != count * CIPHERTEXT_BYTES:
        raise MalformedCiphertext(
            f"expected {count} ciphertexts of {CIPHERTEXT_BYTES} bytes, found {len(data)} bytes in all"
        )
    packed = np.frombuffer(data, dtype=np.uint8).reshape(-1, 9)
    low = np.ascontiguousarray(packed[:, :8]).view("<u8").reshape(-1)
    pairs = np.empty((len(low), 2), dtype=np.uint64)
    pairs[:, 0] = low & np.uint64((1 << RESIDUE_BITS) - 1)
    pairs[:, 1] = (low >> np.uint64(RESIDUE_BITS)) | (packed[:, 8].astype(np.uint64) << np.uint64(64 - RESIDUE_BITS))
    residues = pairs.reshape(count, *_SHAPE)
    if np.any(residues >= _PRIME_COLUMN):
        raise MalformedCiphertext("expected every residue below its prime, found a larger one")
    if not np.all(residues[:, 1].any(axis=(1, 2))):
        raise MalformedCiphertext("expected a keyed ciphertext, found one whose second polynomial is zero")
    return residues


def reduce_sum(total: Residues) -> Residues:
    """Bring a plain integer sum of residues of up to 2^28 ciphertexts back below the primes, in place."""
    total %= _PRIME_COLUMN
    return total


def subtract_plain(residues: Residues, slots: Slots) -> Residues:
    """Subtract known slots from ciphertexts, without a key.

    Args:
        residues: Shape (count, 2, 2, 4096).
        slots: Shape (count, 4096), entries in [0, t).
    """
    context = _keyless_context()
    out = np.empty_like(residues)
    for index, ciphertext in enumerate(residues):
        vector = tenseal.bfv_vector_from(context, _vector_bytes(ciphertext))
        out[index] = _residues_of((vector - slots[index].tolist()).serialize())
    return out


class SealingKey:
    """The BFV secret key that all members hold, ready to encrypt and decrypt.

    Encryption is symmetric: there is no public key, so there is one thing less that could be swapped.
    """

    def __init__(self, context: Any, raw: bytes) -> None:
        """Use `generate` or `from_bytes`."""
        self._context = context
        self._raw = raw

    @classmethod
    def generate(cls) -> Self:
        """Draw a new key (SEAL's own generator, seeded by the operating system)."""
        context = _new_context()
        serialized = _fields(context.serialize(**_SECRET_ONLY))
        secret = _fields(serialized[_PRIVATE_PART])[1]
        body = _decompress(secret, 48 + 16 + 8 + KEY_BYTES + 64)
        # Plaintext: parms_id (32), coefficient count (8), scale (8), then the array with its own header.
        return cls(context, body[48 + _HEADER_BYTES + 8 :])

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """Rebuild a key from its residues as they were dealt.

        Args:
            raw: 3 * 4096 words of 8 bytes, little endian: the key in NTT form modulo each of KEY_PRIMES.

        Raises:
            DealRefused: Wrong length, a residue not below its prime, or a key that is zero modulo a prime.
        """
        if len(raw) != KEY_BYTES:
            raise DealRefused(f"expected a sealing key of {KEY_BYTES} bytes, found {len(raw)}")
        residues = np.frombuffer(raw, dtype="<u8").reshape(len(KEY_PRIMES), POLY_MODULUS_DEGREE)
        bound = np.array(KEY_PRIMES, dtype=np.uint64).reshape(-1, 1)
        if np.any(residues >= bound) or not np.all(residues.any(axis=1)):
            raise DealRefused("expected a sealing key with residues below their primes, found another")
        template = _key_template()
        array = _wrap(struct.pack("<Q", len(raw) // 8) + raw)
        secret = _wrap(template.plaintext_head + array)
        private = _field(1, secret)
        return cls(tenseal.context_from(template.public + _field(_PRIVATE_PART, private) + template.tail), raw)

    def to_bytes(self) -> bytes:
        """The residues, 98,304 secret bytes."""
        return self._raw

    def __repr__(self) -> str:
        return "SealingKey(...)"

    def __reduce__(self) -> Any:
        raise TypeError("SealingKey is not pickled or copied; store it with the state it belongs to")

    def encrypt(self, slots: Slots) -> Residues:
        """Encrypt freshly.

        Args:
            slots: uint64 of shape (count, 4096), entries in [0, t).

        Returns:
            uint64 of shape (count, 2, 2, 4096).
        """
        out = np.empty((len(slots), *_SHAPE), dtype=np.uint64)
        for index, row in enumerate(slots):
            out[index] = _residues_of(tenseal.bfv_vector(self._context, row.tolist()).serialize())
        return out

    def decrypt(self, residues: Residues) -> Slots:
        """Decrypt ciphertexts that `unpack` has checked; says nothing about whether they are genuine.

        Returns:
            uint64 of shape (count, 4096), entries in [0, t).
        """
        out = np.empty((len(residues), POLY_MODULUS_DEGREE), dtype=np.int64)
        for index, ciphertext in enumerate(residues):
            out[index] = tenseal.bfv_vector_from(self._context, _vector_bytes(ciphertext)).decrypt()
        return np.mod(out, PLAIN_MODULUS).astype(np.uint64)  # SEAL gives (-t/2, t/2]


# ---- SEAL's own format, for bytes that we wrote or that this process's TenSEAL just gave us ----

_SECRET_ONLY = {
    "save_public_key": False,
    "save_secret_key": True,
    "save_galois_keys": False,
    "save_relin_keys": False,
}
_PARAMETER_PART, _PUBLIC_PART, _PRIVATE_PART, _TYPE_PART = 1, 2, 3, 4


class _KeyTemplate:
    """The pieces of a TenSEAL context of ours around the secret key."""

    def __init__(self) -> None:
        parts = _fields(_new_context().serialize(**_SECRET_ONLY))
        secret = _fields(parts[_PRIVATE_PART])[1]
        self.public = _field(_PARAMETER_PART, parts[_PARAMETER_PART]) + _field(_PUBLIC_PART, parts[_PUBLIC_PART])
        self.tail = bytes([_TYPE_PART << 3, 1])  # encryption type: symmetric
        self.plaintext_head = _decompress(secret, 48 + 16 + 8 + KEY_BYTES + 64)[:48]


@cache
def _key_template() -> _KeyTemplate:
    return _KeyTemplate()


@cache
def _keyless_context() -> Any:
    """A context with the pinned parameters and no key at all, for the coordinator."""
    return tenseal.context_from(
        _new_context().serialize(
            save_public_key=False, save_secret_key=False, save_galois_keys=False, save_relin_keys=False
        )
    )


@cache
def _ciphertext_head() -> bytes:
    """What precedes the residues of every ciphertext under the pinned parameters, 97 + 24 bytes."""
    ciphertext = _fields(tenseal.bfv_vector(_new_context(), [1]).serialize())[2]
    body = _decompress(ciphertext, _RAW_BYTES + 256)
    return body[: len(body) - _RAW_BYTES - _HEADER_BYTES - 8]


def _new_context() -> Any:
    context = tenseal.context(
        tenseal.SCHEME_TYPE.BFV,
        poly_modulus_degree=POLY_MODULUS_DEGREE,
        plain_modulus=PLAIN_MODULUS,
        coeff_mod_bit_sizes=list(COEFF_MOD_BIT_SIZES),
        encryption_type=tenseal.ENCRYPTION_TYPE.SYMMETRIC,
    )
    found = tuple(
        int(prime.value()) for prime in context.seal_context().data.key_context_data().parms().coeff_modulus()
    )
    if found != KEY_PRIMES:
        raise RuntimeError(f"expected the pinned primes {KEY_PRIMES}, found {found}; install tenseal 0.3.18")
    return context


def _wrap(body: bytes) -> bytes:
    return _HEADER.pack(_MAGIC, _HEADER_BYTES, _MAJOR, _MINOR, _STORED, 0, _HEADER_BYTES + len(body)) + body


def _decompress(saved: bytes, limit: int) -> bytes:
    magic, _, _, _, compression, _, size = _HEADER.unpack_from(saved)
    if (magic, compression, size) != (_MAGIC, _ZSTD, len(saved)):
        raise RuntimeError("expected a zstd-compressed SEAL object from TenSEAL; install tenseal 0.3.18")
    return zstandard.ZstdDecompressor().decompressobj().decompress(saved[_HEADER_BYTES:])[:limit]


def _vector_bytes(ciphertext: Residues) -> bytes:
    """One ciphertext as the BFVVector message that TenSEAL loads; every length in it is ours."""
    array = _wrap(struct.pack("<Q", _RESIDUES) + ciphertext.astype("<u8", copy=False).tobytes())
    return _field(1, _varint(POLY_MODULUS_DEGREE)) + _field(2, _wrap(_ciphertext_head() + array))


def _residues_of(vector: bytes) -> Residues:
    """The residues of a one-ciphertext BFVVector message of this process."""
    body = _decompress(_fields(vector)[2], _RAW_BYTES + 256)
    if len(body) != len(_ciphertext_head()) + _HEADER_BYTES + 8 + _RAW_BYTES:
        raise RuntimeError("expected one ciphertext of two polynomials from TenSEAL; install tenseal 0.3.18")
    return np.frombuffer(body, dtype="<u8", offset=len(body) - _RAW_BYTES).reshape(_SHAPE)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, value: bytes) -> bytes:
    """A length-delimited protobuf field (all numbers here are below 16)."""
    return bytes([number << 3 | 2]) + _varint(len(value)) + value


def _fields(message: bytes) -> dict[int, bytes]:
    """The length-delimited fields of a protobuf message that this process made."""
    fields: dict[int, bytes] = {}
    at = 0
    while at < len(message):
        key, at = _read_varint(message, at)
        length, at = _read_varint(message, at)
        if key & 7 == 2:
            fields[key >> 3] = message[at : at + length]
            at += length
    return fields


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at
