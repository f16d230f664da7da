"""This node's part in opening a key epoch (E1 and E2), as steps from one stored state to the next."""

from __future__ import annotations

from collections.abc import Callable

from models.features import TrainingData
from models.weight_bucket import weight_log2_for_rows
from nodes.membership import Membership
from nodes.store import RunRecord
from policies.errors import UserError
from policies.proposal import RunProposal
from protos.sealed_sum.dealing import Keyed, accept_deal, deal, dealer_order, ready
from protos.sealed_sum.epoch import Announced, Joined, announce, join


class CohortChanged(UserError):
    """The coordinator showed this node two cohorts for one run."""


class KeyEpoch:
    """The key epoch of one run; nothing is kept here, every step reads and returns stored states."""

    def __init__(self, membership: Membership, proposal: RunProposal) -> None:
        self._membership = membership
        self._proposal = proposal

    def announce(self, data: TrainingData | None, rng: Callable[[int], bytes]) -> tuple[bytes, bytes]:
        """E1: fresh keys and the public weight of this member's training rows, a power of two (rule A7 ii).

        Args:
            data: The rows; None in a run whose members are not weighted by rows.
            rng: Cryptographic randomness.

        Returns:
            State to store and message to send.
        """
        weight = weight_log2_for_rows(int((~data.holdout).sum())) if data is not None else 0
        state, message = announce(
            self._membership.identity,
            self._membership.member,
            self._membership.agreement_hash,
            self._proposal.run_id,
            weight,
            rng,
        )
        return state.to_bytes(), message

    def join(self, record: RunRecord, announcements: tuple[bytes, ...]) -> bytes:
        """Check the announced cohort against the agreement, the proposal and the bounds."""
        agreement = self._membership.agreement
        keys = {member: agreement.member(member).identity_key_bytes for member in self._proposal.cohort}
        state = Announced.from_bytes(record.state, self._membership.identity)
        return join(state, announcements, keys, agreement.bounds(len(self._proposal.cohort))).to_bytes()

    def require_same_cohort(self, record: RunRecord, announcements: tuple[bytes, ...]) -> None:
        """A second list of announcements must be the first one: another epoch would need other keys.

        Raises:
            CohortChanged: It is not.
        """
        if record.phase == "ready":
            return
        if sorted(self._joined(record).view.messages) != sorted(announcements):
            raise CohortChanged(
                f"Run {record.run_id}: expected the announcements that this node has accepted, found others; "
                "the coordinator must propose a new run."
            )

    def is_dealer(self, record: RunRecord, attempt: int) -> bool:
        """Whether it is this node's turn to deal (rule A11)."""
        if record.phase == "ready":
            return False
        joined = self._joined(record)
        order = dealer_order(joined.epoch_id, joined.cohort)
        return attempt < len(order) and order[attempt] == self._membership.member

    def deal(
        self, record: RunRecord, attempt: int, rng: Callable[[int], bytes]
    ) -> tuple[bytes, dict[str, bytes], bytes]:
        """E2 as the dealer: state, one deal for each other member, own confirmation."""
        dealt = deal(self._joined(record), rng, attempt)
        return dealt.keyed.to_bytes(), dict(dealt.messages), dealt.confirmation

    def accept_deal(self, record: RunRecord, message: bytes, attempt: int) -> tuple[bytes, bytes]:
        """E2 as everybody else: state and confirmation."""
        joined = self._joined(record)
        order = dealer_order(joined.epoch_id, joined.cohort)
        if attempt >= len(order):
            raise CohortChanged(
                f"Run {record.run_id}: all {len(order)} members had their turn to deal; propose a new run."
            )
        keyed, confirmation = accept_deal(joined, message, order[attempt], attempt)
        return keyed.to_bytes(), confirmation

    def ready(self, record: RunRecord, confirmations: tuple[bytes, ...]) -> bytes:
        """Check that every member confirmed the same keys."""
        return ready(Keyed.from_bytes(record.state, self._membership.identity), confirmations).to_bytes()

    def _joined(self, record: RunRecord) -> Joined:
        return Joined.from_bytes(record.joined, self._membership.identity)
