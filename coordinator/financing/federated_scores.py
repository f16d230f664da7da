"""Scores that the members give together, through the gateway: with a deadline, a circuit breaker, and a degraded path.

What happens when there is no score is defined: gateway down, too slow, or its circuit open, members who do not answer
or do not know the applicant. The case is then decided on the average risk of the training population, with the reason
why, and two people look at it; it is never approved for want of a score, and never an error.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final

import grpc
from purgatory import AsyncCircuitBreakerFactory
from purgatory.domain.model import OpenedState

from coordinator.decisions.records import Mode
from coordinator.financing.checks import Matched, matched_among
from coordinator.financing.errors import ApplicantRefused, ScoreWithheld
from coordinator.financing.requests import Applicant, DecisionRequest
from coordinator.financing.score_source import Scored
from policies import documents
from policies.closed_model import one_line
from policies.federated_model import FederatedModel
from policies.lending.types import ReasonVote, Risk, pd_12m_of
from protos.scoring.v1 import scoring_pb2 as pb

log = logging.getLogger(__name__)

DEADLINE_S: Final = 2.0
FAILURES: Final = 5
RETRY_AFTER_S: Final = 10.0
SERVICE: Final = "/protos.scoring.v1.Scoring/"
_CIRCUIT: Final = "scoring gateway"
_HUNDREDTH: Final = Decimal("0.01")

_OUTAGES: Final = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
NO_GATEWAY: Final = "The members' scores could not be asked for; two people look at the case."
NO_ANSWER: Final = "The members did not give a score; two people look at the case."
UNKNOWN: Final = "No member knows the applicant, so there is no score; two people look at the case."
ONE_ONLY: Final = "One member alone knows the applicant, so its score is withheld; two people look at the case."
OTHER_MODEL: Final = "The members score by another model than the one on record; two people look at the case."


class _NoScore(Exception):
    """There is no score; the text is the reason on the decision."""


class FederatedScores:
    """The members' scores, for applicants that are named by token and grant.

    Args:
        channel: To the gateway; see `gateway_channel`.
        model: The public record of the members' model.
        purpose: What the scores are used for, as grants name it.
        horizon_months: Of the model's task.
        deadline_s: How long a decision waits for the members.
        failures: In a row, after which the gateway is left alone.
        retry_after_s: For how long.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        model: FederatedModel,
        *,
        purpose: str,
        horizon_months: int = 12,
        deadline_s: float = DEADLINE_S,
        failures: int = FAILURES,
        retry_after_s: float = RETRY_AFTER_S,
    ) -> None:
        self._model = model
        self._purpose = purpose
        self._horizon_months = horizon_months
        self._deadline_s = deadline_s
        # A caller that goes away says nothing about the gateway.
        self._breakers = AsyncCircuitBreakerFactory(
            default_threshold=failures, default_ttl=retry_after_s, exclude=[asyncio.CancelledError]
        )
        self._score = channel.unary_unary(
            f"{SERVICE}Score",
            request_serializer=pb.ScoreRequest.SerializeToString,
            response_deserializer=pb.ScoreReply.FromString,
        )
        self._batch = channel.unary_unary(
            f"{SERVICE}ScoreBatch",
            request_serializer=pb.ScoreBatchRequest.SerializeToString,
            response_deserializer=pb.ScoreBatchReply.FromString,
        )

    @property
    def mode(self) -> Mode:
        """Federated."""
        return "federated"

    @property
    def model_version(self) -> str:
        """By which the members name their model."""
        return self._model.version

    async def risk(self, applicant: Applicant) -> Scored:
        """Ask the members; without an answer, the average risk and why.

        Raises:
            ApplicantRefused: No entity and grant, or malformed ones.
            ScoreWithheld: The grant does not allow it.
        """
        if applicant.entity is None or applicant.grant is None:
            raise ApplicantRefused(
                "Expected the applicant's entity and grant, since the members hold the model, found features;"
                " send entity and grant."
            )
        request = pb.ScoreRequest(
            entity=bytes.fromhex(applicant.entity),
            task=self._model.task,
            model_version=self._model.version,
            purpose=self._purpose,
            grant=_grant(applicant.grant),
        )
        try:
            return self._scored(await self._ask(self._score, request))
        except _NoScore as missing:
            average = Risk(
                pd_12m=pd_12m_of(self._model.probability(0), self._horizon_months), model_version=self._model.version
            )
            return Scored(average, degraded=True, missing=str(missing))

    async def matched(self, request: DecisionRequest) -> Matched:
        """The members' own match of the documents, on top of what the documents say."""
        stated = matched_among(request.application())
        tokens = list(dict.fromkeys(bytes.fromhex(one.token) for one in request.evidence if one.token is not None))
        grant = request.applicant.grant
        if not tokens or grant is None:
            return Matched(stated, "unchecked")
        asked = pb.ScoreBatchRequest(
            entities=b"".join(tokens),
            task=documents.TASK,
            model_version=documents.VERSION,
            purpose=self._purpose,
            grant=_grant(grant),
        )
        try:
            reply: pb.ScoreBatchReply = await self._ask(self._batch, asked)
        except (_NoScore, ScoreWithheld, ApplicantRefused):
            return Matched(stated, "unchecked")
        kinds = len(documents.KINDS)
        if len(reply.evidence) != kinds * len(tokens):
            log.error("expected %d bytes of evidence, found %d", kinds * len(tokens), len(reply.evidence))
            return Matched(stated, "unchecked")
        results = {
            documents.match_of([byte != 0 for byte in reply.evidence[at : at + kinds]], documents.DEFAULT_REQUIRED)[0]
            for at in range(0, len(reply.evidence), kinds)
        }
        whole = not reply.degraded and len(tokens) == len(request.evidence)
        if "already financed" in results:
            return Matched(stated, "confirmed")
        three_way = "matched" if results == {"matched"} and stated != "mismatched" and whole else stated
        if stated == "matched" and results != {"matched"}:
            three_way = "pending"  # the documents agree with each other, and the members do not say so
        return Matched(three_way, "clear" if whole else "unchecked")

    async def _ask(self, call: Any, request: Any) -> Any:
        """One call, under the deadline and the breaker.

        Raises:
            _NoScore: The gateway or the members do not answer.
            ScoreWithheld: The grant does not allow it.
            ApplicantRefused: The request is malformed.
        """
        try:
            async with await self._breakers.get_breaker(_CIRCUIT):
                try:
                    return await call(request, timeout=self._deadline_s)
                except grpc.aio.AioRpcError as error:
                    if _is_outage(error):
                        raise
                    refused = error
        except OpenedState:
            raise _NoScore(NO_GATEWAY) from None
        except grpc.aio.AioRpcError as error:
            log.warning("no score of the gateway: %s %s", error.code().name, one_line(error.details() or "")[:200])
            raise _NoScore(NO_GATEWAY) from None
        details = one_line(refused.details() or "")[:300]
        match refused.code():
            case grpc.StatusCode.PERMISSION_DENIED:
                raise ScoreWithheld(f"Expected a grant that covers this score, found that it does not: {details}.")
            case grpc.StatusCode.INVALID_ARGUMENT:
                raise ApplicantRefused(f"Expected an entity and a grant that the members can read, found: {details}.")
            case _:  # a budget, a roster, a model that is not served
                log.warning("no score of the members: %s", details)
                raise _NoScore(NO_ANSWER)

    def _scored(self, reply: pb.ScoreReply) -> Scored:
        score, model = reply.score, self._model
        if score.outcome == pb.UNKNOWN_ENTITY:
            raise _NoScore(UNKNOWN)
        if score.outcome == pb.ONE_MEMBER_ONLY:
            raise _NoScore(ONE_ONLY)
        if score.outcome != pb.SCORED or len(score.votes) != len(model.reason_codes):
            log.error("expected %d votes, found %d", len(model.reason_codes), len(score.votes))
            raise _NoScore(OTHER_MODEL)
        risk = Risk(
            pd_12m=pd_12m_of(model.probability(score.log_odds_64ths), self._horizon_months),
            points=Decimal(repr(model.points(score.log_odds_64ths))).quantize(_HUNDREDTH),
            reason_votes=_votes(model.reason_codes, score.votes),
            model_version=model.version,
            degraded_roles=tuple(sorted(set(reply.silent_roles))),
        )
        return Scored(risk, survivors=tuple(reply.survivors), degraded=reply.degraded)


