"""Randomness with a stated distribution, from a cryptographic generator that is passed in as `rng`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from numpy.typing import NDArray

from protos.encrypted_gradient.parameters import FLOODING_BITS, PLAIN_MODULUS
from protos.sealed_sum.secret import MaskSeed

Rng: TypeAlias = Callable[[int], bytes]
"""`rng(n)` gives n uniform bytes; `os.urandom` in production."""

Words: TypeAlias = NDArray[np.uint64]

_LIMB_BITS = 10  # a residue below 2^54 times 2^10 still fits into 64 bits
_LIMBS = -(-(FLOODING_BITS + 1) // _LIMB_BITS)


def keystream(seed: MaskSeed, length: int) -> bytes:
    """ChaCha20 keystream (RFC 8439, zero nonce, counter from zero); one seed expands once."""
    return Cipher(algorithms.ChaCha20(seed.raw, bytes(16)), mode=None).encryptor().update(bytes(length))


def fresh_stream(rng: Rng) -> Callable[[int], bytes]:
    """A ChaCha20 stream under a fresh 32-byte key: as unpredictable as `rng`, and faster for megabytes."""
    cipher = Cipher(algorithms.ChaCha20(rng(32), bytes(16)), mode=None).encryptor()
    return lambda length: cipher.update(bytes(length))


def uniform_below(stream: Rng, modulus: int, length: int) -> Words:
    """Words uniform over [0, modulus), without bias: what is too large is drawn again.

    Args:
        stream: A generator of uniform bytes.
        modulus: Below 2^63.
        length: Number of words.
    """
    low_bits = np.uint64((1 << modulus.bit_length()) - 1)
    words = np.empty(0, dtype=np.uint64)
    while words.size < length:
        block = np.frombuffer(stream(8 * (length - words.size)), dtype="<u8") & low_bits
        block = block[block < np.uint64(modulus)]
        words = np.concatenate([words, block]) if words.size else block
    return words


def expand_modulo(seed: MaskSeed, modulus: int, length: int) -> Words:
    """Expand a seed to words uniform over [0, modulus); both ends of a pair get the same."""
    cipher = Cipher(algorithms.ChaCha20(seed.raw, bytes(16)), mode=None).encryptor()
    return uniform_below(lambda size: cipher.update(bytes(size)), modulus, length)


def uniform_slots(stream: Rng, shape: tuple[int, ...]) -> Words:
    """One-time masks: uniform over [0, t), of any shape."""
    return uniform_below(stream, PLAIN_MODULUS, int(np.prod(shape))).reshape(shape)


def flooding(stream: Rng, primes: tuple[int, ...], length: int) -> Words:
    """E uniform over [-2^116, 2^116), as residues.

    The label holder knows its own key, so it reads the noise of an answer; without E that noise is a second set of
    equations in the columns (B2).

    Returns:
        uint64 of shape (len(primes), length).
    """
    drawn = np.frombuffer(stream(2 * _LIMBS * length), dtype="<u2").reshape(_LIMBS, length).astype(np.uint64)
    drawn &= np.uint64((1 << _LIMB_BITS) - 1)
    drawn[0] &= np.uint64((1 << (FLOODING_BITS + 1 - _LIMB_BITS * (_LIMBS - 1))) - 1)  # 117 bits in all
    out = np.empty((len(primes), length), dtype=np.uint64)
    for row, prime in enumerate(primes):
        value = drawn[0].copy()
        for limb in drawn[1:]:
            value <<= np.uint64(_LIMB_BITS)
            value |= limb
            value %= np.uint64(prime)
        value += np.uint64(prime - (1 << FLOODING_BITS) % prime)
        out[row] = value % np.uint64(prime)
    return out


def gaussian(stream: Rng, sigma: float, length: int) -> NDArray[np.float64]:
    """Independent N(0, sigma^2) by the method of Box and Muller (1958) on 53-bit uniforms, shape (length,)."""
    pairs = -(-length // 2)
    words = np.frombuffer(stream(16 * pairs), dtype="<u8") >> np.uint64(11)
    uniform = (words.astype(np.float64) + 0.5) * 2.0**-53
    radius = np.sqrt(-2.0 * np.log(uniform[:pairs]))
    angle = 2.0 * np.pi * uniform[pairs:]
    return np.asarray(sigma * np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:length])
