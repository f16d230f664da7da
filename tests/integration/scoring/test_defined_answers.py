"""Every case that a caller may meet has one defined answer, over real streams: gRPC and mutual TLS, real clocks."""

import numpy as np
import pytest
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from nodes.scoring import Reply, ScoringResponder
from policies.disclosure import read_disclosure
from policies.grants import issue_revocations
from protos.masked_sum import masked_sum_pb2 as masked
from protos.masked_sum.request import Request
from protos.scoring.v1 import scoring_pb2 as pb
from simulations.scoring_consortium import LAYOUT, found
from simulations.scoring_live import LiveScoring


class Live:
    """Consortia that are founded once and whose entities are asked about once."""

    def __init__(self, folder, num_members):
        self.consortium = found(folder, num_members, 400)
        self._by_count = {
            count: iter([t for t in self.consortium.tokens if self.consortium.pooled([t])[0, 1] == count])
            for count in range(4)
        }

    def entity(self, count=3):
        """A fresh entity that `count` members know."""
        return next(self._by_count[count])

    def running(self, **changes):
        return LiveScoring(self.consortium, **changes)


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    return Live(tmp_path_factory.mktemp("three") / "consortium", 3)


@pytest.fixture(scope="module")
def six(tmp_path_factory):
    return Live(tmp_path_factory.mktemp("six") / "consortium", 6)


def is_pooled(live, token, reply):
    total = live.consortium.pooled([token], reply.survivors)[0]
    return (
        reply.score.outcome == pb.SCORED
        and reply.score.log_odds_64ths == total[0]
        and list(reply.score.votes) == total[LAYOUT.votes].tolist()
    )


# ---- who knows, who is there ----


def test_entity_that_nobody_knows_is_unknown_and_has_no_score(three):
    with three.running() as live:
        reply = live.ask(bytes(32))
    assert reply.score == pb.Score(outcome=pb.UNKNOWN_ENTITY)
    assert not reply.degraded


def test_entity_that_one_node_knows_has_no_score_unless_the_grant_lets_it_be_used(three):
    token, other = three.entity(1), three.entity(1)
    with three.running() as live:
        withheld = live.ask(token)
        allowed = live.ask(other, grant=live.consortium.grant([other], one_role_may_answer=True))
    assert withheld.score == pb.Score(outcome=pb.ONE_MEMBER_ONLY)
    assert is_pooled(three, other, allowed)


def test_all_nodes_down_is_said_so_and_scores_come_back_with_them(three):
    token = three.entity()
    with three.running() as live:
        for member in live.consortium.members:
            live.stop(member)
        down = live.ask(token)
        live.start(*live.consortium.members)
        reply = live.ask(token)
    assert down == "no_members"
    assert is_pooled(three, token, reply)


def test_fewer_nodes_than_the_bounds_ask_for_is_too_few(three):
    token = three.entity()
    with three.running() as live:
        live.stop(live.consortium.members[0])
        assert live.ask(token) == "too_few_members"


def test_node_that_is_down_makes_the_answer_degraded_and_names_its_role(six):
    token, gone = six.entity(), six.consortium.members[0]
    with six.running() as live:
        live.stop(gone)
        reply = live.ask(token)
        entry = read_disclosure(reply.disclosure, live.consortium.agreement.coordinator.identity_key_bytes)
    assert reply.degraded
    assert list(reply.silent_roles) == [gone.rpartition("-")[0]]
    assert gone not in reply.survivors
    assert list(entry.survivors) == list(reply.survivors)


def test_stale_model_version_is_refused_by_name(three):
    with three.running() as live:
        assert live.ask(three.entity(), model_version="ee" * 32) == "model_version"


# ---- clocks ----


def test_clock_skew_of_one_node_makes_the_answer_degraded(six):
    token, member = six.entity(), six.consortium.members[2]
    with six.running(skew_s={member: 600.0}) as live:
        reply = live.ask(token)
    assert member not in reply.survivors
    assert reply.degraded


def test_clock_skew_of_every_node_is_refused_by_name(three):
    with three.running(skew_s=dict.fromkeys(three.consortium.members, -600.0)) as live:
        assert live.ask(three.entity()) == "clock_skew"


# ---- replayed, reordered, damaged answers ----


class Replays(ScoringResponder):
    """Answers every request with the upload of the first one."""

    first: Reply | None = None

    def handle(self, message):
        reply = super().handle(message)
        if message.WhichOneof("what") != "request":
            return reply
        self.first = self.first or reply
        return self.first


class RunsAhead(ScoringResponder):
    """Sends an answer to S2b where S1 is due, and the upload only afterwards."""

    def handle(self, message):
        if message.WhichOneof("what") == "request":
            digest = Request.from_bytes(message.request).digest
            early = masked.ShareReply(request_digest=digest).SerializeToString()
            return Reply(pb.FromNode(shares=early))
        return super().handle(message)


class Damages(ScoringResponder):
    """Changes the last byte of its uploads."""

    def handle(self, message):
        reply = super().handle(message)
        if reply is not None and reply.message.upload:
            damaged = masked.Upload.FromString(reply.message.upload)
            damaged.shares = damaged.shares[:-1]
            reply.message.upload = damaged.SerializeToString()
        return reply


