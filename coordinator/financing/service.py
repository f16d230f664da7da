"""The composition of all use cases: what the HTTP side calls, one method a route.

Every write takes an Idempotency-Key and the hash of the request; its answer, the rows, the ledger entries and the
webhooks are one transaction. Reads are blocking calls of a millisecond: call them from a thread.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path

from coordinator.decisions.errors import DecisionUnknown
from coordinator.decisions.records import Response, StoredDecision
from coordinator.decisions.store import DecisionStore, Scope, utc_now
from coordinator.financing import deciding, events, facilities, offers, rendering, reviews
from coordinator.financing.answers import DecisionAnswer, DecisionView, Explanation, OfferAnswer, ReviewAnswer
from coordinator.financing.case import DecisionDocument
from coordinator.financing.errors import OfferUnknown
from coordinator.financing.means import Means
from coordinator.financing.notices import Notices
from coordinator.financing.requests import (
    DecisionRequest,
    DisbursementRequest,
    PaymentSettled,
    RateChange,
    Refund,
    ReviewConfirmation,
    ReviewProposal,
    Shipment,
)
from coordinator.financing.score_source import ScoreSource
from coordinator.financing.today import LOOK_EVERY_S, Days
from policies.lending.folder import PolicyFolder
from policies.lending.policy import from_archive
from policies.screening.lists import DEFAULT_FOLDER
from protos.sealed_sum.secret import SecretBytes


class Financing:
    """The use cases.

    Args:
        store: Decisions and their ledger; the tenants that call are in it.
        policy: The lending policy's folder.
        scores: Where risks come from.
        evidence_key: Keys the fingerprints by which one document is found twice; the same for the database's life.
        lists_folder: Screening lists.
        clock: Wall clock, aware.
        look_every_s: How long a changed policy may go unnoticed.
    """

    def __init__(
        self,
        store: DecisionStore,
        policy: PolicyFolder,
        scores: ScoreSource,
        *,
        evidence_key: SecretBytes,
        lists_folder: Path = DEFAULT_FOLDER,
        clock: Callable[[], dt.datetime] = utc_now,
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        self._means = Means(
            store=store,
            days=Days(policy, lists_folder, clock=clock, look_every_s=look_every_s),
            scores=scores,
            evidence_key=evidence_key,
            notices=Notices(store),
            clock=clock,
        )

    def check(self) -> None:
        """Look at the policy and the lists of today, blocking: whether decisions can be taken now.

        Raises:
            PolicyRefused: Some table has no version for today.
            ScreeningRefused: The lists cannot be used.
        """
        self._means.days.today()

    async def decide(
        self, tenant: str, actor: str, request: DecisionRequest, *, key: str, request_hash: bytes
    ) -> Response:
        """Decide on an application: 201 with a `DecisionAnswer`."""
        return await deciding.decide(self._means, tenant, actor, request, key=key, request_hash=request_hash)

    async def event(
        self,
        tenant: str,
        actor: str,
        request: PaymentSettled | Shipment | Refund | RateChange,
        *,
        key: str,
        request_hash: bytes,
    ) -> Response:
        """Take in what happened: 201 with an `EventAnswer`, 200 when the event was reported before."""
        return await events.take_in(self._means, tenant, actor, request, key=key, request_hash=request_hash)

    async def accept_offer(self, tenant: str, actor: str, offer_id: str, *, key: str, request_hash: bytes) -> Response:
        """Accept an open offer: 200 with the `OfferAnswer`; its decision is approved then."""
        return await offers.accept(self._means, tenant, actor, offer_id, key=key, request_hash=request_hash)

    async def propose(
        self, tenant: str, actor: str, review_id: str, proposal: ReviewProposal, *, key: str, request_hash: bytes
    ) -> Response:
        """The maker's verdict: 200 with the `ReviewAnswer`."""
        return await reviews.propose(
            self._means, tenant, actor, review_id, proposal, key=key, request_hash=request_hash
        )

    async def confirm(
        self,
        tenant: str,
        actor: str,
        review_id: str,
        confirmation: ReviewConfirmation,
        *,
        key: str,
        request_hash: bytes,
    ) -> Response:
        """The checker's verdict: 200 with the `ReviewAnswer`; the decision moves with it."""
        return await reviews.confirm(
            self._means, tenant, actor, review_id, confirmation, key=key, request_hash=request_hash
        )

    async def disburse(
        self, tenant: str, actor: str, decision_id: str, request: DisbursementRequest, *, key: str, request_hash: bytes
    ) -> Response:
        """Pay out under an approved decision: 200 with a `DisbursementAnswer`."""
        return await facilities.disburse(
            self._means, tenant, actor, decision_id, request, key=key, request_hash=request_hash
        )

    def endpoints_changed(self, tenant: str) -> None:
        """Call after a webhook endpoint of the tenant was added or disabled: the next decision tells the right ones."""
        self._means.notices.forget(tenant)

    # -- reads: blocking, in a thread -----------------------------------------------------------------

    def decision(self, scope: Scope, decision_id: str) -> DecisionView:
        """A decision with its transitions.

        Raises:
            DecisionUnknown: The scope has none of that id.
        """
        stored = self._stored(scope, decision_id)
        store = self._means.store
        return rendering.decision_view(
            stored, store.transitions(scope, decision_id), store.facility(scope, decision_id)
        )

    def explanation(self, scope: Scope, decision_id: str) -> Explanation:
        """A decision in words, by the tables that made it, whatever the policy says now.

        Raises:
            DecisionUnknown: The scope has none of that id.
        """
        stored = self._stored(scope, decision_id)
        kept = self._means.store.archived_policy(DecisionDocument.of(stored).decision.policy_sha256)
        return rendering.explanation(stored, None if kept is None else from_archive(kept.encode()))

    def offer(self, scope: Scope, offer_id: str) -> OfferAnswer:
        """An offer; one that is past its day is shown as expired.

        Raises:
            OfferUnknown: The scope has none of that id.
        """
        found = self._means.store.offer(scope, offer_id)
        if found is None:
            raise OfferUnknown(offer_id)
        return rendering.offer_answer(found, self._means.clock())

    def offers(
        self,
        scope: Scope,
        *,
        applicant: str | None = None,
        open_only: bool = False,
        before: int | None = None,
        limit: int = 50,
    ) -> tuple[tuple[OfferAnswer, ...], int | None]:
        """A page of offers, newest first, and where the next one begins."""
        page = self._means.store.offers(scope, applicant=applicant, open_only=open_only, before=before, limit=limit)
        now = self._means.clock()
        return tuple(rendering.offer_answer(one, now) for one in page.rows), page.next_before

    def reviews(
        self, scope: Scope, *, decision_id: str | None = None, unfinished: bool = False
    ) -> tuple[ReviewAnswer, ...]:
        """Reviews, oldest first."""
        return reviews.answers(self._means, scope, decision_id=decision_id, unfinished=unfinished)

    def decisions(
        self, scope: Scope, *, applicant: str | None = None, before: int | None = None, limit: int = 50
    ) -> tuple[tuple[DecisionAnswer, ...], int | None]:
        """A page of decisions, newest first, and where the next one begins."""
        page = self._means.store.decisions(scope, applicant=applicant, before=before, limit=limit)
        return tuple(rendering.decision_answer(one) for one in page.rows), page.next_before

    def _stored(self, scope: Scope, decision_id: str) -> StoredDecision:
        stored = self._means.store.decision(scope, decision_id)
        if stored is None:
            raise DecisionUnknown(decision_id)
        return stored
