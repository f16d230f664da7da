"""The half of a query that is uniform, expanded from a seed at both ends."""

from __future__ import annotations

import numpy as np

from protos.encrypted_gradient.parameters import POLY_MODULUS_DEGREE, PRIMES
from protos.encrypted_gradient.sampling import expand_modulo
from protos.encrypted_gradient.seal_edge import Residues
from protos.sealed_sum.canonical import digest
from protos.sealed_sum.secret import MaskSeed


def second_polynomial(seed: bytes, chunk: int) -> Residues:
    """Uniform residues in NTT form of one chunk, shape (3, 8192); the seed is public."""
    rows = []
    for number, prime in enumerate(PRIMES):
        stream_key = MaskSeed(digest("encrypted-gradient/second-polynomial", seed, chunk, number))
        rows.append(expand_modulo(stream_key, prime, POLY_MODULUS_DEGREE))
    return np.stack(rows)
