"""The pinned BFV parameters. They never travel: a member or a coordinator with others cannot take part.

128-bit security: 109 bits of coefficient modulus at degree 4096 is the bound of the homomorphic encryption
standard (2018, table 1). A 52-bit batching prime leaves noise room for 200 additions and one plain subtraction.
"""

from __future__ import annotations

from typing import Final

from protos.sealed_sum.canonical import digest

POLY_MODULUS_DEGREE: Final = 4096
COEFF_MOD_BIT_SIZES: Final = (36, 36, 37)
# The largest prime = 1 mod 8192 (so that 4,096 slots exist) below 2^52.
PLAIN_MODULUS: Final = 4503599627149313
# Residue primes of a ciphertext, and of the secret key (which carries one more).
PRIMES: Final = (68719230977, 68719403009)
KEY_PRIMES: Final = (68719230977, 68719403009, 137438822401)
RESIDUE_BITS: Final = 36

TAG_SLOTS: Final = 3  # roster slot and two linear tags, at the end of every ciphertext
DATA_SLOTS: Final = POLY_MODULUS_DEGREE - TAG_SLOTS
CIPHERTEXT_BYTES: Final = 2 * len(PRIMES) * POLY_MODULUS_DEGREE * RESIDUE_BITS // 8

MAX_COHORT: Final = 200
MAX_CIPHERTEXTS: Final = 2048  # 150 MB a member and sum; protects both ends from absurd requests
MAX_WEIGHT_LOG2: Final = 40


def parameters_digest() -> bytes:
    """Hash of everything pinned here, 32 bytes; part of every sum header."""
    return digest("parameters", POLY_MODULUS_DEGREE, PLAIN_MODULUS, *KEY_PRIMES, RESIDUE_BITS, TAG_SLOTS, DATA_SLOTS)


def num_ciphertexts(num_slots: int) -> int:
    """How many ciphertexts carry `num_slots` data slots (at least one)."""
    return max(1, -(-num_slots // DATA_SLOTS))
