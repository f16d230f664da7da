"""Roster slot and linear tags: what makes a decryption something other than an oracle (A4).

Every ciphertext ends with a roster slot and two linear tags of its data slots, keyed by K_e. All three are linear,
so the tags of a sum are the sum of the tags; without K_e nobody can make a ciphertext whose tags fit, except with
probability 2^-52: not by substitution, offsets, scaling, subset sums, other sum numbers or swapped ciphertexts.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from protos.sealed_sum.canonical import encode
from protos.sealed_sum.keys import derive
from protos.sealed_sum.layout import Slots
from protos.sealed_sum.masking import expand
from protos.sealed_sum.parameters import DATA_SLOTS, PLAIN_MODULUS, POLY_MODULUS_DEGREE
from protos.sealed_sum.secret import MaskSeed, TagKey

ROSTER_SLOT = DATA_SLOTS
_TAG_BITS = 26
_TAG_MASK = np.uint64((1 << _TAG_BITS) - 1)
_TAGS = 2


def roster_values(key: TagKey, epoch_id: bytes, header_digest: bytes, member: str, count: int) -> Slots:
    """Rho of one member for each of `count` ciphertexts of a sum, shape (count,)."""
    seed = derive(key, MaskSeed, salt=epoch_id, info=encode("tag/roster", header_digest, member))
    return expand(seed, count)


def append(
    key: TagKey, epoch_id: bytes, header_digest: bytes, member: str, data: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    """Add a member's roster slot and the linear tags to its data.

    Args:
        key: K_e.
        epoch_id: The epoch.
        header_digest: h_k, which includes k.
        member: Whose contribution it is.
        data: uint64 of shape (count, DATA_SLOTS), entries in [0, t).

    Returns:
        uint64 of shape (count, POLY_MODULUS_DEGREE).
    """
    count = len(data)
    slots = np.empty((count, POLY_MODULUS_DEGREE), dtype=np.uint64)
    slots[:, :DATA_SLOTS] = data
    slots[:, ROSTER_SLOT] = roster_values(key, epoch_id, header_digest, member, count)
    slots[:, ROSTER_SLOT + 1 :] = _linear_tags(key, epoch_id, header_digest, data)
    return slots


def fit(
    key: TagKey, epoch_id: bytes, header_digest: bytes, survivors: Collection[str], slots: NDArray[np.uint64]
) -> bool:
    """Whether decrypted slots are the sum of exactly the survivors' contributions to this sum.

    Args:
        key: K_e.
        epoch_id: The epoch.
        header_digest: h_k.
        survivors: U.
        slots: Decrypted, uint64 of shape (count, POLY_MODULUS_DEGREE).
    """
    expected = np.zeros(len(slots), dtype=np.uint64)
    for member in survivors:
        expected += roster_values(key, epoch_id, header_digest, member, len(slots))
    roster_fits = bool(np.all(slots[:, ROSTER_SLOT] == expected % np.uint64(PLAIN_MODULUS)))
    tags = _linear_tags(key, epoch_id, header_digest, slots[:, :DATA_SLOTS])
    tags_fit = bool(np.all(slots[:, ROSTER_SLOT + 1 :] == tags))
    return roster_fits and tags_fit


def _linear_tags(key: TagKey, epoch_id: bytes, header_digest: bytes, data: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """sum_j r_j x_j mod t for two keyed vectors r a ciphertext, shape (count, 2).

    r_j has 26 bits and x is cut into halves of 26 bits, so a dot product of 4,093 terms stays below 2^64.
    """
    count = len(data)
    seed = derive(key, MaskSeed, salt=epoch_id, info=encode("tag/linear", header_digest))
    # The two vectors of a ciphertext are the halves of one run of words: words are 52 bits, tags use 26 + 26.
    words = expand(seed, count * DATA_SLOTS).reshape(count, DATA_SLOTS)
    low, high = data & _TAG_MASK, data >> np.uint64(_TAG_BITS)
    tags = np.empty((count, _TAGS), dtype=np.uint64)
    for tag, r in enumerate((words & _TAG_MASK, words >> np.uint64(_TAG_BITS))):
        lows, highs = _dots(r, low), _dots(r, high)
        tags[:, tag] = [(a + (b << _TAG_BITS)) % PLAIN_MODULUS for a, b in zip(lows, highs, strict=True)]
    return tags


def _dots(left: NDArray[np.uint64], right: NDArray[np.uint64]) -> list[int]:
    """Row-wise dot products as Python integers."""
    return [int(x) for x in np.einsum("ij,ij->i", left, right)]
