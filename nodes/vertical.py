"""A node's side of vertical runs: one handler per message, each answer kept and resent byte for byte."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from google.protobuf.message import DecodeError, Message

from nodes.membership import Membership
from nodes.store import NodeStore
from nodes.vertical_run import AlignedRows, FeatureRun, LabelRun, VerticalStepRefused
from policies.guard import check_vertical_proposal
from policies.proposal import ProposalRefused, sign_as_cosigner, verify_cosigner, verify_operator
from policies.vertical_proposal import VerticalProposal
from protos.encrypted_gradient.parameters import MAX_PASSES
from protos.encrypted_gradient.session import QueryBudget
from protos.runs.v1 import runs_pb2, vertical_pb2

M = TypeVar("M", bound=Message)
MAX_SESSIONS = 4


class AlignedRowsProvider(Protocol):
    """Gives this member's training rows of a vertical run, in the order that its members share."""

    def __call__(self, proposal: VerticalProposal) -> AlignedRows:
        """The rows; the same ones for the whole run."""
        ...


class VerticalHandlers:
    """Answers the coordinator's messages about vertical runs for one member.

    Args:
        membership: Identity, agreement and policy.
        rows: The member's aligned rows.
        store: Durable state.
        rng: Cryptographic randomness.
        now: Wall clock as ISO 8601 text, for the journal.
    """

    def __init__(
        self,
        membership: Membership,
        rows: AlignedRowsProvider,
        store: NodeStore,
        *,
        rng: Callable[[int], bytes],
        now: Callable[[], str],
    ) -> None:
        self._membership = membership
        self._rows = rows
        self._store = store
        self._rng = rng
        self._now = now
        self._runs: dict[str, FeatureRun | LabelRun] = {}
        # (run, action) -> (hash of the request, reply): the last answer of each kind; an older one is never asked for.
        self._answered: dict[tuple[str, str], tuple[int, bytes, Message]] = {}
        self.handlers: Mapping[str, Callable[[bytes], Message]] = {
            "vertical-cosign": self._cosign,
            "vertical-join": self._join,
            "vertical-open": self._open,
            "vertical-key": self._key,
            "vertical-scores": self._scores,
            "vertical-residuals": self._residuals,
            "vertical-products": self._products,
            "vertical-fold": self._fold,
            "vertical-finish": self._finish,
        }

    def run(self, run_id: str) -> FeatureRun | LabelRun:
        """A run that this node has joined.

        Raises:
            VerticalStepRefused: It has not, or it restarted since.
        """
        if run_id not in self._runs:
            raise VerticalStepRefused(
                f"This node has no open session of vertical run {run_id[:64]!r}; a session is lost when a node"
                " restarts, propose a new run."
            )
        return self._runs[run_id]

    # -- before the first pass --

    def _checked(self, message: runs_pb2.SignedProposal) -> VerticalProposal:
        agreement = self._membership.agreement
        verify_operator(message.proposal, message.operator_signature, agreement.coordinator.identity_key_bytes)
        proposal = VerticalProposal.from_bytes(message.proposal)
        if proposal.agreement_hash != self._membership.agreement_hash.hex():
            raise ProposalRefused(
                f"Expected a run under agreement {self._membership.agreement_hash.hex()[:16]}…, found one under "
                f"{proposal.agreement_hash[:16]}…; all parties must hold the same signed agreement."
            )
        check_vertical_proposal(self._membership.policy, agreement, member=self._membership.member, proposal=proposal)
        return proposal

    def _cosign(self, body: bytes) -> Message:
        message = _parse(runs_pb2.SignedProposal(), body)
        proposal = self._checked(message)
        member = self._membership.member
        if member != proposal.label_holder or not self._membership.policy.auto_cosign:
            raise ProposalRefused(f"{member} does not co-sign this run by itself; ask its label holder's owner.")
        self._journal(proposal.run_id, "vertical-cosigned")
        return runs_pb2.CosignReply(
            cosigner=member, cosignature=sign_as_cosigner(message.proposal, self._membership.identity.private)
        )

    def _join(self, body: bytes) -> Message:
        message = _parse(runs_pb2.SignedProposal(), body)
        proposal = self._checked(message)
        holder = self._membership.agreement.member(proposal.label_holder)
        if message.cosigner != holder.id:
            raise ProposalRefused(f"Expected the co-signature of {holder.id}, whose labels the run uses.")
        verify_cosigner(message.proposal, message.cosignature, holder.identity_key_bytes, holder.id)
        known = self._runs.get(proposal.run_id)
        if known is None:
            if len(self._runs) >= MAX_SESSIONS:
                forgotten = next(iter(self._runs))
                del self._runs[forgotten]
                self._answered = {key: kept for key, kept in self._answered.items() if key[0] != forgotten}
            kind = LabelRun if self._membership.member == proposal.label_holder else FeatureRun
            known = kind(self._membership, proposal, self._rows(proposal), self._rng)
            self._runs[proposal.run_id] = known
            self._journal(proposal.run_id, "vertical-joined", cohort=list(proposal.cohort))
        elif known.proposal != proposal:
            raise ProposalRefused(f"Run {proposal.run_id} was proposed before with other terms; propose a new run.")
        return vertical_pb2.VerticalJoinReply(announcement=known.announcement)

    def _open(self, body: bytes) -> Message:
        message = _parse(vertical_pb2.VerticalOpenRequest(), body)
        run = self.run(message.run_id)
        terms = run.open_session(tuple(message.announcements))
        if not isinstance(run, LabelRun):
            return vertical_pb2.VerticalOpenReply()

        def answer() -> Message:
            asked, passes = self._store.label_queries(run.proposal.task, terms.alignment_digest)
            if passes + run.proposal.passes > MAX_PASSES:
                raise VerticalStepRefused(
                    f"Expected at most {MAX_PASSES} passes over the labels of these rows, found {passes} before this"
                    f" run and {run.proposal.passes} in it; use newer data (rule B5)."
                )
            self._store.save_label_queries(
                run.proposal.task, terms.alignment_digest, asked=asked, passes=passes + run.proposal.passes
            )
            budget = QueryBudget(terms.shape.rows, asked=asked)
            return vertical_pb2.VerticalOpenReply(gradient_key=run.announce_key(budget))

        return self._once(message.run_id, "open", 0, body, answer)

    def _key(self, body: bytes) -> Message:
        message = _parse(vertical_pb2.VerticalKeyRequest(), body)
        run = self._feature_run(message.run_id)

        def answer() -> Message:
            run.take_key(message.gradient_key)
            return vertical_pb2.VerticalOpenReply()

        return self._once(message.run_id, "key", 0, body, answer)

    # -- passes --

    def _scores(self, body: bytes) -> Message:
        message = _parse(vertical_pb2.VerticalScoresRequest(), body)
        run, number = self._feature_run(message.run_id), _pass_of(message)
        return self._once(
            message.run_id,
            "scores",
            number,
            body,
            lambda: vertical_pb2.VerticalScoresReply(masked_scores=run.scores(number, message.folded_sums)),
        )

    def _residuals(self, body: bytes) -> Message:
        message = _parse(vertical_pb2.VerticalResidualsRequest(), body)
        run, number = self._label_run(message.run_id), _pass_of(message)

        def answer() -> Message:
            encrypted, recalibration = run.residuals(number, dict(message.masked_scores))
            return vertical_pb2.VerticalResidualsReply(encrypted_residuals=encrypted, recalibration=recalibration)

        return self._once(message.run_id, "residuals", number, body, answer)

    def _products(self, body: bytes) -> Message:
        message = _parse(vertical_pb2.VerticalProductsRequest(), body)
        run, number = self._feature_run(message.run_id), _pass_of(message)

        def answer() -> Message:
            products, extra = run.products(number, message.encrypted_residuals)
            return vertical_pb2.VerticalProductsReply(masked_products=products, extra_columns=extra)

        return self._once(message.run_id, "products", number, body, answer)

    def _fold(self, body: bytes) -> Message:
        message = _parse(vertical_pb2.VerticalFoldRequest(), body)
        run, number = self._label_run(message.run_id), _pass_of(message)

        def answer() -> Message:
            answers, budget = run.fold(number, dict(message.masked_products), dict(message.extra_columns))
            task, alignment = run.proposal.task, run.opened().alignment_digest
            _, passes = self._store.label_queries(task, alignment)
            self._store.save_label_queries(task, alignment, asked=budget.asked, passes=passes)
            self._journal(message.run_id, "vertical-folded", number=number, asked=budget.asked)
            return vertical_pb2.VerticalFoldReply(folded_sums=answers)

        return self._once(message.run_id, "fold", number, body, answer)

    def _finish(self, body: bytes) -> Message:
        message = _parse(vertical_pb2.VerticalFinishRequest(), body)
        self._feature_run(message.run_id).finish(message.recalibration)
        self._journal(message.run_id, "vertical-finished")
        return vertical_pb2.VerticalFinishReply(done=True)

    # -- shared --

    def _once(self, run_id: str, action: str, number: int, body: bytes, answer: Callable[[], Message]) -> Message:
        """Answer a step once; the same request again gets the same bytes, another one for the step is refused."""
        request = hashlib.sha256(body).digest()
        last = self._answered.get((run_id, action))
        if last is not None and last[0] == number and last[1] == request:
            return last[2]
        expected = 0 if last is None else last[0] + 1
        if number != expected:
            raise VerticalStepRefused(
                f"Expected {action} of pass {expected}, found pass {number} or another request for an answered one;"
                " an answer is given once."
            )
        reply = answer()
        self._answered[run_id, action] = (number, request, reply)
        return reply

    def _feature_run(self, run_id: str) -> FeatureRun:
        run = self.run(run_id)
        if not isinstance(run, FeatureRun):
            raise VerticalStepRefused("Expected a step of a label holder, found one of a feature holder.")
        return run

    def _label_run(self, run_id: str) -> LabelRun:
        run = self.run(run_id)
        if not isinstance(run, LabelRun):
            raise VerticalStepRefused("Expected a step of a feature holder, found one of the label holder.")
        return run

    def _journal(self, run_id: str, event: str, **details: str | int | list[str]) -> None:
        self._store.journal(self._now(), run_id, event, **details)


def _pass_of(message: Message) -> int:
    return int(getattr(message, "pass"))  # a keyword of Python, so not an attribute that can be written


def _parse(message: M, body: bytes) -> M:
    try:
        message.ParseFromString(body)
    except DecodeError:
        raise VerticalStepRefused(
            f"Expected a {type(message).__name__}, found {len(body)} bytes that are none; "
            "coordinator and node must run the same release."
        ) from None
    return message
