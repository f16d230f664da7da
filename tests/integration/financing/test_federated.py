"""Decisions on the members' scores: the real gateway and responders behind a real gRPC server, and what goes wrong."""

import asyncio
import base64
import hashlib
import itertools
import json
from contextlib import asynccontextmanager

import grpc
import pytest

from coordinator.financing.errors import ApplicantRefused, ScoreWithheld
from coordinator.financing.federated_scores import FederatedScores
from coordinator.financing.requests import DecisionRequest
from coordinator.ledger.audit import audit
from coordinator.scoring_answers import NotAnswered, Question, batch_of, score_of
from policies import documents
from policies.federated_model import FederatedModel
from protos.scoring.v1 import scoring_pb2 as pb
from simulations.scoring_consortium import CLIENT, LAYOUT, MODEL_VERSION, PURPOSE, TASK, found
from simulations.scoring_in_process import LocalScoring, is_step

RECORD = FederatedModel(
    run_id="r1",
    task=TASK,
    version=MODEL_VERSION,
    bias=-4.5,
    pdo_points=20.0,
    base_points=600.0,
    base_odds=50.0,
    reason_codes=LAYOUT.reason_codes,
)


class Gateway:
    """Serves a `LocalScoring`'s gateway, as the front does; counts calls, and can hang or refuse."""

    def __init__(self, scoring):
        self.scoring, self.calls, self.hangs = scoring, 0, False

    async def _ask(self, asked, tokens, context):
        self.calls += 1
        if self.hangs:
            await asyncio.sleep(3600)
        question = Question(asked.task, asked.model_version, asked.purpose, CLIENT, asked.grant)
        try:
            return await self.scoring.gateway.score(question, tokens)
        except NotAnswered as refused:
            code = {
                "grant_entity": grpc.StatusCode.PERMISSION_DENIED,
                "grant_signature": grpc.StatusCode.PERMISSION_DENIED,
                "grant": grpc.StatusCode.PERMISSION_DENIED,
                "too_few_members": grpc.StatusCode.UNAVAILABLE,
            }.get(refused.code, grpc.StatusCode.FAILED_PRECONDITION)
            await context.abort(code, f"{refused.code}: {refused}")

    async def score(self, asked, context):
        (answer,) = await self._ask(asked, (asked.entity,), context)
        silent = self.scoring.gateway.silent_roles(answer.opened.survivors)
        return pb.ScoreReply(
            score=score_of(answer, self.scoring.gateway.layout(asked.task)),
            degraded=bool(silent),
            silent_roles=silent,
            survivors=answer.opened.survivors,
        )

    async def batch(self, asked, context):
        answers = await self._ask(
            asked, tuple(asked.entities[at : at + 32] for at in range(0, len(asked.entities), 32)), context
        )
        return batch_of(answers, self.scoring.gateway.layout(asked.task))

    @asynccontextmanager
    async def served(self):
        server = grpc.aio.server()
        methods = {
            "Score": grpc.unary_unary_rpc_method_handler(
                self.score, pb.ScoreRequest.FromString, pb.ScoreReply.SerializeToString
            ),
            "ScoreBatch": grpc.unary_unary_rpc_method_handler(
                self.batch, pb.ScoreBatchRequest.FromString, pb.ScoreBatchReply.SerializeToString
            ),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("protos.scoring.v1.Scoring", methods),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield server, f"127.0.0.1:{port}"
        finally:
            await server.stop(grace=None)


class Platform:
    """The use cases in federated mode, within one event loop."""

    def __init__(self, desk, gateway, server, scores):
        self.desk, self.gateway, self.server, self.scores = desk, gateway, server, scores
        self._keys = itertools.count()

    def request(self, token, grant=None, **changes):
        scoring = self.gateway.scoring
        fields = {
            "applicant": {
                "id": token.hex()[:16],
                "name": "Lantern Home Goods Ltd",
                "country": "CN",
                "history_months": 26,
                "entity": token.hex(),
                "grant": base64.b64encode(grant if grant is not None else scoring.grant(token)).decode(),
            },
            "product": "order",
            "amount": "100000.00",
            "currency": "CNY",
            "tenor_days": 90,
            "industry": "home",
            "evidence": [
                {
                    "kind": "purchase_order",
                    "reference": f"PO-{next(self._keys)}",
                    "value": {"amount": "500000.00", "currency": "CNY"},
                }
            ],
        }
        return DecisionRequest.model_validate_json(json.dumps(fields | changes))

    async def decide(self, request, key=None):
        key = key or f"key-{next(self._keys)}"
        digest = hashlib.sha256(request.model_dump_json().encode()).digest()
        response = await self.desk.financing.decide("acme", "platform-a", request, key=key, request_hash=digest)
        return json.loads(response.body)


@pytest.fixture
def six(tmp_path):
    return LocalScoring(found(tmp_path / "consortium", 6, 200))


@pytest.fixture
def platform(six, make_desk):
    """Runs a script of a `Platform`: `platform(script, **options of FederatedScores)`."""

    def run(script, scoring=six, **options):
        async def whole():
            gateway = Gateway(scoring)
            async with gateway.served() as (server, address), grpc.aio.insecure_channel(address) as channel:
                scores = FederatedScores(
                    channel, RECORD, purpose=PURPOSE, **{"deadline_s": 30.0, "retry_after_s": 3600.0} | options
                )
                return await script(Platform(make_desk(scores), gateway, server, scores))

        return scoring.run(whole)

    return run


def known_to(scoring, count):
    """Entities that this many members know."""
    return [token for token in scoring.consortium.tokens if int(scoring.consortium.pooled([token])[0, 1]) >= count]


def codes(answer):
    return [reason["code"] for reason in answer["outcome"].get("reasons", [])]


def test_a_decision_rests_on_the_members_total(platform, six, store):
    token = known_to(six, 3)[0]

    answer = platform(lambda one: one.decide(one.request(token)))

    total = int(six.consortium.pooled([token])[0, 0])
    assert float(answer["score"]["pd_12m"]) == pytest.approx(RECORD.probability(total), abs=1e-8)
    assert float(answer["score"]["points"]) == pytest.approx(RECORD.points(total), abs=0.01)
    assert (answer["mode"], answer["score"]["degraded_roles"], answer["score"]["missing"]) == ("federated", [], None)
    with store.reading() as connection:
        entry = connection.exec_driver_sql("select body from ledger_entries").scalar_one()
        assert audit(connection).findings == []
    assert json.loads(entry)["survivors"] == sorted(six.consortium.members)
    assert json.loads(entry)["mode"] == "federated"


def test_a_document_that_the_members_were_not_asked_about_is_unchecked_and_referred(platform, six):
    answer = platform(lambda one: one.decide(one.request(known_to(six, 3)[0])))

    assert answer["checks"]["double_financing"] == "unchecked"
    assert "DOUBLE_FINANCING_UNCHECKED" in codes(answer)


def test_a_silent_role_is_named_and_weighs_by_policy(platform, six):
    token = known_to(six, 3)[0]

    async def script(one):
        six.nodes[six.consortium.members[0]].silent = is_step("request")
        return await one.decide(one.request(token))

    answer = platform(script)

    assert len(answer["score"]["degraded_roles"]) == 1
    assert answer["score"]["missing"] is None


def test_a_gateway_that_is_down_makes_a_referral_with_its_reason_and_no_error(platform, six):
    token = known_to(six, 3)[0]

    async def script(one):
        await one.server.stop(grace=None)
        return await one.decide(one.request(token)), one.desk.view((await one.decide(one.request(token)))["id"])

    answer, view = platform(script)

    assert (answer["status"], codes(answer)[0]) == ("referred", "SCORE_MISSING")
    assert "could not be asked" in answer["score"]["missing"]
    assert answer["review"] is not None
    assert view.outcome.proposed.limit.amount > 0


def test_after_failures_in_a_row_the_gateway_is_left_alone_and_asked_again_later(platform, six):
    token = known_to(six, 3)[0]

    async def script(one):
        one.gateway.hangs = True
        answers = [await one.decide(one.request(token)) for _ in range(5)]
        asked = one.gateway.calls
        one.gateway.hangs = False
        breaker = await one.scores._breakers.get_breaker("scoring gateway")
        breaker.context._state.opened_at -= 3601
        return answers, asked, await one.decide(one.request(token))

    answers, asked, later = platform(script, deadline_s=0.05, failures=3)

    assert asked == 3
    assert {answer["status"] for answer in answers} == {"referred"}
    assert later["score"]["missing"] is None


@pytest.mark.parametrize("pd_would_be", ["approved", "declined"])
def test_never_an_approval_without_a_score_and_never_a_decline_for_want_of_one(platform, six, pd_would_be):
    """Whatever the average risk is: very low, or above every appetite."""
    record = RECORD.model_copy(update={"bias": -6.0 if pd_would_be == "approved" else 2.0})

    async def script(one):
        one.scores._model = record
        await one.server.stop(grace=None)
        return await one.decide(one.request(known_to(six, 3)[0]))

    answer = platform(script)

    assert (answer["status"], codes(answer)[0]) == ("referred", "SCORE_MISSING")


def test_what_no_score_would_change_is_declined_without_one(platform, six):
    async def script(one):
        await one.server.stop(grace=None)
        blocked = one.request(known_to(six, 3)[0])
        blocked = blocked.model_copy(
            update={"applicant": blocked.applicant.model_copy(update={"name": "Osip Maratovich Valdrenko"})}
        )
        return await one.decide(blocked)

    answer = platform(script)

    assert answer["status"] == "declined"
    assert "NAME_SANCTIONED" in codes(answer)


def test_too_few_members_and_an_unknown_applicant_are_referrals(platform, six):
    token = known_to(six, 3)[0]

    async def script(one):
        unknown = await one.decide(one.request(bytes(32)))
        for member in six.consortium.members[1:]:
            await six.disconnect(member)
        return unknown, await one.decide(one.request(token))

    unknown, alone = platform(script)

    assert (unknown["status"], "No member knows" in unknown["score"]["missing"]) == ("referred", True)
    assert (alone["status"], codes(alone)[0]) == ("referred", "SCORE_MISSING")


def test_a_grant_that_does_not_cover_the_applicant_gives_no_decision(platform, six):
    token, other = known_to(six, 3)[:2]

    async def script(one):
        with pytest.raises(ScoreWithheld, match="grant"):
            await one.decide(one.request(token, grant=six.grant(other)))
        with pytest.raises(ApplicantRefused, match="send entity and grant"):
            await one.decide(
                one.request(token).model_copy(
                    update={
                        "applicant": one.request(token).applicant.model_copy(
                            update={"entity": None, "grant": None, "features": {}}
                        )
                    }
                )
            )

    platform(script)


def test_a_repeated_request_does_not_ask_the_members_again(platform, six):
    async def script(one):
        request = one.request(known_to(six, 3)[0])
        first, calls = await one.decide(request, "k"), one.gateway.calls
        return first, await one.decide(request, "k"), calls, one.gateway.calls

    first, again, before, after = platform(script)

    assert first == again
    assert before == after == 1


@pytest.mark.parametrize(
    ("evidence", "three_way", "double"),
    [
        ((1, 1, 1, 0, 0), "matched", "clear"),
        ((1, 1, 1, 0, 1), "pending", "confirmed"),
        ((1, 0, 1, 0, 0), "pending", "clear"),
    ],
)
def test_the_members_match_of_a_document_is_taken(platform, six, evidence, three_way, double):
    """Answers of the gateway are stated here; what the members make of documents has its own tests."""

    async def script(one):
        async def batch(asked, **_options):
            assert (asked.task, asked.model_version) == (documents.TASK, documents.VERSION)
            return pb.ScoreBatchReply(evidence=bytes(evidence) * (len(asked.entities) // 32))

        invoice = {
            "kind": "receivable",
            "reference": "INV-1",
            "value": {"amount": "500000.00", "currency": "CNY"},
            "token": "ab" * 32,
        }
        request = one.request(known_to(six, 3)[0], product="receivable", evidence=[invoice])
        one.scores._batch = batch
        return await one.scores.matched(request)

    found_out = platform(script)

    assert (found_out.three_way, found_out.double_financing) == (three_way, double)
