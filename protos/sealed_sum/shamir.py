"""Shamir sharing of a self-mask seed with its salt: T of the peers rebuild it, T - 1 learn nothing.

The field is the integers modulo the Mersenne prime 2^521 - 1, so that seed and salt (512 bits) are one secret.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, islice

from protos.sealed_sum.errors import ShareInvalid

FIELD_BITS = 521
FIELD_PRIME = (1 << FIELD_BITS) - 1
SHARE_BYTES = 66
SECRET_BYTES = 64
# Wrong shares are an attack on availability alone; a bound keeps it from becoming one on the coordinator's time.
MAX_SUBSETS = 2000


def split(secret: bytes, threshold: int, points: Sequence[int], rng: Callable[[int], bytes]) -> dict[int, bytes]:
    """Share a 64-byte secret.

    Args:
        secret: 64 bytes.
        threshold: T, shares needed to rebuild; 1 <= T <= len(points).
        points: Distinct x coordinates, >= 1: the recipients' places in the cohort.
        rng: Cryptographic randomness, `rng(n)` gives n bytes.

    Returns:
        x -> share, 66 bytes big endian.
    """
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"expected a secret of {SECRET_BYTES} bytes, found {len(secret)}")
    if not 1 <= threshold <= len(points) or len(set(points)) != len(points) or min(points) < 1:
        raise ValueError(f"expected 1 <= threshold <= number of distinct points, found {threshold} of {len(points)}")
    coefficients = [int.from_bytes(secret, "big"), *(_element(rng) for _ in range(threshold - 1))]
    shares = {}
    for x in points:
        y = 0
        for coefficient in reversed(coefficients):
            y = (y * x + coefficient) % FIELD_PRIME
        shares[x] = y.to_bytes(SHARE_BYTES, "big")
    return shares


def parse_share(share: bytes) -> int:
    """Validate a received share.

    Raises:
        ShareInvalid: Wrong length or not a field element.
    """
    value = int.from_bytes(share, "big") if len(share) == SHARE_BYTES else FIELD_PRIME
    if value >= FIELD_PRIME:
        raise ShareInvalid(f"expected a share of {SHARE_BYTES} bytes below the field prime, found {len(share)} bytes")
    return value


def combine(shares: Mapping[int, int]) -> bytes | None:
    """Lagrange interpolation at zero.

    Args:
        shares: x -> y, exactly the threshold's number of them.

    Returns:
        The 64-byte secret, or None if the polynomial's value is no 512-bit number (a share was wrong).
    """
    secret = 0
    for x, y in shares.items():
        numerator = denominator = 1
        for other in shares:
            if other != x:
                numerator = numerator * other % FIELD_PRIME
                denominator = denominator * (other - x) % FIELD_PRIME
        secret += y * numerator * pow(denominator, -1, FIELD_PRIME)
    secret %= FIELD_PRIME
    return secret.to_bytes(SECRET_BYTES, "big") if secret.bit_length() <= 8 * SECRET_BYTES else None


def rebuild(shares: Mapping[int, int], threshold: int, accept: Callable[[bytes], bool], owner: str) -> bytes:
    """Try subsets of the threshold's size until one rebuilds what was committed to (A12).

    Args:
        shares: x -> y of everybody that answered.
        threshold: T.
        accept: Whether a candidate matches the owner's commitment.
        owner: Whose secret it is, for the error.

    Raises:
        ShareInvalid: No subset fits.
    """
    for subset in islice(combinations(sorted(shares), threshold), MAX_SUBSETS):
        candidate = combine({x: shares[x] for x in subset})
        if candidate is not None and accept(candidate):
            return candidate
    raise ShareInvalid(
        f"expected {threshold} shares that rebuild the mask seed {owner} committed to, found none among "
        f"{len(shares)}; ask further members or start a new sum"
    )


def _element(rng: Callable[[int], bytes]) -> int:
    """A uniform field element: 521 random bits, drawn again if they are the prime itself."""
    while True:
        value = int.from_bytes(rng(SHARE_BYTES), "big") & FIELD_PRIME
        if value != FIELD_PRIME:
            return value
