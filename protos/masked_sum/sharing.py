"""Shamir sharing of a 32-byte self-mask seed, made for many small sums: the Lagrange weights are computed once.

The field is the integers modulo 2^256 + 297, the smallest prime that holds every 32-byte seed. T of the peers
rebuild a seed, T - 1 learn nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import combinations, islice

from protos.sealed_sum.errors import ShareInvalid

FIELD_PRIME = (1 << 256) + 297
SHARE_BYTES = 33
SECRET_BYTES = 32
# Wrong shares are an attack on availability alone; a bound keeps it from becoming one on the gateway's time.
MAX_SUBSETS = 500
_DRAW_BYTES = 48  # 128 bits more than the field: the reduction's bias is below 2^-127


def split(secret: bytes, threshold: int, points: Sequence[int], rng: Callable[[int], bytes]) -> list[bytes]:
    """Share a 32-byte secret.

    Args:
        secret: 32 bytes.
        threshold: T, shares needed to rebuild; 1 <= T <= len(points).
        points: Distinct x coordinates, >= 1: the recipients' places in the cohort.
        rng: Cryptographic randomness, `rng(n)` gives n bytes.

    Returns:
        One share for each point, 33 bytes big endian.
    """
    if len(secret) != SECRET_BYTES:
        raise ValueError(f"expected a secret of {SECRET_BYTES} bytes, found {len(secret)}")
    if not 1 <= threshold <= len(points) or len(set(points)) != len(points) or min(points) < 1:
        raise ValueError(f"expected 1 <= threshold <= number of distinct points, found {threshold} of {len(points)}")
    constant = int.from_bytes(secret, "big")
    drawn = rng(_DRAW_BYTES * (threshold - 1))
    # Highest power first, for Horner's rule.
    others = [
        int.from_bytes(drawn[start : start + _DRAW_BYTES], "big") % FIELD_PRIME
        for start in range(0, len(drawn), _DRAW_BYTES)
    ]
    shares = []
    for x in points:
        y = 0
        for coefficient in others:
            y = y * x + coefficient
        shares.append(((y * x + constant) % FIELD_PRIME).to_bytes(SHARE_BYTES, "big"))
    return shares


@lru_cache(maxsize=4096)
def weights(points: tuple[int, ...]) -> tuple[int, ...]:
    """Lagrange weights at zero of these x coordinates: the secret is the sum of weight * share."""
    found = []
    for x in points:
        numerator = denominator = 1
        for other in points:
            if other != x:
                numerator = numerator * other % FIELD_PRIME
                denominator = denominator * (other - x) % FIELD_PRIME
        found.append(numerator * pow(denominator, -1, FIELD_PRIME) % FIELD_PRIME)
    return tuple(found)


def combine(points: tuple[int, ...], shares: Sequence[int]) -> bytes | None:
    """Rebuild a secret; None if the polynomial's value is no 256-bit number (a share was wrong)."""
    secret = sum(weight * y for weight, y in zip(weights(points), shares, strict=True)) % FIELD_PRIME
    return secret.to_bytes(SECRET_BYTES, "big") if secret >> 256 == 0 else None


def rebuild(shares: Mapping[int, bytes], threshold: int, accept: Callable[[bytes], bool], owner: str) -> bytes:
    """Try subsets of the threshold's size until one rebuilds what was committed to (A12).

    Args:
        shares: x -> share of everybody that answered, 33 bytes; one that is no field element is left out.
        threshold: T.
        accept: Whether a candidate matches the owner's commitment.
        owner: Whose secret it is, for the error.

    Raises:
        ShareInvalid: No subset fits.
    """
    values = {x: y for x, share in sorted(shares.items()) if (y := int.from_bytes(share, "big")) < FIELD_PRIME}
    for points in islice(combinations(values, threshold), MAX_SUBSETS):
        candidate = combine(points, [values[x] for x in points])
        if candidate is not None and accept(candidate):
            return candidate
    raise ShareInvalid(
        f"expected {threshold} shares that rebuild the mask seed {owner} committed to, found none among "
        f"{len(shares)}; ask further members"
    )
