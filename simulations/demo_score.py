"""One federated score of the demo: the platform asks the gateway about a borrower, and nine nodes answer together.

What the issuer of grants, the platform and the nodes each hold lies in one folder here; each step uses its own party's.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import grpc
from tenacity import retry, retry_if_exception, stop_after_delay, wait_random_exponential

from nodes.entity_tokens import EntityTokens
from policies.federated_model import load_federated_model
from policies.grants import issue_grant
from policies.token_key import load_token_key
from protos.scoring.v1 import scoring_pb2 as pb
from simulations.consortium import Consortium, ScoringPlan
from simulations.role_dealing import DealtRoles

ISSUER: Final = "issuer"
PATIENCE_S: Final = 30.0
DAY_S: Final = 86_400
_ASK: Final = "/protos.scoring.v1.Scoring/Score"
_NOT_YET: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.FAILED_PRECONDITION})
"""Nodes take up a new model within a second of the run's end, and their keys when all of them are online."""


def known_everywhere(dealt: DealtRoles) -> str:
    """A borrower that a member of every role knows, so that the score has all of its parts."""
    id_column = dealt.data.id_column
    known = [
        frozenset(entity for member in dealt.members_of(role) for entity in dealt.rows[member][id_column])
        for role in dealt.data.roles
    ]
    return str(min(frozenset.intersection(*known)))


def federated_score(consortium: Consortium, plan: ScoringPlan, run_folder: Path, entity: str) -> Mapping[str, Any]:
    """Have a grant issued for one borrower, and ask for its score.

    Args:
        consortium: Its processes run, and a vertical run has finished.
        plan: How scores are answered.
        run_folder: What the run left of its task: the model's record.
        entity: The borrower.

    Returns:
        entity, pd, points, reasons (codes, the most voted first), degraded, silent_roles, survivors.

    Raises:
        grpc.RpcError: There is no answer.
    """
    model = load_federated_model(run_folder)
    tokens = EntityTokens(load_token_key(consortium.token_key_path), consortium.agreement.entities.id_type)
    (token,) = tokens.of([entity])
    if token is None:
        raise ValueError(f"expected a borrower's id, found {entity[:40]!r}")
    now = int(time.time())
    grant = issue_grant(
        consortium.identity(ISSUER).identity_key,
        grant_id="demo-1",
        purposes=plan.purposes,
        roles=sorted({member.role for member in consortium.agreement.members}),
        not_before_s=now - 60,
        expires_s=now + DAY_S,
        tokens=[token],
    )
    request = pb.ScoreRequest(
        entity=token, task=model.task, model_version=model.version, purpose=plan.purposes[0], grant=grant
    )
    reply = _ask(consortium, plan, request)
    votes = sorted(zip(reply.score.votes, model.reason_codes, strict=True), key=lambda vote: (-vote[0], vote[1]))
    return {
        "entity": entity,
        "pd": model.probability(reply.score.log_odds_64ths),
        "points": model.points(reply.score.log_odds_64ths),
        "reasons": [code for count, code in votes if count],
        "degraded": reply.degraded,
        "silent_roles": list(reply.silent_roles),
        "survivors": list(reply.survivors),
    }


def _ask(consortium: Consortium, plan: ScoringPlan, request: pb.ScoreRequest) -> pb.ScoreReply:
    keys = consortium.client_dir
    credentials = grpc.ssl_channel_credentials(
        consortium.authority_certificate.read_bytes(),
        (keys / f"{plan.client}.pem").read_bytes(),
        (keys / f"{plan.client}.crt").read_bytes(),
    )
    with grpc.secure_channel(f"127.0.0.1:{plan.port}", credentials) as channel:
        call = channel.unary_unary(
            _ASK,
            request_serializer=pb.ScoreRequest.SerializeToString,
            response_deserializer=pb.ScoreReply.FromString,
        )

        @retry(
            retry=retry_if_exception(lambda error: isinstance(error, grpc.RpcError) and error.code() in _NOT_YET),
            stop=stop_after_delay(PATIENCE_S),
            wait=wait_random_exponential(multiplier=0.1, max=1.0),
            reraise=True,
        )
        def ask() -> pb.ScoreReply:
            reply: pb.ScoreReply = call(request, timeout=10.0)
            return reply

        return ask()
