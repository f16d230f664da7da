"""The composition of all use cases: what the HTTP side calls, one method a route.

Every write takes an Idempotency-Key and the hash of the request; its answer, the rows, the ledger entries and the
webhooks are one transaction. Reads are blocking calls of a millisecond: call them from a thread.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path

from coordinator.decisions.records import Response
from coordinator.decisions.store import DecisionStore, Scope
from coordinator.financing.answers import DecisionView, Explanation, OfferAnswer, ReviewAnswer
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
from policies.lending.folder import PolicyFolder
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
    """

    def __init__(
        self,
        store: DecisionStore,
        policy: PolicyFolder,
        scores: ScoreSource,
        *,
        evidence_key: SecretBytes,
        lists_folder: Path = DEFAULT_FOLDER,
        clock: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        raise NotImplementedError

    async def decide(
        self, tenant: str, actor: str, request: DecisionRequest, *, key: str, request_hash: bytes
    ) -> Response:
        """Decide on an application: 201 with a `DecisionAnswer`."""
        raise NotImplementedError

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
        raise NotImplementedError

    async def accept_offer(self, tenant: str, actor: str, offer_id: str, *, key: str, request_hash: bytes) -> Response:
        """Accept an open offer: 200 with the `OfferAnswer`; its decision is approved then."""
        raise NotImplementedError

    async def propose(
        self, tenant: str, actor: str, review_id: str, proposal: ReviewProposal, *, key: str, request_hash: bytes
    ) -> Response:
        """The maker's verdict: 200 with the `ReviewAnswer`."""
        raise NotImplementedError

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
        raise NotImplementedError

    async def disburse(
        self, tenant: str, actor: str, decision_id: str, request: DisbursementRequest, *, key: str, request_hash: bytes
    ) -> Response:
        """Pay out under an approved decision: 200 with a `DisbursementAnswer`."""
        raise NotImplementedError

    def endpoints_changed(self, tenant: str) -> None:
        """Call after a webhook endpoint of the tenant was added or disabled: the next decision tells the right ones."""
        raise NotImplementedError

    # -- reads: blocking, in a thread -----------------------------------------------------------------

    def decision(self, scope: Scope, decision_id: str) -> DecisionView:
        """A decision with its transitions.

        Raises:
            DecisionUnknown: The scope has none of that id.
        """
        raise NotImplementedError

    def explanation(self, scope: Scope, decision_id: str) -> Explanation:
        """A decision in words, by the tables that made it, whatever the policy says now.

        Raises:
            DecisionUnknown: The scope has none of that id.
        """
        raise NotImplementedError

    def offer(self, scope: Scope, offer_id: str) -> OfferAnswer:
        """An offer; one that is past its day is shown as expired.

        Raises:
            OfferUnknown: The scope has none of that id.
        """
        raise NotImplementedError

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
        raise NotImplementedError

    def reviews(
        self, scope: Scope, *, decision_id: str | None = None, unfinished: bool = False
    ) -> tuple[ReviewAnswer, ...]:
        """Reviews, oldest first."""
        raise NotImplementedError
