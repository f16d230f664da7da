"""The pinned BFV parameters of encrypted gradients (PROTOCOLS section 0). They never travel.

128-bit security: 217 bits of coefficient modulus at degree 8192 stay under the 218 of the homomorphic encryption
standard (2018, table 1). Smaller rings have no room for the flooding noise of rule B2: with n = 4096 the answers
would decrypt to garbage without an error.
"""

from __future__ import annotations

from typing import Final

from protos.sealed_sum.canonical import digest

POLY_MODULUS_DEGREE: Final = 8192
COEFF_MOD_BIT_SIZES: Final = (54, 54, 54, 55)
# The largest prime = 1 mod 16384 below 2^36: slots hold numbers modulo it, and so do folded sums.
PLAIN_MODULUS: Final = 68719230977
# Residue primes of a query; keys carry one more; an answer is switched down to the first alone.
PRIMES: Final = (18014398507892737, 18014398508138497, 18014398508400641)
KEY_PRIMES: Final = (*PRIMES, 36028797018652673)
ANSWER_PRIMES: Final = PRIMES[:1]

RESIDUAL_LEVELS: Final = 511  # a residual in [-1, 1] is sent as a whole number in [-511, 511]
BASIS_LEVELS: Final = 127  # a basis value in [0, 1] is multiplied as a whole number in [0, 127]
GRADIENT_SCALE: Final = RESIDUAL_LEVELS * BASIS_LEVELS  # a folded sum divided by this is a sum over rows

# E, uniform in [-2^116, 2^116) on every coefficient of c0. The message-dependent noise of an answer is about 2^41 for
# one chunk and grows with their root: 2^-70 or less of it shows. Half a plaintext step is 2^125, so E never spills.
FLOODING_BITS: Final = 116
MAX_CHUNKS: Final = 512
MAX_COLUMNS: Final = 4096
MAX_REPEAT: Final = 16

LABEL_NOISE_SIGMA: Final = 2.0  # on every column sum and pass, in rows
SCORE_NOISE_SIGMA: Final = 0.5  # on every partial score, row and pass, in log-odds
SCORE_UNIT: Final = 64  # partial scores are rounded to 1/64 log-odds
MAX_PASSES: Final = 8

MIN_EFFECTIVE_ROWS: Final = 20  # rows with weight, and (sum a)^2 / sum a^2, of every column (B3)
MIN_ROWS_PER_COLUMN: Final = 50  # what the agreement asks for by default
MAX_CANDIDATE_PAIRS: Final = 30


def gradient_parameters_digest() -> bytes:
    """Hash of everything pinned here, 32 bytes; part of every session."""
    return digest(
        "encrypted-gradient/parameters",
        POLY_MODULUS_DEGREE,
        PLAIN_MODULUS,
        *KEY_PRIMES,
        RESIDUAL_LEVELS,
        BASIS_LEVELS,
        FLOODING_BITS,
        int(LABEL_NOISE_SIGMA * 64),
        int(SCORE_NOISE_SIGMA * 64),
        SCORE_UNIT,
        MAX_PASSES,
    )