@pytest.mark.parametrize("liar", [Replays, RunsAhead, Damages])
def test_node_whose_answers_are_replayed_reordered_or_damaged_is_left_out(six, liar):
    member = six.consortium.members[1]
    first, second = six.entity(), six.entity()
    with six.running(liars={member: liar}) as live:
        live.ask(first)
        reply = live.ask(second)
    assert member not in reply.survivors
    assert is_pooled(six, second, reply)


class AsksAgain(ScoringResponder):
    """Gets the gateway's last S1 and S2b once more, as a gateway that replays would send them."""

    refusals = []  # noqa: RUF012 - one list for the test

    def handle(self, message):
        reply = super().handle(message)
        if message.WhichOneof("what") in {"request", "shares"}:
            again = super().handle(message)
            type(self).refusals.append(again.message.refusal.code)
        return reply


def test_request_or_reveal_that_the_gateway_replays_is_refused(three):
    AsksAgain.refusals.clear()
    with three.running(liars=dict.fromkeys(three.consortium.members, AsksAgain)) as live:
        live.ask(three.entity())
    assert set(AsksAgain.refusals) == {"StaleSum", "WrongEpoch"}


# ---- a second opening ----


def test_second_opening_for_an_entity_with_other_survivors_is_refused(six):
    token = six.entity()
    with six.running() as live:
        first = live.ask(token)
        live.forget_answers()
        live.stop(live.consortium.members[0])
        second = live.ask(token)
    assert is_pooled(six, token, first)
    assert second == "roster_locked"


def test_gateway_that_remembers_names_the_member_that_is_missing_for_a_second_opening(six):
    token = six.entity()
    with six.running() as live:
        live.ask(token)

        async def next_window():
            live.gateway._answers.clear()

        live.front.run(next_window())
        live.stop(live.consortium.members[0])
        assert live.ask(token) == "roster_locked"


# ---- budgets ----


@pytest.mark.parametrize(
    ("policy", "code"),
    [
        ({"answers_per_entity": 1}, "entity_budget"),
        ({"entities_per_requester": 1}, "requester_budget"),
        ({"distinct_entities": 1}, "daily_cap"),
    ],
)
def test_c9_exhausted_budget_is_refused_by_name(tmp_path, policy, code):
    consortium = found(tmp_path / "consortium", 3, 60)
    tokens = [t for t in consortium.tokens if consortium.pooled([t])[0, 1] == 3][:2]
    with LiveScoring(consortium, policy_changes=policy) as live:
        first = live.ask(tokens[0])
        live.forget_answers()
        second = live.ask(tokens[0] if code == "entity_budget" else tokens[1])
    assert first.score.outcome == pb.SCORED
    assert second == code


# ---- grants ----


def test_revoked_grant_is_refused_before_and_after_the_nodes_restart(tmp_path):
    consortium = found(tmp_path / "consortium", 3, 60)
    token, other = [t for t in consortium.tokens if consortium.pooled([t])[0, 1] == 3][:2]
    with LiveScoring(consortium) as live:
        live.front.revoke(issue_revocations(consortium.issuer, 1, ["grant-1"]))
        refused = live.ask(token)
        for member in consortium.members:
            live.stop(member)
        live.start(*consortium.members)
        again = live.ask(token)
        fine = live.ask(other, grant=consortium.grant([other], grant_id="grant-2"))
    assert refused == again == "grant_revoked"
    assert fine.score.outcome == pb.SCORED


def test_wrong_purpose_is_refused_whoever_is_wrong(three):
    token = three.entity()
    with three.running() as live:
        asked = live.ask(token, purpose="marketing")
        granted = live.ask(token, grant=live.consortium.grant([token], purposes=("marketing",)))
    assert asked == granted == "purpose"


def test_answer_survives_a_gateway_that_is_stopped_and_started(three):
    token = three.entity()
    with three.running() as live:
        first = live.ask(token)
        live.front.stop()
        live.open_gateway()
        live.wait_for_epoch()
        again = live.ask(token)
    assert again.from_cache
    assert again.score == first.score
    assert again.request_digest == first.request_digest
    assert np.array_equal(again.survivors, first.survivors)


# ---- what the port tells of itself ----


def test_gateway_describes_its_services_by_reflection(three):
    with three.running() as live, live.channel() as channel:
        names = ProtoReflectionDescriptorDatabase(channel).get_services()
    assert {"protos.scoring.v1.Scoring", "protos.scoring.v1.ScoringNodes", "grpc.health.v1.Health"} <= set(names)


def test_node_whose_journal_cannot_be_written_answers_nothing_and_comes_back_when_it_can(six, monkeypatch):
    token, other, member = six.entity(), six.entity(), six.consortium.members[0]
    with six.running() as live:
        journal = live.services[member]._journal
        real = journal.append

        def full(*_, **__):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(journal, "append", full)
            without = live.ask(token)
        assert journal.append == real
        live.wait_for_epoch()
        again = live.ask(other)
    assert member not in without.survivors
    assert is_pooled(six, other, again)
