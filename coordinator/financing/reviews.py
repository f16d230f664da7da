"""Two people decide what the policy referred, and lift what it froze: the maker's verdict, then the checker's.

The rules are those of `policies.lending.review`, a pure state machine; its state is rebuilt here from the stored rows.
Two equal verdicts end a review. With another one than the maker's, the checker sends the case back: the review ends,
a new one is opened, and nobody who was a maker before can be its checker.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import re
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final, TypeVar

from coordinator.decisions.errors import DecisionUnknown, ReviewRefused
from coordinator.decisions.records import Response, Review, StoredDecision
from coordinator.decisions.store import Scope
from coordinator.decisions.writes import DecisionWrites
from coordinator.financing.answers import ReviewAnswer
from coordinator.financing.case import Case, DecisionDocument, still_lends
from coordinator.financing.deciding import lend
from coordinator.financing.errors import ReviewUnknown
from coordinator.financing.facilities import SERVICE, thaw
from coordinator.financing.means import Means, move
from coordinator.financing.rendering import THAW, review_answer
from coordinator.financing.requests import ReviewConfirmation, ReviewProposal, Verdict
from policies.closed_model import shown
from policies.lending import review as rules
from policies.lending.record import sha256_of
from policies.lending.types import Approved, Reason, Referred
from policies.lending.watch import WatchRefused

T = TypeVar("T")

DECLINED_BY_REVIEW: Final = "REVIEW_DECLINED"
_PERSON = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}")


@dataclass(frozen=True)
class _Reviewed:
    """A review with what it is about.

    Attributes:
        review: As it is stored.
        stored: The decision.
        document: What was decided on.
        makers: Of earlier reviews of the decision.
    """

    review: Review
    stored: StoredDecision
    document: DecisionDocument
    makers: tuple[str, ...]

    @property
    def about_freeze(self) -> bool:
        return self.review.id.startswith(THAW)

    def awaiting_maker(self) -> rules.AwaitingMaker:
        """Before the first verdict."""
        brought_by = self.document.requested_by
        opened = rules.open_review(
            self.review.id,
            self.document.decision,
            by=SERVICE,
            at=self.review.opened_at,
            why=self.review.why,
            brought_by=brought_by if _PERSON.fullmatch(brought_by) else None,
        )
        return opened.model_copy(update={"makers": self.makers})

    def awaiting_checker(self, maker: str, verdict: Verdict, why: str, at: dt.datetime) -> rules.AwaitingChecker:
        """After it."""
        recommended: rules.Grant | rules.Refuse
        if verdict == "approve" and isinstance(self.document.decision.outcome, Referred):
            recommended = rules.Grant(terms=self.document.decision.outcome.proposed)
        else:
            recommended = rules.Refuse(reasons=(Reason(code=DECLINED_BY_REVIEW, text=why),))
        return rules.recommend(self.awaiting_maker(), recommended, by=maker, at=at, why=why)

    def proposed(self) -> rules.AwaitingChecker:
        """The same, from the stored verdict.

        Raises:
            ReviewRefused: There is none yet, or the review is closed.
        """
        one = self.review
        if one.status != "proposed" or one.maker is None or one.maker_verdict is None or one.maker_at is None:
            raise ReviewRefused(f"Review {one.id}: expected one with a first verdict, found one that is {one.status}.")
        return self.awaiting_checker(one.maker, one.maker_verdict, one.maker_why or "", one.maker_at)

    def to_confirm(self, maker: str, verdict: Verdict, why: str, at: dt.datetime) -> str:
        """What the checker confirms, by its hash."""
        if self.about_freeze:
            return sha256_of({"review": self.review.id, "lift": verdict == "approve", "maker": maker, "why": why})
        return self.awaiting_checker(maker, verdict, why, at).to_confirm_sha256


async def propose(
    means: Means, tenant: str, actor: str, review_id: str, proposal: ReviewProposal, *, key: str, request_hash: bytes
) -> Response:
    """The maker's verdict; see `Financing.propose`."""
    found = await asyncio.to_thread(_read, means, tenant, review_id)

    def work(writes: DecisionWrites) -> Response:
        _require_person(actor)
        to_confirm = _refused(lambda: found.to_confirm(actor, proposal.verdict, proposal.why, writes.now))
        made = writes.propose(tenant, review_id, maker=actor, verdict=proposal.verdict, why=proposal.why)
        answer = review_answer(made, found.stored.status, to_confirm)
        return Response(status=200, body=answer.model_dump_json().encode())

    return await means.store.once(tenant, key, request_hash, work)


