"""What a node must still know after a crash: one small state, on its disk before the message leaves (E4).

It makes three promises hold for the whole epoch: a sum number is used once (A8), for one peer a seed or a share is
given and never both (A6), and one input is opened for one survivor set (A7).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from protos.sealed_sum import sealed_sum_pb2 as pb
from protos.sealed_sum.bounds import require_survivors
from protos.sealed_sum.dealing import Ready
from protos.sealed_sum.errors import (
    CohortRefused,
    EpochEnded,
    HeaderMismatch,
    SeedAndShareRefused,
    StaleSum,
    SurvivorSetRefused,
    WrongEpoch,
)
from protos.sealed_sum.header import SumHeader
from protos.sealed_sum.wire import parse

NEVER = -1


@dataclass(frozen=True)
class CurrentSum:
    """The sum this node contributed to last.

    Attributes:
        header: Its header.
        upload_digest: SHA-256 of the upload, to know it again.
        survivors: The smallest survivor set answered for so far; the next must lie inside it.
        seeds_revealed_for: Peers whose pairwise seed was given away; no share for them, ever.
        share_reply: The S2b answer, empty before; the survivors are frozen with it.
    """

    header: SumHeader
    upload_digest: bytes
    survivors: tuple[str, ...]
    seeds_revealed_for: frozenset[str] = frozenset()
    share_reply: bytes = b""


@dataclass(frozen=True)
class EpochMemory:
    """A node's durable memory of one epoch.

    Attributes:
        epoch_id: The epoch.
        allow_roster_change: The agreement's flag (A7 iii): training steps may go on with a smaller roster.
        last_k: Highest sum number used, -1 before any.
        current: The sum contributed to last.
        openings: Input class -> the one survivor set it may be opened for.
        step_roster: Survivors of the first opened training step; frozen unless the agreement allows changes.
        opened_k: Highest sum number opened, -1 before any.
        opened_digest: SHA-256 of the sealed sum opened under `opened_k`.
        ended: Whether an opening failed; nothing is answered any more.
    """

    epoch_id: bytes
    allow_roster_change: bool = False
    last_k: int = NEVER
    current: CurrentSum | None = None
    openings: Mapping[bytes, tuple[str, ...]] = field(default_factory=dict)
    step_roster: tuple[str, ...] = ()
    opened_k: int = NEVER
    opened_digest: bytes = b""
    ended: bool = False

    def to_bytes(self) -> bytes:
        """For the node's own disk."""
        stored = pb.StoredMemory(
            epoch_id=self.epoch_id,
            allow_roster_change=self.allow_roster_change,
            last_k=self.last_k,
            openings=[
                pb.StoredOpening(class_key=key, survivors=survivors) for key, survivors in sorted(self.openings.items())
            ],
            step_roster=self.step_roster,
            opened_k=self.opened_k,
            opened_digest=self.opened_digest,
            ended=self.ended,
        )
        if self.current is not None:
            stored.current.CopyFrom(
                pb.StoredSum(
                    header=self.current.header.stored(),
                    upload_digest=self.current.upload_digest,
                    survivors=self.current.survivors,
                    seeds_revealed_for=sorted(self.current.seeds_revealed_for),
                    share_reply=self.current.share_reply,
                )
            )
        return stored.SerializeToString(deterministic=True)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Load what `to_bytes` stored."""
        stored = parse(pb.StoredMemory, data, len(data))
        current = None
        if stored.HasField("current"):
            current = CurrentSum(
                SumHeader.from_stored(stored.current.header),
                stored.current.upload_digest,
                tuple(stored.current.survivors),
                frozenset(stored.current.seeds_revealed_for),
                stored.current.share_reply,
            )
        return cls(
            stored.epoch_id,
            stored.allow_roster_change,
            stored.last_k,
            current,
            {opening.class_key: tuple(opening.survivors) for opening in stored.openings},
            tuple(stored.step_roster),
            stored.opened_k,
            stored.opened_digest,
            stored.ended,
        )

    def require_open(self, header: SumHeader) -> None:
        """Refuse anything in an ended epoch or about another one."""
        if self.ended:
            raise EpochEnded
        if header.epoch_id != self.epoch_id:
            raise WrongEpoch("expected a sum of this key epoch, found one of another")

    def begin(self, header: SumHeader, upload_digest: bytes, cohort: tuple[str, ...]) -> EpochMemory:
        """Note that the sum number is used.

        Raises:
            StaleSum: It, or a higher one, was used before.
        """
        self.require_fresh(header)
        return replace(self, last_k=header.k, current=CurrentSum(header, upload_digest, cohort))

    def require_fresh(self, header: SumHeader) -> None:
        """Refuse a sum number that was used before (A8)."""
        self.require_open(header)
        if header.k <= self.last_k:
            raise StaleSum(expected=f"above {self.last_k}", got=header.k)

    def ask(self, state: Ready, header: SumHeader, survivors: Collection[str], dropped: Collection[str]) -> CurrentSum:
        """Check what the coordinator says about who survived, before answering S2a or S2b.

        Raises:
            StaleSum: The sum is not the one contributed to last.
            HeaderMismatch: The sum has that number but another header.
            CohortRefused: Survivors and dropped are not the cohort, too few survive, or this member is dropped.
            SurvivorSetRefused: A member counts as surviving that was counted as dropped before.
            SeedAndShareRefused: A peer counts as surviving whose seed was given away.
        """
        self.require_open(header)
        current = self.current
        if current is None or header.k != current.header.k:
            raise StaleSum(expected="this node contributed to last", got=header.k)
        if header.digest() != current.header.digest():
            raise HeaderMismatch(f"expected the header this node contributed to in sum {header.k}, found another")
        if sorted([*survivors, *dropped]) != list(state.cohort):
            raise CohortRefused("expected survivors and dropped members to make up the cohort, found other sets")
        if state.member not in survivors:
            raise CohortRefused(f"expected {state.member} among the survivors, found it named as dropped")
        require_survivors(survivors, state.bounds)
        both = current.seeds_revealed_for & frozenset(survivors)
        if both:
            raise SeedAndShareRefused(peers=both)
        if not set(survivors) <= set(current.survivors):
            raise SurvivorSetRefused("expected the survivor set to shrink only, found a member that had dropped before")
        return current

    def require_one_roster(self, header: SumHeader, survivors: Collection[str]) -> None:
        """Refuse to open one input for two survivor sets: their difference is a member (A7).

        Raises:
            SurvivorSetRefused: The input, or for training steps the run, was opened for another set.
        """
        roster = tuple(sorted(survivors))
        if self.openings.get(header.class_key(), roster) != roster:
            raise SurvivorSetRefused(
                f"expected the survivors for whom this {header.input_class} input was opened before, found others; "
                "the difference of the two sums would show a member"
            )
        frozen = header.input_class == "step" and bool(self.step_roster) and not self.allow_roster_change
        if frozen and self.step_roster != roster:
            raise SurvivorSetRefused(
                "expected the roster of the first training step, found another; "
                "end the run, or agree on allow_roster_change"
            )

    def record_roster(self, header: SumHeader, survivors: Collection[str]) -> EpochMemory:
        """Remember for whom an input is opened, after `require_one_roster`."""
        roster = tuple(sorted(survivors))
        step_roster = roster if header.input_class == "step" else self.step_roster
        return replace(self, openings={**self.openings, header.class_key(): roster}, step_roster=step_roster)
