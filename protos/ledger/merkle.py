"""Merkle trees as RFC 6962 section 2.1 defines them (RFC 9162 section 2.1 has the same and the algorithms used here).

A leaf is hashed as SHA-256(0x00 || entry), an inner node as SHA-256(0x01 || left || right): no entry can pose as a
node. Positions count from 0. A tree of n > 1 leaves splits at the largest power of two below n, so every tree is a
row of perfect subtrees, its `Frontier`; that is all that appending needs to remember. Proofs need the roots of
other perfect subtrees, which the caller hands out (`Subtree`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Self

from protos.ledger.errors import ProofInvalid

HASH_BYTES: Final = 32
MAX_SIZE: Final = 1 << 62
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()

Subtree = Callable[[int, int], bytes]
"""(level, position) -> root of the perfect subtree of 2**level leaves that begins at leaf position * 2**level."""


def leaf_hash(entry: bytes) -> bytes:
    """Hash of one entry, 32 bytes."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of an inner node, 32 bytes."""
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True)
class CompletedSubtree:
    """A perfect subtree that an append has completed: it never changes again."""

    level: int
    position: int
    hash: bytes


@dataclass(frozen=True)
class Frontier:
    """What appending to a tree needs: its size and the roots of its perfect subtrees, largest first.

    Raises:
        ValueError: The roots do not fit the size: one for each bit that is set in it.
    """

    size: int = 0
    peaks: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.size <= MAX_SIZE or len(self.peaks) != self.size.bit_count():
            raise ValueError(
                f"expected {self.size.bit_count()} subtrees under {self.size} leaves, found {len(self.peaks)}"
            )
        if any(len(peak) != HASH_BYTES for peak in self.peaks):
            raise ValueError(f"expected roots of {HASH_BYTES} bytes, found another length")

    @classmethod
    def from_bytes(cls, size: int, raw: bytes) -> Self:
        """Read what `to_bytes` wrote.

        Raises:
            ValueError: As the class does.
        """
        return cls(size, tuple(raw[at : at + HASH_BYTES] for at in range(0, len(raw), HASH_BYTES)))

    def to_bytes(self) -> bytes:
        """The roots, joined; the size is kept beside it."""
        return b"".join(self.peaks)

    def append(self, leaf: bytes) -> tuple[Frontier, tuple[CompletedSubtree, ...]]:
        """Add one leaf hash.

        Returns:
            The frontier after it, and the inner subtrees that the leaf has completed, smallest first.
        """
        peaks, level, root = list(self.peaks), 0, leaf
        completed = []
        while self.size >> level & 1:
            root = node_hash(peaks.pop(), root)
            level += 1
            completed.append(CompletedSubtree(level, self.size >> level, root))
        return Frontier(self.size + 1, (*peaks, root)), tuple(completed)

    def root(self) -> bytes:
        """The tree's root."""
        return _fold(self.peaks)


def _fold(peaks: Sequence[bytes]) -> bytes:
    if not peaks:
        return EMPTY_ROOT
    root = peaks[-1]
    for peak in reversed(peaks[:-1]):
        root = node_hash(peak, root)
    return root


def _split(begin: int, end: int) -> int:
    """Where a tree over leaves [begin, end), at least two of them, divides."""
    return begin + (1 << (end - begin - 1).bit_length() - 1)


def _perfect_subtrees(begin: int, end: int) -> Iterator[tuple[int, int]]:
    """(level, position) of the perfect subtrees of [begin, end); `begin` is a multiple of each one's size."""
    while begin < end:
        level = (end - begin).bit_length() - 1
        yield level, begin >> level
        begin += 1 << level


def _root_of(begin: int, end: int, subtree: Subtree) -> bytes:
    return _fold([subtree(level, position) for level, position in _perfect_subtrees(begin, end)])


def tree_root(size: int, subtree: Subtree) -> bytes:
    """Root of the first `size` leaves."""
    return _root_of(0, size, subtree)


def subtree_of(leaves: Sequence[bytes]) -> bytes:
    """Root of a perfect subtree from the hashes on its lowest row.

    Raises:
        ValueError: Their number is no power of two.
    """
    if len(leaves).bit_count() != 1:
        raise ValueError(f"expected a power of two of hashes, found {len(leaves)}")
    row = list(leaves)
    while len(row) > 1:
        row = [node_hash(row[at], row[at + 1]) for at in range(0, len(row), 2)]
    return row[0]


