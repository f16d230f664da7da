"""A node's side of a run: every message of the coordinator has one handler here.

Handlers are idempotent: a message that is sent again gets the answer that was given, byte for byte where the
protocol asks for it (rule A8). What an answer commits this member to is on disk before the answer leaves. A
message from the coordinator is trusted for nothing but delivery: signatures of members, the agreement's hash, the
owner's policy and the sealed sum's own rules decide.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol, TypeVar

from google.protobuf.message import DecodeError, Message

from models.features import TrainingData
from nodes.alignment import Alignment, EntityProvider
from nodes.key_epoch import KeyEpoch
from nodes.ledger_witness import LedgerWitness
from nodes.membership import Membership
from nodes.store import NodeStore, RunRecord
from nodes.vertical import VerticalParticipation, VerticalSide
from policies.errors import UserError
from policies.guard import check_proposal, check_vertical
from policies.proposal import (
    ProposalRefused,
    RunProposal,
    sign_as_cosigner,
    verify_cosigner,
    verify_end,
    verify_operator,
)
from protos.runs.v1 import alignment_pb2, runs_pb2, vertical_pb2
from protos.sealed_sum.errors import SealedSumError

if TYPE_CHECKING:
    from nodes.participation import Participation

log = logging.getLogger(__name__)
M = TypeVar("M", bound=Message)

PROTOCOL_VERSION = 1
MAX_BODY_BYTES = 1 << 30


class MessageRefused(UserError):
    """A message that is malformed, out of order, or about a run that this node does not take part in."""


class DataProvider(Protocol):
    """Gives this member's rows for a task, checked against the agreement."""

    def __call__(self, task: str) -> TrainingData:
        """The rows; the same ones for the whole run."""
        ...


