"""One-time masks modulo 2^64, and the keys of one request: two derivations a peer and none that is slow.

X25519 and HKDF-Extract run once an epoch and peer, and so do the first blocks of the HMAC that every request needs.
A request costs one HKDF-Expand block a peer (64 bytes: the pairwise mask seed and the key under which the two shares
between the peers travel) and one ChaCha20 stream a mask.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

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
_SHA512_BLOCK_BYTES = 128
_INNER, _OUTER = bytes(x ^ 0x36 for x in range(256)), bytes(x ^ 0x5C for x in range(256))
_SEED_BYTES = MaskSeed.LENGTH
_SHORT_BYTES = 4096


class PairKey(SecretBytes):
    """HKDF key of one epoch and pair of members; only ever input to HKDF-Expand."""

    LENGTH = 64

    @cached_property
    def hmac_states(self) -> tuple[hashlib._Hash, hashlib._Hash]:
        """HMAC-SHA512's inner and outer hash after the padded key (RFC 2104): as secret as the key."""
        padded = self.raw.ljust(_SHA512_BLOCK_BYTES, b"\0")
        return hashlib.sha512(padded.translate(_INNER)), hashlib.sha512(padded.translate(_OUTER))


@dataclass(frozen=True)
class Pair:
    """A peer in an epoch, with everything that does not depend on a request.

    Attributes:
        peer: Its id.
        key: The epoch's key with it.
        above: Whether the peer's id is the larger one: then the member adds the mask that the peer subtracts.
        point: The peer's Shamir coordinate.
        to_peer: Direction of a share to the peer, associated data of its encryption.
        from_peer: The same for a share of the peer.
    """

    peer: str
    key: PairKey = field(repr=False)
    above: bool
    point: int
    to_peer: bytes
    from_peer: bytes

    @classmethod
    def of(cls, joined: Joined, peer: str) -> Pair:
        """Agree on the epoch's key with a peer.

        Raises:
            WeakKey: The peer's public key has small order.
        """
        member = joined.member
        return cls(
            peer,
            pair_key(joined, peer),
            peer > member,
            joined.view.point(peer),
            f"{member}>{peer}".encode(),
            f"{peer}>{member}".encode(),
        )

    def seal_share(self, keys: bytes, share: bytes, request_digest: bytes) -> bytes:
        """Encrypt a share for the peer.

        A key carries one share in each direction of one request, so that the direction is nonce enough.

        Args:
            keys: This request's block of the pair, 64 bytes.
            share: 33 bytes.
            request_digest: Of the request, 32 bytes.
        """
        nonce = _LOW if self.above else _HIGH
        return ChaCha20Poly1305(keys[_SEED_BYTES:]).encrypt(nonce, share, request_digest + self.to_peer)

    def unseal_share(self, keys: bytes, sealed: bytes, request_digest: bytes) -> bytes:
        """Decrypt a share of the peer.

        Raises:
            cryptography.exceptions.InvalidTag: It was not made by the peer for this request and member.
        """
        nonce = _HIGH if self.above else _LOW
        return ChaCha20Poly1305(keys[_SEED_BYTES:]).decrypt(nonce, sealed, request_digest + self.from_peer)


class RequestKeys(Mapping[str, tuple[MaskSeed, AeadKey]]):
    """By peer: s_ij of one request, and the key of the two shares that i and j send each other in it.

    One block of HKDF-Expand with SHA-512 (RFC 5869, section 2.3) over the request's digest. Members that were shown
    different requests derive different seeds: their masks do not cancel and nobody learns anything (C3). A revealed
    seed (S2a) says nothing about the other half of the block. `repr` shows no key.
    """

    def __init__(self, pairs: Iterable[Pair], request_digest: bytes) -> None:
        info = b"tallystick/masked-sum/1/request" + request_digest
        block_1 = info + b"\x01"
        blocks = {}
        # One loop without calls of ours: with eleven peers this is a tenth of what a request costs a node.
        for pair in pairs:
            inner, outer = pair.key.hmac_states
            inner, outer = inner.copy(), outer.copy()
            inner.update(block_1)
            outer.update(inner.digest())
            blocks[pair.peer] = outer.digest()
        self.blocks = blocks

    def __getitem__(self, peer: str) -> tuple[MaskSeed, AeadKey]:
        block = self.blocks[peer]
        return MaskSeed(block[:_SEED_BYTES]), AeadKey(block[_SEED_BYTES:])

    def __iter__(self) -> Iterator[str]:
        return iter(self.blocks)

    def __len__(self) -> int:
        return len(self.blocks)


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
    return _keystream(seed.raw, length)


def add_pairwise(total: Vector, member: str, pairwise: Iterable[tuple[str, MaskSeed]]) -> None:
    """Add, in place, sum over j > i of PRG(s_ij) - sum over j < i of PRG(s_ij), modulo 2^64.

    Args:
        total: Changed in place, shape (n_slots,).
        member: i; ids are compared as text.
        pairwise: (j, s_ij).
    """
    for peer, seed in pairwise:
        if peer > member:
            total += _keystream(seed.raw, total.size)
        else:
            total -= _keystream(seed.raw, total.size)


def add_masks(total: Vector, pairs: Iterable[Pair], keys: RequestKeys) -> None:
    """The same for a member's own pairs and keys; it is most of what a request costs a node."""
    size, blocks, zeros = total.size, keys.blocks, _zeros(8 * total.size)
    for pair in pairs:
        cipher = ChaCha20Poly1305(blocks[pair.peer][:_SEED_BYTES])
        stream = np.frombuffer(cipher.encrypt(_LOW, zeros, None), dtype="<u8", count=size)
        if pair.above:
            total += stream
        else:
            total -= stream


def _keystream(key: bytes, length: int) -> Vector:
    stream = ChaCha20Poly1305(key).encrypt(_LOW, _zeros(8 * length), None)
    return np.frombuffer(stream, dtype="<u8", count=length)


def _zeros(count: int) -> bytes:
    return _few_zeros(count) if count <= _SHORT_BYTES else bytes(count)


@lru_cache(maxsize=64)
def _few_zeros(count: int) -> bytes:
    return bytes(count)
