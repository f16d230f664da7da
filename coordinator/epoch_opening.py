"""From a run request to an open key epoch: propose, have it co-signed, join, deal, confirm (E1 and E2)."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from coordinator.engine.steps import StepOutcome, Steps
from coordinator.request import RunRequest
from coordinator.sum_round import RunFailed
from policies.agreement import Agreement, agreement_hash
from policies.proposal import ACROSS_ROLES, ProposalRefused, RunProposal, sign_as_operator, verify_cosigner
from protos.runs.v1 import runs_pb2
from protos.sealed_sum.dealing import dealer_order
from protos.sealed_sum.epoch import EpochView, observe
from protos.sealed_sum.errors import SealedSumError
from protos.sealed_sum.keys import SigningKey

M = TypeVar("M", bound=Message)


class EpochOpening:
    """The steps before the first sum. Every one may be repeated after a crash.

    Args:
        agreement: The signed agreement.
        identity: The operator's identity key.
        steps: The engine.
        deadline_s: How long a step waits.
        announce: Called with an event name and details, for progress.
    """

    def __init__(
        self,
        agreement: Agreement,
        identity: SigningKey,
        steps: Steps,
        *,
        deadline_s: float,
        announce: Callable[..., None],
    ) -> None:
        self._agreement = agreement
        self._identity = identity
        self._steps = steps
        self._deadline_s = deadline_s
        self._announce = announce

    def propose(self, run_id: str, request: RunRequest) -> bytes:
        """Wait for the members, write the proposal, have it co-signed.

        Returns:
            A serialised `SignedProposal`.

        Raises:
            RunFailed: Too few members are there, or no label holder co-signs.
        """
        task = self._agreement.task(request.task)
        holders = tuple(sorted(member.id for member in self._agreement.members_of(task.label_role)))
        everybody = tuple(sorted(member.id for member in self._agreement.members))
        wanted = tuple(sorted(request.members)) or (everybody if request.settings.method in ACROSS_ROLES else holders)
        self._announce("waiting", members=list(wanted))
        online = self._steps.wait_online(wanted, deadline_s=request.wait_online_s)
        cohort = tuple(member for member in wanted if member in online)
        missing = sorted(set(wanted) - set(cohort))
        if missing and request.members:
            raise RunFailed(
                f"Expected {', '.join(wanted)} to be online, {', '.join(missing)} did not connect within "
                f"{request.wait_online_s:g} s; start their nodes, or propose the run without them."
            )
        if missing:
            self._announce("absent", members=missing)
        self._agreement.bounds(len(cohort))
        proposal = RunProposal(
            run_id=run_id,
            agreement_hash=agreement_hash(self._agreement).hex(),
            task=request.task,
            further_tasks=request.further_tasks,
            purpose=request.purpose,
            cohort=cohort,
            settings=request.settings,
            nonce=secrets.token_hex(32),
        )
        signed = runs_pb2.SignedProposal(
            proposal=proposal.to_bytes(),
            operator_signature=sign_as_operator(proposal.to_bytes(), self._identity.private),
        )
        return self._cosigned(signed, [member for member in cohort if member in holders])

    def _cosigned(self, signed: runs_pb2.SignedProposal, holders: list[str]) -> bytes:
        reasons = []
        for holder in holders:
            outcome = self._steps.run_step("cosign", {holder: signed.SerializeToString()}, deadline_s=self._deadline_s)
            if holder in outcome.refusals:
                reasons.append(f"{holder}: {outcome.refusals[holder].sentence}")
            if holder not in outcome.replies:
                continue
            reply = parse_reply(runs_pb2.CosignReply, holder, outcome.replies[holder])
            key = self._agreement.member(holder).identity_key_bytes
            try:
                verify_cosigner(signed.proposal, reply.cosignature, key, holder)
            except ProposalRefused as refusal:
                reasons.append(f"{holder}: {refusal}")
                continue
            signed.cosigner, signed.cosignature = holder, reply.cosignature
            self._announce("cosigned", cosigner=holder)
            return signed.SerializeToString()
        raise RunFailed(f"No label holder co-signed the run; {' '.join(reasons) or 'none of them answered.'}")

    def open(self, signed_proposal: bytes) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        """E1 and E2 with the whole cohort.

        Returns:
            Announcements and confirmations.

        Raises:
            RunFailed: A member refuses or is silent, or no dealer succeeds.
        """
        proposal = self.proposal(signed_proposal)
        cohort = proposal.cohort
        outcome = self._steps.run_step("join", dict.fromkeys(cohort, signed_proposal), deadline_s=self._deadline_s)
        self._require_all(outcome, cohort, "join the run")
        announcements = tuple(
            parse_reply(runs_pb2.JoinReply, member, outcome.replies[member]).announcement for member in cohort
        )
        self._announce("joined", members=len(cohort))
        view = self.view(proposal, announcements)
        order = dealer_order(view.epoch_id, view.cohort)
        for attempt, dealer in enumerate(order):
            confirmations = self._deal(proposal, announcements, attempt, dealer)
            if confirmations is not None:
                self._announce("keyed", dealer=dealer, epoch=view.epoch_id.hex())
                return announcements, confirmations
        raise RunFailed("No member dealt a sealing key that everybody confirmed; see the nodes' logs.")

    def _deal(
        self, proposal: RunProposal, announcements: tuple[bytes, ...], attempt: int, dealer: str
    ) -> tuple[bytes, ...] | None:
        cohort = proposal.cohort
        request = runs_pb2.CohortRequest(
            run_id=proposal.run_id, announcements=announcements, attempt=attempt
        ).SerializeToString()
        outcome = self._steps.run_step("cohort", dict.fromkeys(cohort, request), deadline_s=self._deadline_s)
        self._require_no_refusal(outcome, "accept the cohort")
        if dealer not in outcome.replies:
            self._announce("dealer silent", dealer=dealer)
            return None
        dealt = parse_reply(runs_pb2.CohortReply, dealer, outcome.replies[dealer])
        bodies = {
            member: runs_pb2.DealRequest(
                run_id=proposal.run_id, attempt=attempt, deal=dealt.deals[member]
            ).SerializeToString()
            for member in cohort
            if member != dealer and member in dealt.deals
        }
        outcome = self._steps.run_step("deal", bodies, deadline_s=self._deadline_s)
        confirmations = {dealer: dealt.own_confirmation}
        for member, body in outcome.replies.items():
            confirmations[member] = parse_reply(runs_pb2.DealReply, member, body).confirmation
        if set(confirmations) != set(cohort):
            self._announce("deal not confirmed", dealer=dealer, members=sorted(set(cohort) - set(confirmations)))
            return None
        return tuple(confirmations[member] for member in cohort)

    def view(self, proposal: RunProposal, announcements: tuple[bytes, ...]) -> EpochView:
        """The epoch as the coordinator checks it."""
        keys = {member: self._agreement.member(member).identity_key_bytes for member in proposal.cohort}
        bounds = self._agreement.bounds(len(proposal.cohort))
        try:
            return observe(announcements, keys, agreement_hash(self._agreement), proposal.run_id, bounds)
        except SealedSumError as refusal:
            raise RunFailed(f"The cohort's announcements do not hold: {refusal}.") from None

    @staticmethod
    def proposal(signed_proposal: bytes) -> RunProposal:
        """The proposal inside a signed one."""
        return RunProposal.from_bytes(runs_pb2.SignedProposal.FromString(signed_proposal).proposal)

    def _require_all(self, outcome: StepOutcome, members: tuple[str, ...], what: str) -> None:
        self._require_no_refusal(outcome, what)
        if outcome.silent:
            raise RunFailed(
                f"Expected {', '.join(members)} to {what}, {', '.join(sorted(outcome.silent))} did not answer within "
                f"{self._deadline_s:g} s; start their nodes and propose the run again."
            )

    def _require_no_refusal(self, outcome: StepOutcome, what: str) -> None:
        if outcome.refusals:
            member, refusal = min(outcome.refusals.items(), key=lambda item: item[0])
            raise RunFailed(f"{member} refused to {what} ({refusal.code}): {refusal.sentence}")


def parse_reply(kind: type[M], member: str, body: bytes) -> M:
    """Parse a member's reply.

    Raises:
        RunFailed: The bytes are no such message.
    """
    try:
        message: M = kind.FromString(body)
    except DecodeError:
        raise RunFailed(f"{member} sent {len(body)} bytes that are no {kind.__name__}; update its node.") from None
    return message
