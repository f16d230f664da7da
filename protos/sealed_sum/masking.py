"""One-time masks modulo t: what a member uploads is uniform to everybody who lacks one of its seeds."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from protos.sealed_sum.canonical import encode
from protos.sealed_sum.keys import agree, derive
from protos.sealed_sum.layout import Slots
from protos.sealed_sum.parameters import PLAIN_MODULUS
from protos.sealed_sum.secret import AgreementSecret, MaskSeed

_WORD_BITS = 52
_LOW_BITS = np.uint64((1 << _WORD_BITS) - 1)
_T = np.uint64(PLAIN_MODULUS)


def expand(seed: MaskSeed, length: int) -> Slots:
    """Expand a seed to `length` words uniform over [0, t).

    ChaCha20 keystream (RFC 8439, zero nonce, counter from zero), 8 bytes little endian a word, low 52 bits; words
    >= t are rejected, so there is no bias and both ends agree on every word. The nonce is fixed because a seed
    belongs to one vector of one sum: never expand a seed for a second purpose.

    Args:
        seed: 32 bytes.
        length: Number of words, >= 0.

    Returns:
        uint64 of shape (length,).
    """
    stream = Cipher(algorithms.ChaCha20(seed.raw, bytes(16)), mode=None).encryptor()
    words = np.empty(0, dtype=np.uint64)
    while words.size < length:
        # One word in 2 * 10^10 is rejected, so a second block is rare.
        block = np.frombuffer(stream.update(bytes(8 * (length - words.size))), dtype="<u8") & _LOW_BITS
        if block.max() >= _T:
            block = block[block < _T]
        words = np.concatenate([words, block]) if words.size else block
    return words


def pairwise_seed(
    secret: AgreementSecret,
    peer_public_key: bytes,
    *,
    member: str,
    peer: str,
    agreement_hash: bytes,
    epoch_id: bytes,
    k: int,
    header_digest: bytes,
) -> MaskSeed:
    """s_ij of sum k: equal at both ends exactly when both mean the same sum (A3).

    `header_digest` binds purpose, layout, model and history: members that were shown different ones derive
    different seeds, their masks do not cancel, and nobody learns anything.

    Raises:
        WeakKey: The peer's public key has small order.
    """
    first, second = sorted((member, peer))
    info = encode("sum/pairwise-seed", epoch_id, k, header_digest, first, second)
    return derive(agree(secret, peer_public_key, peer), MaskSeed, salt=agreement_hash, info=info)


def mask_total(
    member: str, self_mask_seed: MaskSeed | None, pairwise: Iterable[tuple[str, MaskSeed]], length: int
) -> Slots:
    """PRG(b_i) + sum over j > i of PRG(s_ij) - sum over j < i of PRG(s_ij), modulo t.

    Args:
        member: i; ids are compared as text.
        self_mask_seed: b_i, or None for the pairwise part alone (dropped members' dangling masks).
        pairwise: (j, s_ij).
        length: Slots, tags included: a tag slot without a mask would show a single member's tag.

    Returns:
        uint64 of shape (length,), entries in [0, t).
    """
    total = np.zeros(length, dtype=np.uint64)
    if self_mask_seed is not None:
        total += expand(self_mask_seed, length)
    for peer, seed in pairwise:
        mask = expand(seed, length)
        total += mask if peer > member else _T - mask
    total %= _T  # at most 4,000 masks of 52 bits fit before this
    return total