class NodeRuntime:
    """Answers the coordinator's messages for one member.

    Args:
        membership: Identity, agreement and policy.
        data: The member's rows.
        store: Durable state.
        rng: Cryptographic randomness, `os.urandom` outside of tests.
        now: Wall clock as ISO 8601 text, for the journal.
        entities: The consented entities of this member's rows; None at a node that aligns with nobody.
        vertical: This member's rows in vertical runs, and what keeps their towers; None where it takes part in none.
        witness: Co-signs the ledger's checkpoints, where the node does.
    """

    def __init__(
        self,
        membership: Membership,
        data: DataProvider,
        store: NodeStore,
        *,
        rng: Callable[[int], bytes],
        now: Callable[[], str],
        entities: EntityProvider | None = None,
        vertical: VerticalSide | None = None,
        witness: LedgerWitness | None = None,
    ) -> None:
        self._entities = entities
        self._alignments: dict[str, Alignment] = {}
        self._vertical = vertical
        self._verticals: dict[str, VerticalParticipation] = {}
        self._membership = membership
        self._data = data
        self._store = store
        self._rng = rng
        self._now = now
        self._lock = threading.Lock()
        self._participations: dict[str, Participation] = {}
        self._handlers: Mapping[str, Callable[[bytes], Message]] = {
            "status": self._status,
            "cosign": self._cosign,
            "join": self._join,
            "cohort": self._cohort,
            "deal": self._deal,
            "contribute": self._contribute,
            "align": self._align,
            "seeds": self._seeds,
            "shares": self._shares,
            "artefact": self._artefact,
            "vertical": self._train_vertically,
            "end": self._end,
            **(witness.handlers if witness is not None else {}),
        }

    def handle(self, action: str, body: bytes) -> bytes:
        """Answer one message.

        Raises:
            UserError: This node refuses, in one sentence.
            SealedSumError: The sealed sum's rules refuse.
        """
        handler = self._handlers.get(action)
        if handler is None:
            raise MessageRefused(
                f"Expected one of {', '.join(sorted(self._handlers))}, found action {action[:40]!r}; "
                "coordinator and node must run the same release."
            )
        if len(body) > MAX_BODY_BYTES:
            raise MessageRefused(f"A message has at most {MAX_BODY_BYTES} bytes, this one has {len(body)}.")
        with self._lock:
            try:
                return handler(body).SerializeToString()
            except (UserError, SealedSumError) as refusal:
                log.warning("refused %s: %s", action, refusal)
                raise
            except BaseException:
                # A write that failed half way may have left memory ahead of the disk; the disk is what counts.
                self._participations.clear()
                raise

    # -- before the run ---------------------------------------------------------------------------------

    def _status(self, body: bytes) -> Message:
        del body
        return runs_pb2.StatusReply(
            member=self._membership.member,
            agreement_hash=self._membership.agreement_hash,
            protocol_version=PROTOCOL_VERSION,
        )

    def _cosign(self, body: bytes) -> Message:
        message = _parse(runs_pb2.SignedProposal(), body)
        proposal = self._checked(message)
        if not self._membership.policy.auto_cosign:
            raise ProposalRefused(
                f"{self._membership.member} does not co-sign runs by itself (auto_cosign in its policy); "
                "ask its owner, or another label holder."
            )
        if self._membership.member not in self._label_holders(proposal):
            raise ProposalRefused(
                f"{self._membership.member} holds no label of task {proposal.task!r}; ask one that does."
            )
        self._journal(proposal.run_id, "cosigned", task=proposal.task, purpose=proposal.purpose)
        return runs_pb2.CosignReply(
            cosigner=self._membership.member,
            cosignature=sign_as_cosigner(message.proposal, self._membership.identity.private),
        )

    def _join(self, body: bytes) -> Message:
        message = _parse(runs_pb2.SignedProposal(), body)
        proposal = self._checked(message)
        holders = self._label_holders(proposal)
        if message.cosigner not in holders:
            raise ProposalRefused(
                f"Expected the co-signature of a label holder ({', '.join(holders)}), found {message.cosigner[:31]!r}; "
                "ask one of them to co-sign the run."
            )
        cosigner = self._membership.agreement.member(message.cosigner)
        verify_cosigner(message.proposal, message.cosignature, cosigner.identity_key_bytes, cosigner.id)
        known = self._store.run(proposal.run_id)
        if known is not None:
            if known.proposal != message.proposal:
                raise ProposalRefused(f"Run {proposal.run_id} was proposed before with other terms; propose a new run.")
            self._refuse_ended(known)
            return runs_pb2.JoinReply(announcement=known.announcement)
        epoch = KeyEpoch(self._membership, proposal)
        rows = None if proposal.across_roles else self._data(proposal.task)
        state, announcement = epoch.announce(rows, self._rng)
        self._store.add_run(proposal.run_id, message.proposal, state, announcement)
        self._journal(proposal.run_id, "joined", task=proposal.task, cohort=list(proposal.cohort))
        return runs_pb2.JoinReply(announcement=announcement)

    def _checked(self, message: runs_pb2.SignedProposal) -> RunProposal:
        agreement = self._membership.agreement
        verify_operator(message.proposal, message.operator_signature, agreement.coordinator.identity_key_bytes)
        proposal = RunProposal.from_bytes(message.proposal)
        if proposal.agreement_hash != self._membership.agreement_hash.hex():
            raise ProposalRefused(
                f"Expected a run under agreement {self._membership.agreement_hash.hex()[:16]}…, found one under "
                f"{proposal.agreement_hash[:16]}…; all parties must hold the same signed agreement."
            )
        for task in proposal.tasks:
            check_proposal(
                self._membership.policy,
                agreement,
                member=self._membership.member,
                task=task,
                purpose=proposal.purpose,
                method=proposal.settings.method,
                cohort=proposal.cohort,
                rounds=proposal.settings.rounds,
                sealed=True,
            )
        if proposal.settings.method == "vertical":
            check_vertical(self._membership.policy, agreement, proposal)
        holders = self._label_holders(proposal)
        strangers = [member for member in proposal.cohort if member not in holders]
        if strangers and not proposal.across_roles:
            raise ProposalRefused(
                f"A horizontal run takes members that hold the label of task {proposal.task!r}, found "
                f"{', '.join(strangers)} beside them; propose the run without them."
            )
        return proposal

    def _label_holders(self, proposal: RunProposal) -> tuple[str, ...]:
        agreement = self._membership.agreement
        role = agreement.task(proposal.task).label_role
        return tuple(member.id for member in agreement.members_of(role))

    # -- the key epoch ----------------------------------------------------------------------------------

    def _cohort(self, body: bytes) -> Message:
        message = _parse(runs_pb2.CohortRequest(), body)
        record = self._record(message.run_id)
        epoch = KeyEpoch(self._membership, RunProposal.from_bytes(record.proposal))
        if record.phase == "announced":
            joined = epoch.join(record, tuple(message.announcements))
            self._store.set_joined(record.run_id, joined)
            record = self._record(record.run_id)
        else:
            epoch.require_same_cohort(record, tuple(message.announcements))
        if not epoch.is_dealer(record, message.attempt):
            return runs_pb2.CohortReply()
        if record.attempt != message.attempt:
            self._refuse_second_key(record)
            state, deals, confirmation = epoch.deal(record, message.attempt, self._rng)
            self._store.set_keyed(record.run_id, state, attempt=message.attempt, deals=deals, confirmation=confirmation)
            record = self._record(record.run_id)
        return runs_pb2.CohortReply(deals=record.deals, own_confirmation=record.confirmation)

    def _deal(self, body: bytes) -> Message:
        message = _parse(runs_pb2.DealRequest(), body)
        record = self._record(message.run_id)
        if record.phase == "announced":
            raise MessageRefused(
                f"Run {record.run_id}: the cohort's announcements come before the deal; send them first."
            )
        if record.attempt != message.attempt:
            self._refuse_second_key(record)
            epoch = KeyEpoch(self._membership, RunProposal.from_bytes(record.proposal))
            state, confirmation = epoch.accept_deal(record, message.deal, message.attempt)
            self._store.set_keyed(record.run_id, state, attempt=message.attempt, deals={}, confirmation=confirmation)
            record = self._record(record.run_id)
        return runs_pb2.DealReply(confirmation=record.confirmation)

    def _refuse_second_key(self, record: RunRecord) -> None:
        if record.phase == "ready":
            raise MessageRefused(
                f"Run {record.run_id} has its sealing key already; a second one in the same epoch is refused, "
                "propose a new run."
            )

    # -- sums -------------------------------------------------------------------------------------------

    def _contribute(self, body: bytes) -> Message:
        message = _parse(runs_pb2.ContributeRequest(), body)
        record = self._record(message.run_id)
        if record.phase != "ready":
            if not message.confirmations:
                return runs_pb2.ContributeReply(behind=runs_pb2.Behind(opened=0, needs_confirmations=True))
            self._accept_confirmations(record, tuple(message.confirmations))
        return self._participation(message.run_id).contribute(message)

    def _accept_confirmations(self, record: RunRecord, confirmations: tuple[bytes, ...]) -> None:
        """End E2: every member holds the same key."""
        if record.phase != "keyed":
            raise MessageRefused(
                f"Run {record.run_id}: this node has no key of the epoch yet; the operator must start a new run."
            )
        epoch = KeyEpoch(self._membership, RunProposal.from_bytes(record.proposal))
        self._store.set_ready(record.run_id, epoch.ready(record, confirmations))

    # -- alignment --------------------------------------------------------------------------------------

    def _align(self, body: bytes) -> Message:
        message = _parse(alignment_pb2.AlignRequest(), body)
        record = self._record(message.run_id)
        proposal = RunProposal.from_bytes(record.proposal)
        if self._entities is None or not proposal.across_roles:
            raise MessageRefused(
                f"Run {record.run_id} aligns no entities at this node: it takes a run across roles, and a node that "
                "was given an identifier column."
            )
        if record.phase != "ready":
            self._accept_confirmations(record, tuple(message.open.confirmations))
            record = self._record(record.run_id)
        if record.run_id not in self._alignments:
            self._alignments[record.run_id] = Alignment(
                self._membership, proposal, record, self._entities, self._store, rng=self._rng, now=self._now
            )
        return self._alignments[record.run_id].answer(message)

    # -- vertical training ------------------------------------------------------------------------------

    def _train_vertically(self, body: bytes) -> Message:
        message = _parse(vertical_pb2.VerticalStepRequest(), body)
        record = self._record(message.run_id)
        proposal = RunProposal.from_bytes(record.proposal)
        if self._vertical is None or proposal.settings.method != "vertical":
            raise MessageRefused(
                f"Run {record.run_id} trains nothing across roles at this node: it takes a vertical run, and a node "
                "that was given rows for it."
            )
        if record.phase != "ready":
            self._accept_confirmations(record, tuple(message.confirmations))
            record = self._record(record.run_id)
        if record.run_id not in self._verticals:
            self._verticals[record.run_id] = VerticalParticipation(
                self._membership, proposal, record, self._vertical, self._store, rng=self._rng, now=self._now
            )
        return self._verticals[record.run_id].step(message)

    def _seeds(self, body: bytes) -> Message:
        message = _parse(runs_pb2.SeedsRequest(), body)
        self._require_ready(message.run_id)
        answer = self._participation(message.run_id).reveal_seeds(
            message.k, tuple(message.survivors), tuple(message.dropped)
        )
        return runs_pb2.UnmaskReply(answer=answer)

    def _shares(self, body: bytes) -> Message:
        message = _parse(runs_pb2.SharesRequest(), body)
        self._require_ready(message.run_id)
        answer = self._participation(message.run_id).reveal_shares(
            message.k, tuple(message.survivors), tuple(message.dropped), dict(message.encrypted_shares)
        )
        return runs_pb2.UnmaskReply(answer=answer)

    def _artefact(self, body: bytes) -> Message:
        message = _parse(runs_pb2.RunReference(), body)
        if self._membership.agreement.release.policy != "platform":
            raise MessageRefused(
                "The agreement releases the model to its members alone (release policy 'members'); "
                "members find it in their own state folders."
            )
        self._require_ready(message.run_id)
        return runs_pb2.ArtefactReply(artefact=self._participation(message.run_id).released_artefact())

    def _end(self, body: bytes) -> Message:
        message = _parse(runs_pb2.EndRequest(), body)
        operator = self._membership.agreement.coordinator.identity_key_bytes
        verify_end(message.run_id, message.reason, message.operator_signature, operator)
        known = self._store.run(message.run_id)
        if known is not None and known.phase != "ended":
            self._store.end_run(message.run_id, message.reason[:500])
            self._participations.pop(message.run_id, None)
            self._alignments.pop(message.run_id, None)
            self._verticals.pop(message.run_id, None)
            self._journal(message.run_id, "ended", reason=message.reason[:500])
        return runs_pb2.EndReply()

    # -- shared -----------------------------------------------------------------------------------------

    def _record(self, run_id: str) -> RunRecord:
        record = self._store.run(run_id)
        if record is None:
            raise MessageRefused(f"This node has not joined run {run_id[:64]!r}; the operator must propose it first.")
        self._refuse_ended(record)
        return record

    def _refuse_ended(self, record: RunRecord) -> None:
        if record.phase == "ended":
            raise MessageRefused(
                f"Run {record.run_id} has ended at this node ({record.end_reason}); propose a new run."
            )

    def _require_ready(self, run_id: str) -> None:
        if self._record(run_id).phase != "ready":
            raise MessageRefused(
                f"Run {run_id}: sums begin after all members confirmed one key; finish the epoch first."
            )

    def _participation(self, run_id: str) -> Participation:
        if run_id not in self._participations:
            record = self._record(run_id)
            proposal = RunProposal.from_bytes(record.proposal)
            if proposal.across_roles:
                raise MessageRefused(f"Run {run_id} is across roles and sums nothing here; propose another method.")
            # torch comes with it: 190 MB that a node needs for runs among members of one role alone.
            from nodes.participation import Participation  # noqa: PLC0415

            self._participations[run_id] = Participation(
                self._membership, proposal, record, self._data(proposal.task), self._store, rng=self._rng, now=self._now
            )
        return self._participations[run_id]

    def _journal(self, run_id: str, event: str, **details: str | int | list[str]) -> None:
        self._store.journal(self._now(), run_id, event, **details)


def _parse(message: M, body: bytes) -> M:
    try:
        message.ParseFromString(body)
    except DecodeError:
        raise MessageRefused(
            f"Expected a {type(message).__name__}, found {len(body)} bytes that are none; "
            "coordinator and node must run the same release."
        ) from None
    return message