def gateway_channel(address: str, *, ca: bytes, certificate: bytes, key: bytes) -> grpc.aio.Channel:
    """A channel to the gateway over mutual TLS; make it in the event loop that uses it, and close it.

    Args:
        address: host:port.
        ca: The consortium's authority, PEM.
        certificate: This platform's, PEM.
        key: Its key, PEM.
    """
    credentials = grpc.ssl_channel_credentials(ca, key, certificate)
    # A gateway that comes back is found again within the breaker's patience, not gRPC's two minutes.
    options = (("grpc.max_reconnect_backoff_ms", 5000), ("grpc.keepalive_time_ms", 20_000))
    return grpc.aio.secure_channel(address, credentials, options=options)


def _is_outage(error: grpc.aio.AioRpcError) -> bool:
    """Whether the gateway is at fault: out of reach, or one that does not know this platform."""
    details = error.details() or ""
    refused_by_name = details.partition(": ")[0].replace("_", "").isalpha() and ": " in details
    if error.code() is grpc.StatusCode.PERMISSION_DENIED:
        return not refused_by_name
    return error.code() in _OUTAGES and not (error.code() is grpc.StatusCode.UNAVAILABLE and refused_by_name)


def _votes(codes: Sequence[str], votes: Sequence[int]) -> tuple[ReasonVote, ...]:
    """Reason codes with a vote, most votes first; among equals in the catalogue's order."""
    voted = [ReasonVote(code=code, votes=count) for code, count in zip(codes, votes, strict=True) if count]
    return tuple(sorted(voted, key=lambda one: -one.votes))


def _grant(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ApplicantRefused("Expected a grant in base64, found something else; send the file's bytes so.") from None