async def confirm(
    means: Means,
    tenant: str,
    actor: str,
    review_id: str,
    confirmation: ReviewConfirmation,
    *,
    key: str,
    request_hash: bytes,
) -> Response:
    """The checker's verdict; see `Financing.confirm`."""
    found = await asyncio.to_thread(_read, means, tenant, review_id)
    today = await means.today()
    case = Case.again(found.document, today, means.evidence_key)
    endpoints = await means.notices.endpoints(tenant)
    again_id = means.store.new_id(THAW.rstrip("-") if found.about_freeze else "rev")
    keys: list[Hashable] = [(tenant, case.application.applicant_id), *case.fingerprints]

    def work(writes: DecisionWrites) -> Response:
        _require_person(actor)
        checked = writes.check(tenant, review_id, checker=actor, verdict=confirmation.verdict, why=confirmation.why)
        step = _lift if found.about_freeze else _conclude
        after = step(writes, found, case, checked, confirmation)
        if after is None:  # not agreed, or the freeze stays: somebody looks again
            after = found.stored.status
            writes.open_review(again_id, tenant, found.stored.record.id, f"sent back: {confirmation.why}"[:400])
        else:
            means.notices.tell_moved(writes, endpoints, found.stored.record.id, after, confirmation.why)
        return Response(status=200, body=review_answer(checked, after, None).model_dump_json().encode())

    with means.crowd.joined(keys):
        return await means.store.once(tenant, key, request_hash, work)


def _conclude(
    writes: DecisionWrites, found: _Reviewed, case: Case, checked: Review, given: ReviewConfirmation
) -> str | None:
    """What follows for a referred decision: where it stands, or None when it is sent back."""
    checker, decision_id, tenant = str(checked.checker), found.stored.record.id, found.stored.record.tenant
    state = found.proposed()
    if given.verdict != found.review.maker_verdict:
        _refused(lambda: rules.send_back(state, by=checker, at=writes.now, why=given.why))
        return None
    closed = _refused(
        lambda: rules.confirm(state, confirmed_sha256=given.confirms, by=checker, at=writes.now, why=given.why)
    )
    why = f"{found.review.maker} and {checker} agree: {given.why}"
    if not isinstance(closed.outcome, Approved):
        move(writes, tenant, decision_id, before="referred", after="declined", actor=checker, why=why)
        return "declined"
    limit = closed.outcome.terms.limit
    standing = writes.standing(tenant, case.application.applicant_id, case.fingerprints)
    problem = still_lends(case, standing, limit)
    if problem is not None:
        raise ReviewRefused(
            f"Review {found.review.id}: expected that {limit} could still be lent, found that it cannot ({problem});"
            " decline it, or let the applicant ask for less."
        )
    move(writes, tenant, decision_id, before="referred", after="approved", actor=checker, why=why)
    lend(writes, case, standing, limit, tenant, decision_id)
    return "approved"


def _lift(
    writes: DecisionWrites, found: _Reviewed, _case: Case, checked: Review, given: ReviewConfirmation
) -> str | None:
    """What follows for a frozen decision: where it stands, or None while it stays frozen."""
    review = found.review
    maker, verdict, at = str(review.maker), review.maker_verdict, review.maker_at
    if verdict is None or at is None or given.confirms != found.to_confirm(maker, verdict, review.maker_why or "", at):
        raise ReviewRefused(
            f"Review {review.id}: expected the checker to confirm what is proposed now, found the hash of something"
            " else; read the case again."
        )
    if (verdict, given.verdict) != ("approve", "approve"):
        return None
    record = found.stored.record
    why = f"{maker} and {checked.checker} agree: {given.why}"
    try:
        return thaw(writes, record.tenant, record.id, asked_by=maker, confirmed_by=str(checked.checker), why=why[:400])
    except WatchRefused as problem:
        raise ReviewRefused(str(problem)) from None


def answers(means: Means, scope: Scope, *, decision_id: str | None, unfinished: bool) -> tuple[ReviewAnswer, ...]:
    """Reviews as they are answered, oldest first."""
    return tuple(
        _shown(_with_decision(means, review))
        for review in means.store.reviews(scope, decision_id=decision_id, unfinished=unfinished)
    )


def _shown(found: _Reviewed) -> ReviewAnswer:
    one = found.review
    maker, verdict, at = one.maker, one.maker_verdict, one.maker_at
    to_confirm = None
    if one.status == "proposed" and maker is not None and verdict is not None and at is not None:
        to_confirm = found.to_confirm(maker, verdict, one.maker_why or "", at)
    return review_answer(one, found.stored.status, to_confirm)


def _read(means: Means, scope: Scope, review_id: str) -> _Reviewed:
    review = means.store.review(scope, review_id)
    if review is None:
        raise ReviewUnknown(review_id)
    return _with_decision(means, review)


def _with_decision(means: Means, review: Review) -> _Reviewed:
    stored = means.store.decision(review.tenant, review.decision_id)
    if stored is None:
        raise DecisionUnknown(review.decision_id)
    earlier = [
        one.maker
        for one in means.store.reviews(review.tenant, decision_id=review.decision_id)
        if one.id != review.id and one.maker is not None
    ]
    return _Reviewed(review, stored, DecisionDocument.of(stored), tuple(sorted(set(earlier))))


def _require_person(actor: str) -> None:
    if not _PERSON.fullmatch(actor):
        raise ReviewRefused(
            "Expected a reviewer's id of lower-case letters, digits and any of ._@-, at most 64, found"
            f" {shown(actor)}; one person has one spelling."
        )


def _refused(step: Callable[[], T]) -> T:
    """A step of the state machine, with its refusal as the store's."""
    try:
        return step()
    except rules.ReviewRefused as problem:
        raise ReviewRefused(str(problem)) from None
