"""The member's side of a masked sum: contribute (S1), reveal (S2a, S2b). The rules are the sealed sum's.

State lives in memory alone, and so do the epoch's keys: a process that dies takes both with it, and the member sits
out until the next epoch (A8). What must survive it, roster locks and budgets, is the caller's journal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from cryptography.exceptions import InvalidTag

from protos.masked_sum import masked_sum_pb2 as pb
from protos.masked_sum import sharing
from protos.masked_sum.masking import Pair, RequestKeys, Vector, add_masks, commitment, expand, self_mask
from protos.masked_sum.request import Request
from protos.sealed_sum.bounds import Bounds, require_survivors
from protos.sealed_sum.epoch import Joined
from protos.sealed_sum.errors import (
    BoundsViolated,
    CohortRefused,
    HeaderMismatch,
    MalformedMessage,
    SeedAndShareRefused,
    ShareInvalid,
    SurvivorSetRefused,
    WrongEpoch,
)
from protos.sealed_sum.secret import MaskSeed

SEALED_SHARE_BYTES = sharing.SHARE_BYTES + 16


def require_one_opening(bounds: Bounds) -> None:
    """Refuse bounds under which two requests could be opened by disjoint honest sets, with different survivors.

    Whoever gives shares keeps the survivor set of an entity for the lock's time (C2). Every survivor's seed needs T
    shares from peers, so T - c + 1 honest members give in each opening; with 2T > n + c - 2 two such sets meet, and
    the member in both refuses the second survivor set.

    Raises:
        BoundsViolated: 2 T <= n + c - 2.
    """
    n, c, t = bounds.cohort, bounds.max_colluders, bounds.shamir_threshold
    if 2 * t <= n + c - 2:
        raise BoundsViolated(
            f"expected 2 * shamir_threshold > cohort + max_colluders - 2, found cohort={n}, max_colluders={c}, "
            f"shamir_threshold={t}; raise the threshold in the agreement's privacy terms"
        )


@dataclass(frozen=True)
class Party:
    """A member of a scoring epoch, with the keys that its requests are derived from.

    Attributes:
        joined: The checked cohort.
        member: This member's id.
        pairs: One for each peer, in the cohort's order.
        points: The peers' Shamir coordinates, in the same order.
    """

    joined: Joined = field(repr=False)
    member: str
    pairs: tuple[Pair, ...]
    points: tuple[int, ...]

    @classmethod
    def of(cls, joined: Joined) -> Party:
        """Derive the pair keys: once an epoch.

        Raises:
            BoundsViolated: The cohort's bounds do not keep a request to one survivor set.
        """
        require_one_opening(joined.bounds)
        pairs = tuple(Pair.of(joined, peer) for peer in joined.peers)
        return cls(joined, joined.member, pairs, tuple(pair.point for pair in pairs))

    def pair(self, peer: str) -> Pair:
        """What this member shares with a peer."""
        return self.pairs[self.joined.peers.index(peer)]


@dataclass(frozen=True)
class Contributed:
    """One request after S1.

    Attributes:
        request: What was contributed to.
        keys: By peer: s_ij and the key of the shares.
        survivors: The smallest survivor set answered for so far; the next must lie inside it.
        seeds_revealed_for: Peers whose pairwise seed was given; no share for them, ever.
        share_reply: The S2b answer, empty before; the survivors are frozen with it.
    """

    request: Request
    keys: RequestKeys = field(repr=False)
    survivors: tuple[str, ...]
    seeds_revealed_for: frozenset[str] = frozenset()
    share_reply: bytes = field(default=b"", repr=False)


def contribute(
    party: Party, request: Request, values: Vector, rng: Callable[[int], bytes]
) -> tuple[Contributed, bytes]:
    """S1: mask this member's vector and share the self-mask seed among the peers.

    The caller has checked that `request.k` is above every k it answered in this epoch.

    Args:
        party: This member in the epoch.
        request: What is summed; checked by the caller's guard.
        values: This member's vector modulo 2^64, shape (request.num_slots,).
        rng: Cryptographic randomness.

    Returns:
        The state for S2, and the upload.

    Raises:
        WrongEpoch: The request is of another epoch.
        CohortRefused: Its roster is not the epoch's cohort (C4).
        MalformedMessage: The vector does not have the request's length.
    """
    joined = party.joined
    if request.epoch_id != joined.epoch_id:
        raise WrongEpoch("expected a request of this key epoch, found one of another")
    if request.roster != joined.cohort:
        raise CohortRefused("expected the epoch's cohort as the request's roster, found another")
    if values.shape != (request.num_slots,):
        raise MalformedMessage(f"expected {request.num_slots} values, found {values.size}")
    h, pairs = request.digest, party.pairs
    keys = RequestKeys(pairs, h)
    seed = MaskSeed(rng(MaskSeed.LENGTH))
    masked = values + expand(self_mask(seed), values.size)
    add_masks(masked, pairs, keys)
    # Shares go to peers only: with a share of its own a member would count twice (A1).
    shares = sharing.split(seed.raw, joined.bounds.shamir_threshold, party.points, rng)
    blocks = keys.blocks
    sealed = [pair.seal_share(blocks[pair.peer], share, h) for pair, share in zip(pairs, shares, strict=True)]
    upload = pb.Upload(
        request_digest=h,
        vector=masked.astype("<u8", copy=False).tobytes(),
        seed_commitment=commitment(seed.raw, h),
        shares=b"".join(sealed),
    )
    return Contributed(request, keys, joined.cohort), upload.SerializeToString(deterministic=True)


def reveal_seeds(party: Party, state: Contributed, asked: pb.Reveal) -> tuple[Contributed, bytes]:
    """S2a: give the pairwise seeds, of this request alone, with the dropped members. Opens nothing.

    Raises:
        SeedAndShareRefused: A share of a dropped member's seed was given before (A6).
        SurvivorSetRefused: Nobody dropped, a set that grew, or S2b was answered already.
        CohortRefused, HeaderMismatch: See `_ask`.
    """
    survivors = _ask(party, state, asked)
    dropped = tuple(peer for peer in party.joined.cohort if peer not in survivors)
    if state.share_reply:
        both = frozenset(dropped) & frozenset(state.survivors)
        if both:
            raise SeedAndShareRefused(peers=both)
        raise SurvivorSetRefused("expected no seed request after the shares were given, found one; start a new sum")
    if not dropped:
        raise SurvivorSetRefused("expected dropped members in a seed request, found none; ask for shares instead")
    seeds = b"".join(state.keys[peer][0].raw for peer in dropped)
    reply = pb.SeedReply(request_digest=state.request.digest, survivors=survivors, seeds=seeds)
    now = replace(state, survivors=survivors, seeds_revealed_for=state.seeds_revealed_for | frozenset(dropped))
    return now, reply.SerializeToString(deterministic=True)


def reveal_shares(party: Party, state: Contributed, asked: pb.Reveal) -> tuple[Contributed, bytes]:
    """S2b: give this member's shares of the survivors' self-mask seeds. Once, for one U; that opens the sum.

    The caller has recorded the survivor set for the request's entities before it sends the answer (C2).

    Raises:
        SurvivorSetRefused: Another U than before, or one that grew.
        SeedAndShareRefused: A survivor's pairwise seed was given before (A6).
        ShareInvalid: A share is missing or was not made by its owner for this request and member.
        CohortRefused, HeaderMismatch: See `_ask`.
    """
    survivors = _ask(party, state, asked)
    if state.share_reply:
        if survivors != state.survivors:
            raise SurvivorSetRefused("expected the survivors of the answer already given, found others; one U a sum")
        return state, state.share_reply
    named, h, blocks = frozenset(survivors), state.request.digest, state.keys.blocks
    owners = [pair for pair in party.pairs if pair.peer in named]
    if len(asked.shares) != SEALED_SHARE_BYTES * len(owners):
        raise ShareInvalid(f"expected {len(owners)} encrypted shares, found {len(asked.shares)} bytes")
    shares, joined_shares, start = [], asked.shares, 0
    for pair in owners:
        sealed = joined_shares[start : start + SEALED_SHARE_BYTES]
        start += SEALED_SHARE_BYTES
        try:
            shares.append(pair.unseal_share(blocks[pair.peer], sealed, h))
        except InvalidTag as error:
            raise ShareInvalid(
                f"expected a share encrypted by {pair.peer} for this request and member, found one that does not "
                "authenticate; it was altered or belongs elsewhere"
            ) from error
    reply = pb.ShareReply(request_digest=h, survivors=survivors, shares=b"".join(shares))
    message = reply.SerializeToString(deterministic=True)
    return replace(state, survivors=survivors, share_reply=message), message


def signed_values(values: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> Vector:
    """Signed integers as elements modulo 2^64 (two's complement)."""
    return np.ascontiguousarray(values, dtype=np.int64).view(np.uint64)


def _ask(party: Party, state: Contributed, asked: pb.Reveal) -> tuple[str, ...]:
    """Check what the gateway says about who survived (A1, A2, A6).

    Raises:
        HeaderMismatch: The question is about another request.
        CohortRefused: Survivors outside the cohort, too few, or this member named as dropped.
        SeedAndShareRefused: A peer counts as surviving whose seed was given away.
        SurvivorSetRefused: A member counts as surviving that had dropped before.
    """
    if asked.request_digest != state.request.digest:
        raise HeaderMismatch("expected the request this member contributed to, found another")
    survivors = tuple(asked.survivors)
    named = frozenset(survivors)
    if list(survivors) != sorted(named) or not named <= frozenset(party.joined.cohort):
        raise CohortRefused("expected survivors of the cohort, sorted and without repetition, found others")
    if party.member not in named:
        raise CohortRefused(f"expected {party.member} among the survivors, found it named as dropped")
    require_survivors(survivors, party.joined.bounds)
    both = state.seeds_revealed_for & named
    if both:
        raise SeedAndShareRefused(peers=both)
    # After S2b a smaller set is not this check's business: it is refused as another U, or as seed and share.
    if not named <= frozenset(state.survivors):
        raise SurvivorSetRefused("expected the survivor set to shrink only, found a member that had dropped before")
    return survivors
