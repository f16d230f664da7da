"""Drives a vertical run: relays signed messages between label holder and feature holders, and opens none of them."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from google.protobuf.message import Message

from coordinator.engine.steps import StepOutcome, Steps
from coordinator.epoch_opening import parse_reply
from coordinator.sum_round import RunFailed
from policies.agreement import Agreement, agreement_hash
from policies.proposal import sign_as_operator, verify_cosigner
from policies.vertical_proposal import VerticalProposal
from protos.runs.v1 import runs_pb2, vertical_pb2
from protos.sealed_sum.keys import SigningKey


@dataclass(frozen=True)
class VerticalOutcome:
    """What a vertical run leaves at the coordinator: no model and no score.

    Attributes:
        proposal: As accepted by all members.
        passes: Gradient passes done.
        bytes_moved: Bodies from and to members, both directions.
    """

    proposal: VerticalProposal
    passes: int
    bytes_moved: int


class VerticalDriver:
    """Drives one vertical run at a time.

    Args:
        agreement: The signed agreement.
        identity: The operator's identity key.
        steps: The engine.
        deadline_s: How long one step waits; the roster is frozen, so a silent member ends the run (rule A7).
        announce: Called with an event name and details, for progress.
    """

    def __init__(
        self,
        agreement: Agreement,
        identity: SigningKey,
        steps: Steps,
        *,
        deadline_s: float = 60.0,
        announce: Callable[..., None] = lambda *_args, **_details: None,
    ) -> None:
        self._agreement = agreement
        self._identity = identity
        self._steps = steps
        self._deadline_s = deadline_s
        self._announce = announce
        self._bytes_moved = 0

    def run(
        self,
        run_id: str,
        *,
        task: str,
        purpose: str,
        label_holder: str,
        feature_holders: tuple[str, ...],
        passes: int = 5,
        pairs: int = 0,
    ) -> VerticalOutcome:
        """Propose a run and drive it to its last pass.

        Raises:
            RunFailed: A member refuses, is silent, or answers with something else.
        """
        self._bytes_moved = 0
        proposal = VerticalProposal(
            run_id=run_id,
            agreement_hash=agreement_hash(self._agreement).hex(),
            task=task,
            purpose=purpose,
            label_holder=label_holder,
            feature_holders=tuple(sorted(feature_holders)),
            passes=passes,
            pairs=pairs,
            nonce=secrets.token_hex(32),
        )
        self._open(proposal)
        folded: Mapping[str, bytes] = dict.fromkeys(proposal.feature_holders, b"")
        for number in range(passes):
            folded = self._pass(proposal, number, folded)
            self._announce("pass", number=number + 1, of=passes)
        scores = self._scores(proposal, passes, folded)
        last = self._residuals(proposal, passes, scores)
        body = vertical_pb2.VerticalFinishRequest(run_id=run_id, recalibration=last.recalibration)
        self._ask("vertical-finish", dict.fromkeys(proposal.feature_holders, body))
        self._announce("finished", bytes_moved=self._bytes_moved)
        return VerticalOutcome(proposal, passes, self._bytes_moved)

    def _open(self, proposal: VerticalProposal) -> None:
        raw, holder = proposal.to_bytes(), proposal.label_holder
        signed = runs_pb2.SignedProposal(proposal=raw, operator_signature=sign_as_operator(raw, self._identity.private))
        cosigned = parse_reply(runs_pb2.CosignReply, holder, self._ask("vertical-cosign", {holder: signed})[holder])
        verify_cosigner(raw, cosigned.cosignature, self._agreement.member(holder).identity_key_bytes, holder)
        signed.cosigner, signed.cosignature = holder, cosigned.cosignature
        joined = self._ask("vertical-join", dict.fromkeys(proposal.cohort, signed))
        announcements = [
            parse_reply(vertical_pb2.VerticalJoinReply, member, joined[member]).announcement
            for member in proposal.cohort
        ]
        request = vertical_pb2.VerticalOpenRequest(run_id=proposal.run_id, announcements=announcements)
        opened = self._ask("vertical-open", dict.fromkeys(proposal.cohort, request))
        key = parse_reply(vertical_pb2.VerticalOpenReply, holder, opened[holder]).gradient_key
        body = vertical_pb2.VerticalKeyRequest(run_id=proposal.run_id, gradient_key=key)
        self._ask("vertical-key", dict.fromkeys(proposal.feature_holders, body))
        self._announce("opened", members=len(proposal.cohort))

    def _pass(self, proposal: VerticalProposal, number: int, folded: Mapping[str, bytes]) -> dict[str, bytes]:
        run_id, holder = proposal.run_id, proposal.label_holder
        scores = self._scores(proposal, number, folded)
        query = self._residuals(proposal, number, scores).encrypted_residuals
        request = vertical_pb2.VerticalProductsRequest(run_id=run_id, encrypted_residuals=query, **{"pass": number})
        replies = self._ask("vertical-products", dict.fromkeys(proposal.feature_holders, request))
        products = {m: parse_reply(vertical_pb2.VerticalProductsReply, m, body) for m, body in replies.items()}
        fold = vertical_pb2.VerticalFoldRequest(
            run_id=run_id,
            masked_products={m: reply.masked_products for m, reply in products.items()},
            extra_columns={m: reply.extra_columns for m, reply in products.items()},
            **{"pass": number},
        )
        answered = self._ask("vertical-fold", {holder: fold})[holder]
        return dict(parse_reply(vertical_pb2.VerticalFoldReply, holder, answered).folded_sums)

    def _scores(self, proposal: VerticalProposal, number: int, folded: Mapping[str, bytes]) -> dict[str, bytes]:
        if number == 0:
            bodies: dict[str, Message] = {
                member: vertical_pb2.VerticalScoresRequest(run_id=proposal.run_id)
                for member in proposal.feature_holders
            }
        else:
            bodies = {
                member: vertical_pb2.VerticalScoresRequest(
                    run_id=proposal.run_id, folded_sums=folded.get(member, b""), **{"pass": number}
                )
                for member in proposal.feature_holders
            }
        replies = self._ask("vertical-scores", bodies)
        return {m: parse_reply(vertical_pb2.VerticalScoresReply, m, b).masked_scores for m, b in replies.items()}

    def _residuals(
        self, proposal: VerticalProposal, number: int, scores: Mapping[str, bytes]
    ) -> vertical_pb2.VerticalResidualsReply:
        holder = proposal.label_holder
        request = vertical_pb2.VerticalResidualsRequest(
            run_id=proposal.run_id, masked_scores=scores if number else {}, **{"pass": number}
        )
        answered = self._ask("vertical-residuals", {holder: request})[holder]
        return parse_reply(vertical_pb2.VerticalResidualsReply, holder, answered)

    def _ask(self, action: str, messages: Mapping[str, Message]) -> Mapping[str, bytes]:
        """One step with everybody it needs."""
        # Map fields have no fixed order on the wire; a request that is sent again must be the same bytes.
        bodies = {member: message.SerializeToString(deterministic=True) for member, message in messages.items()}
        outcome = self._steps.run_step(action, bodies, deadline_s=self._deadline_s)
        self._bytes_moved += sum(outcome.bytes_up.values()) + sum(outcome.bytes_down.values())
        _require_all(outcome, action, self._deadline_s)
        return outcome.replies


def _require_all(outcome: StepOutcome, action: str, deadline_s: float) -> None:
    if outcome.refusals:
        member, refusal = min(outcome.refusals.items(), key=lambda item: item[0])
        raise RunFailed(f"{member} refused {action} ({refusal.code}): {refusal.sentence}")
    if outcome.silent:
        raise RunFailed(
            f"{', '.join(sorted(outcome.silent))} did not answer {action} within {deadline_s:g} s; a vertical run"
            " needs all its members, start their nodes and propose a new run."
        )
