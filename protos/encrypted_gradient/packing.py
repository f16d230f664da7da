"""Residues on the wire: an envelope of our own, 54 bits a residue, every length known beforehand (A5).

Answers are rounded: half a plaintext step is 2^17 on their one prime, flooding and switching leave noise below 2^9. The
low 14 bits of the first polynomial and the low 6 of the second (which the secret key's norm, about 2^6, multiplies)
add less than 2^15 to it, whatever the secret key.
"""

from __future__ import annotations

import numpy as np

from protos.encrypted_gradient.errors import MalformedGradient
from protos.encrypted_gradient.parameters import ANSWER_PRIMES, KEY_PRIMES, POLY_MODULUS_DEGREE
from protos.encrypted_gradient.seal_edge import Residues

RESIDUE_BITS = 54
_ANSWER_DROPPED_BITS = (14, 6)
_ANSWER_BYTES = (5, 6)


def packed_bytes(num_residues: int) -> int:
    """Bytes of `num_residues` residues; four of them are 27 bytes."""
    return num_residues * RESIDUE_BITS // 8


def pack(residues: Residues) -> bytes:
    """Pack residues below 2^54; their number is a multiple of four."""
    a, b, c, d = residues.reshape(-1, 4).T
    words = np.empty((len(a), 4), dtype="<u8")
    words[:, 0] = a | b << np.uint64(54)
    words[:, 1] = b >> np.uint64(10) | c << np.uint64(44)
    words[:, 2] = c >> np.uint64(20) | d << np.uint64(34)
    words[:, 3] = d >> np.uint64(30)
    return np.ascontiguousarray(words.view(np.uint8).reshape(-1, 32)[:, :27]).tobytes()


def unpack(data: bytes, shape: tuple[int, ...], primes: tuple[int, ...], what: str) -> Residues:
    """Read received residues and check each against its prime.

    Args:
        data: The bytes received.
        shape: The shape expected; its last two axes are (number of primes, 8192).
        primes: The prime of each row of the last but one axis.
        what: What it is, for the error.

    Raises:
        MalformedGradient: Wrong length, or a residue not below its prime.
    """
    count = int(np.prod(shape))
    if len(data) != packed_bytes(count):
        raise MalformedGradient(f"expected {packed_bytes(count)} bytes of {what}, found {len(data)}")
    padded = np.zeros((count // 4, 32), dtype=np.uint8)
    padded[:, :27] = np.frombuffer(data, dtype=np.uint8).reshape(-1, 27)
    words = padded.view("<u8")
    low = np.uint64((1 << RESIDUE_BITS) - 1)
    out = np.empty((count // 4, 4), dtype=np.uint64)
    out[:, 0] = words[:, 0] & low
    out[:, 1] = (words[:, 0] >> np.uint64(54) | words[:, 1] << np.uint64(10)) & low
    out[:, 2] = (words[:, 1] >> np.uint64(44) | words[:, 2] << np.uint64(20)) & low
    out[:, 3] = (words[:, 2] >> np.uint64(34) | words[:, 3] << np.uint64(30)) & low
    residues = out.reshape(shape)
    _check(residues, primes, what)
    return residues


def answer_bytes(count: int) -> int:
    """Bytes of so many answers."""
    return count * sum(_ANSWER_BYTES) * POLY_MODULUS_DEGREE


def pack_answers(residues: Residues) -> bytes:
    """Pack rounded answers, shape (count, 2, 1, 8192): 5 bytes a residue of c0, then 6 bytes a residue of c1."""
    pieces = []
    for part, (dropped, size) in enumerate(zip(_ANSWER_DROPPED_BITS, _ANSWER_BYTES, strict=True)):
        kept = np.ascontiguousarray(residues[:, part, 0] >> np.uint64(dropped)).astype("<u8", copy=False)
        pieces.append(np.ascontiguousarray(kept.view(np.uint8).reshape(-1, 8)[:, :size]).tobytes())
    return b"".join(pieces)


def unpack_answers(data: bytes, count: int) -> Residues:
    """Read received answers, shape (count, 2, 1, 8192), each residue below its prime and in the middle of its step.

    Raises:
        MalformedGradient: Wrong length, a residue not below its prime, or a second polynomial of zeros (a ciphertext
            that anybody can make without a key).
    """
    if len(data) != answer_bytes(count):
        raise MalformedGradient(f"expected {answer_bytes(count)} bytes of masked products, found {len(data)}")
    (prime,) = ANSWER_PRIMES
    out = np.empty((count, 2, 1, POLY_MODULUS_DEGREE), dtype=np.uint64)
    at = 0
    for part, (dropped, size) in enumerate(zip(_ANSWER_DROPPED_BITS, _ANSWER_BYTES, strict=True)):
        words = count * POLY_MODULUS_DEGREE
        padded = np.zeros((words, 8), dtype=np.uint8)
        padded[:, :size] = np.frombuffer(data, dtype=np.uint8, count=words * size, offset=at).reshape(-1, size)
        at += words * size
        kept = padded.view("<u8").reshape(count, POLY_MODULUS_DEGREE).astype(np.uint64)
        if np.any(kept > np.uint64((prime - 1) >> dropped)):
            raise MalformedGradient("expected every residue of masked products below its prime, found a larger one")
        if part == 1 and not np.all(kept.any(axis=1)):
            raise MalformedGradient("expected keyed ciphertexts, found one whose second polynomial is zero")
        out[:, part, 0] = ((kept << np.uint64(dropped)) + np.uint64(1 << (dropped - 1))) % np.uint64(prime)
    return out


def pack_key(residues: Residues) -> bytes:
    """Pack a public key, 7 bytes a residue."""
    as_bytes = np.ascontiguousarray(residues.reshape(-1).astype("<u8")).view(np.uint8).reshape(-1, 8)
    return np.ascontiguousarray(as_bytes[:, :7]).tobytes()


def unpack_key(data: bytes) -> Residues:
    """Read a received public key, shape (2, 4, 8192).

    Raises:
        MalformedGradient: Wrong length, a residue not below its prime, or a polynomial that is zero modulo a prime:
            under such a key the mask's encryption would hide nothing (B2).
    """
    shape = (2, len(KEY_PRIMES), POLY_MODULUS_DEGREE)
    count = int(np.prod(shape))
    if len(data) != 7 * count:
        raise MalformedGradient(f"expected a public key of {7 * count} bytes, found {len(data)}")
    padded = np.zeros((count, 8), dtype=np.uint8)
    padded[:, :7] = np.frombuffer(data, dtype=np.uint8).reshape(-1, 7)
    residues = padded.view("<u8").reshape(shape).astype(np.uint64)
    _check(residues, KEY_PRIMES, "a public key")
    # A polynomial with many zeros in NTT form lies in a small ideal; an honest one has none but by rare chance.
    if np.count_nonzero(residues == 0) > 8:
        raise MalformedGradient("expected a public key that looks uniform, found zeros in it; refuse that label holder")
    return residues


def _check(residues: Residues, primes: tuple[int, ...], what: str) -> None:
    if np.any(residues >= np.array(primes, dtype=np.uint64).reshape(-1, 1)):
        raise MalformedGradient(f"expected every residue of {what} below its prime, found a larger one")
