"""One-time masks modulo 2^64, and the keys of one request: two derivations a peer and none that is slow.

X25519 and HKDF-Extract run once an epoch and peer. A request costs one HKDF-Expand block a peer (64 bytes: the
pairwise mask seed and the key under which the two shares between the peers travel) and one ChaCha20 stream a mask.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable

import numpy as np
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from protos.sealed_sum.canonical import encode
from protos.sealed_sum.epoch import Joined
from protos.sealed_sum.keys import agree
from protos.sealed_sum.secret import AeadKey, MaskSeed, SecretBytes

Vector = NDArray[np.uint64]
_LOW, _HIGH = bytes(12), bytes(11) + b"\x01"


class PairKey(SecretBytes):
    """HKDF key of one epoch and pair of members; only ever input to HKDF-Expand."""

    LENGTH = 64


def pair_key(joined: Joined, peer: str) -> PairKey:
    """The epoch's key with a peer: HKDF-SHA512 of X25519, bound to agreement and epoch.

    Raises:
        WeakKey: The peer's public key has small order.
    """
    announced = joined.announced
    shared = agree(announced.masking_secret, joined.view.announcements[peer].masking_public_key, peer)
    info = encode("masked-sum/pair", joined.epoch_id, *sorted((joined.member, peer)))
    hkdf = HKDF(algorithm=SHA512(), length=PairKey.LENGTH, salt=announced.agreement_hash, info=info)
    return PairKey(hkdf.derive(shared.raw))


def request_keys(key: PairKey, request_digest: bytes) -> tuple[MaskSeed, AeadKey]:
    """s_ij of one request, and the key of the two shares that i and j send each other in it.

    HKDF-Expand (RFC 5869, section 2.3) with SHA-512, one block. Members that were shown different requests derive
    different seeds: their masks do not cancel and nobody learns anything (C3). A revealed seed (S2a) says nothing
    about the other half of the block.
    """
    block = hmac.digest(key.raw, b"tallystick/masked-sum/1/request" + request_digest + b"\x01", "sha512")
    return MaskSeed(block[:32]), AeadKey(block[32:])


def share_nonce(sender: str, recipient: str) -> bytes:
    """A key carries one share in each direction of one request, so that the direction is nonce enough."""
    return _LOW if sender < recipient else _HIGH


def seal_share(key: AeadKey, share: bytes, request_digest: bytes, sender: str, recipient: str) -> bytes:
    """Encrypt a share for one peer; the key is of one request, so each (key, nonce) is used once."""
    associated = request_digest + sender.encode() + b">" + recipient.encode()
    return ChaCha20Poly1305(key.raw).encrypt(share_nonce(sender, recipient), share, associated)


def unseal_share(key: AeadKey, sealed: bytes, request_digest: bytes, sender: str, recipient: str) -> bytes:
    """Decrypt a peer's share.

    Raises:
        cryptography.exceptions.InvalidTag: It was not made by `sender` for this request and recipient.
    """
    associated = request_digest + sender.encode() + b">" + recipient.encode()
    return ChaCha20Poly1305(key.raw).decrypt(share_nonce(sender, recipient), sealed, associated)


def self_mask(seed: MaskSeed) -> MaskSeed:
    """Seed of the self mask's stream; `commitment` is another output of the same secret."""
    return MaskSeed(hmac.digest(seed.raw, b"tallystick/masked-sum/1/self-mask", "sha256"))


def commitment(seed: bytes, request_digest: bytes) -> bytes:
    """What the gateway checks a rebuilt b_i against, 32 bytes (A12).

    A pseudo-random function keyed by b_i itself: b_i has 256 bits of entropy, so no salt is needed.
    """
    return hmac.digest(seed, b"tallystick/masked-sum/1/commitment" + request_digest, "sha256")


def expand(seed: MaskSeed, length: int) -> Vector:
    """`length` words uniform modulo 2^64: ChaCha20 keystream (RFC 8439, zero nonce, counter from one).

    Taken as the encryption of zeros by ChaCha20-Poly1305 without its tag: the bare cipher's keystream, for a
    fraction of the library's overhead on a short vector. The nonce is fixed because a seed belongs to one vector of
    one request: never expand it for another purpose.
    """
    stream = ChaCha20Poly1305(seed.raw).encrypt(_LOW, bytes(8 * length), None)
    return np.frombuffer(stream, dtype="<u8", count=length)


def add_pairwise(total: Vector, member: str, pairwise: Iterable[tuple[str, MaskSeed]]) -> None:
    """Add, in place, sum over j > i of PRG(s_ij) - sum over j < i of PRG(s_ij), modulo 2^64.

    Args:
        total: Changed in place, shape (n_slots,).
        member: i; ids are compared as text.
        pairwise: (j, s_ij).
    """
    for peer, seed in pairwise:
        if peer > member:
            total += expand(seed, total.size)
        else:
            total -= expand(seed, total.size)