def inclusion_proof(index: int, size: int, subtree: Subtree) -> tuple[bytes, ...]:
    """The path from leaf `index` to the root of the first `size` leaves (RFC 9162 section 2.1.3.1), lowest first.

    Raises:
        ProofInvalid: There is no such leaf in a tree of that size.
    """
    if not 0 <= index < size <= MAX_SIZE:
        raise ProofInvalid(f"expected an entry below {size}, found {index}; ask for one that the log has.")
    begin, end, siblings = 0, size, []
    while end - begin > 1:
        middle = _split(begin, end)
        if index < middle:
            siblings.append((middle, end))
            end = middle
        else:
            siblings.append((begin, middle))
            begin = middle
    return tuple(_root_of(*sibling, subtree) for sibling in reversed(siblings))


def consistency_proof(old_size: int, size: int, subtree: Subtree) -> tuple[bytes, ...]:
    """Proof that the first `old_size` leaves are a prefix of the first `size` (RFC 9162 section 2.1.4.1).

    Empty where nothing needs a proof: from an empty tree, and between equal sizes.

    Raises:
        ProofInvalid: The sizes are not in order.
    """
    if not 0 <= old_size <= size <= MAX_SIZE:
        raise ProofInvalid(f"expected an old size of at most {size}, found {old_size}; ask the other way round.")
    if old_size == 0:
        return ()
    begin, end, known, ranges = 0, size, True, []
    while end != old_size:
        middle = _split(begin, end)
        if old_size <= middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((begin, middle))
            begin, known = middle, False
    if not known:
        ranges.append((begin, end))
    return tuple(_root_of(*one, subtree) for one in reversed(ranges))


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Check that `leaf` (a leaf hash) is number `index` of the `size` leaves under `root` (RFC 9162 section 2.1.3.2).

    Raises:
        ProofInvalid: It is not, or the proof does not show it.
    """
    _check_hashes(leaf, root, *proof)
    if not 0 <= index < size <= MAX_SIZE:
        raise ProofInvalid(f"expected an entry below {size}, found {index}; the proof is not of this log.")
    at, last, found = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise ProofInvalid("expected a shorter inclusion proof for a log of this size, found more hashes.")
        if at & 1 or at == last:
            found = node_hash(sibling, found)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            found = node_hash(found, sibling)
        at, last = at >> 1, last >> 1
    if last != 0 or found != root:
        raise ProofInvalid(
            f"expected entry {index} under the checkpoint's root, found a proof that leads elsewhere;"
            " the entry, the proof or the checkpoint was altered."
        )


def verify_consistency(old_size: int, old_root: bytes, size: int, root: bytes, proof: Sequence[bytes]) -> None:
    """Check that a tree of `size` leaves continues the one of `old_size` (RFC 9162 section 2.1.4.2).

    Raises:
        ProofInvalid: It does not, or the proof does not show it.
    """
    _check_hashes(old_root, root, *proof)
    if not 0 <= old_size <= size <= MAX_SIZE:
        raise ProofInvalid(f"expected a log of at least {old_size} entries, found {size}; a log never shrinks.")
    if old_size in {0, size}:
        expected = EMPTY_ROOT if old_size == 0 else root
        if proof or old_root != expected:
            raise ProofInvalid("expected the same root for the same size, found another; the log was rewritten.")
        return
    found_old, found_new = _roots_from(old_size, size, [old_root] * (old_size.bit_count() == 1) + list(proof))
    if found_old != old_root or found_new != root:
        raise ProofInvalid(
            f"expected {size} entries that begin with the {old_size} seen before, found no proof of it;"
            " the log was rewritten, or the proof altered."
        )


def _roots_from(old_size: int, size: int, path: Sequence[bytes]) -> tuple[bytes, bytes]:
    """The two roots that a consistency path leads to, 0 < old_size < size."""
    if not path:
        raise ProofInvalid("expected a consistency proof, found an empty one; the log must prove what it appended.")
    at, last = old_size - 1, size - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    old = new = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise ProofInvalid("expected a shorter consistency proof between these sizes, found more hashes.")
        if at & 1 or at == last:
            old, new = node_hash(sibling, old), node_hash(sibling, new)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            new = node_hash(new, sibling)
        at, last = at >> 1, last >> 1
    if last != 0:
        raise ProofInvalid("expected a longer consistency proof between these sizes, found fewer hashes.")
    return old, new


def _check_hashes(*hashes: bytes) -> None:
    if any(len(one) != HASH_BYTES for one in hashes):
        raise ProofInvalid(f"expected hashes of {HASH_BYTES} bytes, found another length; the proof is damaged.")
