"""The real gateway with the real responders in one process: answers, refusals, and what a silent node costs."""

import asyncio

import numpy as np
import pytest

from coordinator.scoring_opening import Deadline
from models.score_slots import ScoreSlots
from nodes.scoring_tables import EntityTable, ScoreTables, publish
from policies.fingerprints import fingerprint
from policies.grants import issue_revocations
from protos.masked_sum import masked_sum_pb2 as masked
from protos.scoring.v1 import scoring_pb2 as pb
from protos.scoring.v1.scoring_pb2 import StoredDisclosure
from simulations.scoring_consortium import LAYOUT, MODEL_VERSION, ROLES, TASK
from simulations.scoring_in_process import is_step

DAY_S = 86_400


def knowing(scoring, token):
    return int(scoring.consortium.pooled([token])[0, 1])


def entity(scoring, count, but=0):
    """An entity that `count` members know."""
    return [token for token in scoring.consortium.tokens if knowing(scoring, token) == count][but]


def pooled(scoring, token, survivors=None):
    """The sum in the clear as the platform may keep it: nothing below two knowing members, and never their number."""
    total = scoring.consortium.pooled([token], survivors)[0]
    if total[1] < 2:
        total[:] = 0
    total[1] = 0
    return total


def matches_pooled(scoring, answers, tokens):
    return all(
        np.array_equal(answer.total, pooled(scoring, token, answer.opened.survivors))
        for answer, token in zip(answers, tokens, strict=True)
    )


# ---- answers ----


def test_every_score_equals_the_pooled_computation(six):
    tokens = six.consortium.tokens[:40]

    async def script():
        singles = [(await six.ask(token))[0] for token in tokens[:20]]
        return singles + await six.ask(*tokens[20:])

    answers = six.run(script)
    assert matches_pooled(six, answers, tokens)
    assert all(answer.opened.survivors == six.consortium.members for answer in answers)


def test_unknown_entity_everywhere_is_answered_as_unknown(six):
    (answer,) = six.run(lambda: six.ask(bytes(32)))
    assert answer.outcome == pb.UNKNOWN_ENTITY


def test_c6_total_over_one_knowing_member_is_withheld_unless_the_grant_says_otherwise(six):
    one, other = entity(six, 1), entity(six, 1, but=1)

    async def script():
        return [
            *(await six.ask(one)),
            *(await six.ask(other, grant=six.grant(other, one_role_may_answer=True))),
        ]

    withheld, allowed = six.run(script)
    assert withheld.outcome == pb.ONE_MEMBER_ONLY
    assert allowed.outcome == pb.SCORED


def test_roles_that_the_grant_does_not_name_answer_zeros(six):
    token = entity(six, 3)
    (answer,) = six.run(lambda: six.ask(token, grant=six.grant(token, roles=ROLES[:2])))
    two = [member for member in six.consortium.members if not member.startswith(ROLES[2])]

    assert np.array_equal(answer.total, pooled(six, token, two))
    assert answer.opened.survivors == six.consortium.members


def test_c10_one_member_of_a_role_answers_where_two_know_an_entity(six):
    """Two banks that know one seller are not added twice: the grant names who answers, for members alone to read."""
    token = entity(six, 3)
    knows, twin = (f"bank-{n}" for n in ((1, 2) if token in six.consortium.tables["bank-1"].rows else (2, 1)))
    table = six.consortium.tables[twin]
    made_up = np.full((1, LAYOUT.width), 7)
    six.consortium.tables[twin] = EntityTable.of(LAYOUT, [*table.rows, token], np.vstack([table.slots[:-1], made_up]))

    async def script():
        return await six.ask(token, grant=six.grant(token, answering={"bank": knows}))

    (answer,) = six.run(script)
    others = [member for member in six.consortium.members if member != twin]
    assert np.array_equal(answer.total, pooled(six, token, others))
    assert answer.opened.survivors == six.consortium.members


def test_c10_grant_that_names_who_answers_is_refused_by_a_node_that_cannot_read_it(three):
    token = entity(three, 3)

    async def script():
        grant = three.grant(token, answering={"bank": "bank-1"})
        for node in three.nodes.values():
            node.responder._guard._token_key = None
        return await three.ask(token, grant=grant)

    assert three.run(script) == "grant_answerers"


def test_answer_of_the_window_comes_from_the_cache_and_nodes_are_not_asked(six):
    token = entity(six, 3)

    async def script():
        first = await six.ask(token)
        asked = {member: len(node.seen) for member, node in six.nodes.items()}
        again = await six.ask(token)
        return first, again, asked == {member: len(node.seen) for member, node in six.nodes.items()}

    first, again, silent = six.run(script)
    assert silent
    assert again[0].from_cache
    assert again[0].opened is first[0].opened


def test_two_clients_that_ask_at_once_share_one_opening(six):
    token = entity(six, 3)

    async def script():
        return await asyncio.gather(*(six.ask(token) for _ in range(8)))

    assert len({answers[0].opened.request_digest for answers in six.run(script)}) == 1


# ---- silent nodes ----


@pytest.mark.parametrize("step", ["request", "shares"])
def test_node_that_falls_silent_costs_no_answer(six, step):
    token = entity(six, 3)
    six_members = six.consortium.members

    async def script():
        six.nodes[six_members[2]].silent = is_step(step)
        return await six.ask(token)

    answers = six.run(script)
    assert matches_pooled(six, answers, [token])
    assert (six_members[2] in answers[0].opened.survivors) == (step == "shares")
    assert bool(six.gateway.silent_roles(answers[0].opened.survivors)) == (step == "request")


@pytest.mark.parametrize("step", ["request", "shares"])
def test_node_that_dies_in_the_middle_costs_no_answer(six, step):
    token = entity(six, 3)

    async def script():
        six.nodes[six.consortium.members[0]].dies = is_step(step)
        return await six.ask(token)

    assert matches_pooled(six, six.run(script), [token])


def test_second_node_that_falls_silent_ends_the_request_below_the_bounds(six):
    async def script():
        for member in six.consortium.members[:3]:
            six.nodes[member].silent = is_step("request")
        return await six.ask(entity(six, 3))

    assert six.run(script) == "too_few_members"


def test_members_that_are_all_silent_once_are_asked_once_more(six):
    """As when one disk holds all of them up: nobody was asked for a share, so that no total differs from another."""
    token, asked = entity(six, 3), []

    async def script():
        for member, node in six.nodes.items():
            node.silent = lambda m, who=member: (
                m.WhichOneof("what") == "request" and not asked.count(who) and (asked.append(who) or True)
            )
        return await six.ask(token)

    answers = six.run(script)
    assert matches_pooled(six, answers, [token])
    assert sorted(asked) == list(six.consortium.members)


class Loop:
    """An event loop's clock, moved by hand."""

    def __init__(self):
        self.now, self.timers = 100.0, []

    def time(self):
        return self.now

    def call_later(self, seconds, call):
        self.timers.append((self.now + seconds, call))


def test_deadline_of_a_gateway_that_was_held_up_itself_gives_the_members_their_time(monkeypatch):
    """Timers of a loop that did not run fire before the answers that lie unread."""
    loop, over = Loop(), asyncio.Event()
    monkeypatch.setattr("coordinator.scoring_opening.asyncio.get_running_loop", lambda: loop)
    Deadline(2.0, over)
    loop.now += 5.0
    loop.timers[-1][1]()
    held_up = over.is_set()
    loop.now += 2.1
    loop.timers[-1][1]()

    assert not held_up
    assert over.is_set()
    assert [due for due, _ in loop.timers] == [102.0, 107.0]


def test_node_that_comes_back_takes_part_again_in_a_new_epoch(six):
    member, tokens = six.consortium.members[1], six.consortium.tokens[:3]

    async def script():
        before = await six.ask(tokens[0])
        await six.disconnect(member)
        without = await six.ask(tokens[1])
        await six.connect(member)
        return [*before, *without, *(await six.ask(tokens[2]))]

    answers = six.run(script)
    assert matches_pooled(six, answers, tokens)
    assert [member in answer.opened.survivors for answer in answers] == [True, False, True]


def test_one_node_only_is_refused_as_too_few(three):
    async def script():
        for member in three.consortium.members[1:]:
            await three.disconnect(member)
        return await three.ask(entity(three, 3))

    assert three.run(script) == "too_few_members"


def test_all_nodes_down_is_refused_as_no_members(three):
    async def script():
        for member in three.consortium.members:
            await three.disconnect(member)
        return await three.ask(entity(three, 3))

    assert three.run(script) == "no_members"


# ---- refusals of the nodes ----


def test_stale_model_version_is_refused_by_name(three):
    assert three.run(lambda: three.ask(entity(three, 3), model_version="ff" * 32)) == "model_version"


def test_model_version_that_is_published_later_is_served_without_a_restart(three, tmp_path):
    """What a training run does at its end, while the nodes answer."""
    token, version = entity(three, 3), "cd" * 32
    folders = {member: tmp_path / "tables" / member for member in three.consortium.members}

    async def script():
        watched = {member: ScoreTables(folder) for member, folder in folders.items()}
        for member, node in three.nodes.items():
            node.responder._tables = watched[member]
        before = await three.ask(token, model_version=version)
        for member, folder in folders.items():
            publish(folder, TASK, version, three.consortium.tables[member])
            watched[member].refresh()
        return before, await three.ask(token, model_version=version)

    before, after = three.run(script)
    assert before == "model_version"
    assert matches_pooled(three, after, [token])


def test_clock_skew_of_every_node_is_refused_by_name(three):
    three.skew_s = dict.fromkeys(three.consortium.members, -600.0)
    assert three.run(lambda: three.ask(entity(three, 3))) == "clock_skew"


def test_clock_skew_of_one_node_makes_the_answer_degraded(six):
    six.skew_s = {six.consortium.members[0]: 600.0}
    (answer,) = six.run(lambda: six.ask(entity(six, 3)))
    assert answer.opened.survivors == six.consortium.members[1:]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"purpose": "marketing"}, "purpose"),
        ({"grant": b""}, "grant_issuer"),
        ({"grant": b"\xff"}, "grant"),
    ],
)
def test_request_outside_policy_or_without_a_grant_is_refused(three, changes, code):
    assert three.run(lambda: three.ask(entity(three, 3), **changes)) == code


def test_grant_is_checked_for_signature_expiry_purpose_and_entity(three):
    token, other = three.consortium.tokens[:2]
    good = three.grant(token)
    signed = pb.SignedGrant.FromString(good)
    forged = pb.SignedGrant(body=signed.body + b"\x38\x01", issuer=signed.issuer, signature=signed.signature)

    async def script():
        codes = [
            await three.ask(token, grant=forged.SerializeToString()),
            await three.ask(other, grant=good),
            await three.ask(token, grant=three.grant(token, purposes=("monitoring",))),
        ]
        three.clock.at_s += 2 * DAY_S
        return [*codes, await three.ask(token, grant=good)]

    assert three.run(script) == ["grant_signature", "grant_entity", "purpose", "epoch_expired"]


def test_expired_grant_is_refused(three):
    token = three.consortium.tokens[0]
    grant = three.grant(token, lifetime_s=100)

    async def script():
        three.clock.at_s += 200
        return await three.ask(token, grant=grant)

    assert three.run(script) == "grant_expired"


def test_revoked_grant_is_refused_and_an_older_list_does_not_bring_it_back(three):
    tokens, issuer = three.consortium.tokens[:3], three.consortium.issuer

    async def script():
        first = await three.ask(tokens[0])
        three.gateway.revoke(issue_revocations(issuer, 2, ["grant-1"]))
        assert not three.gateway.revoke(issue_revocations(issuer, 1, []))
        three.gateway.streams.push_revocations(issue_revocations(issuer, 1, []))  # a gateway that lies
        return (
            isinstance(first, list),
            await three.ask(tokens[1]),
            await three.ask(tokens[2], grant=three.grant(tokens[2], grant_id="grant-2")),
        )

    before, revoked, other = three.run(script)
    assert before
    assert revoked == "grant_revoked"
    assert isinstance(other, list)


def test_revocation_list_reaches_a_node_that_connects_later(three):
    member, token = three.consortium.members[0], three.consortium.tokens[0]

    async def script():
        await three.disconnect(member)
        three.gateway.revoke(issue_revocations(three.consortium.issuer, 1, ["grant-1"]))
        await three.connect(member)
        return await three.ask(token)

    assert three.run(script) == "grant_revoked"


def test_c5_exhausted_entity_budget_is_refused_alike_for_known_and_unknown_entities(three):
    three.policy_changes = {"answers_per_entity": 1}
    known, unknown = entity(three, 3), bytes(32)

    async def script():
        codes = []
        for token in (known, unknown):
            await three.ask(token)
            three.gateway._answers.clear()  # a gateway that forgets, or lies
            codes.append(await three.ask(token))
        return codes, [node.sent[-1].refusal for node in three.nodes.values()]

    codes, refusals = three.run(script)
    assert codes == ["entity_budget", "entity_budget"]
    assert len({refusal.sentence for refusal in refusals}) == 1


def test_c5_refusals_do_not_depend_on_what_the_node_knows(three):
    """Every refusal a node gives about a known entity is, word for word, the one about an unknown entity."""
    three.policy_changes = {"answers_per_entity": 1}
    known, unknown = entity(three, 3), bytes(32)

    async def script():
        found = {}
        for token in (known, unknown):
            sentences = []
            for changes in ({"purpose": "x"}, {"grant": b""}, {"model_version": "ff"}, {}, {}):
                three.gateway._answers.clear()
                await three.ask(token, **changes)
                sentences.append(
                    [(n.sent[-1].WhichOneof("what"), n.sent[-1].refusal.sentence) for n in three.nodes.values()]
                )
            found[token] = sentences
        return found

    found_by = three.run(script)
    assert found_by[known] == found_by[unknown]


def test_c9_requester_budget_and_daily_cap_count_every_entity_of_a_batch(three):
    three.policy_changes = {"entities_per_requester": 5, "distinct_entities": 8}
    tokens = three.consortium.tokens

    async def script():
        fine = await three.ask(*tokens[:4])
        return [
            isinstance(fine, list),
            await three.ask(*tokens[4:6]),
            isinstance(await three.ask(*tokens[4:8], requester="other"), list),
            await three.ask(tokens[8], requester="third"),
        ]

    assert three.run(script) == [True, "requester_budget", True, "daily_cap"]


def test_c9_budgets_survive_the_process(three):
    three.policy_changes = {"answers_per_entity": 1}
    token = entity(three, 3)

    async def script():
        await three.ask(token)
        three.gateway._answers.clear()
        for member in three.consortium.members:
            await three.disconnect(member)
        await three.connect(*three.consortium.members)
        return await three.ask(token)

    assert three.run(script) == "entity_budget"


# ---- the roster lock ----


def test_c2_other_survivors_for_one_entity_are_refused_for_a_day_whatever_the_task_or_window(six):
    token, member = entity(six, 3), six.consortium.members[0]

    async def script():
        first = await six.ask(token)
        six.gateway._answers.clear()
        six.gateway._locks.clear()  # a gateway that tries to take a difference
        six.nodes[member].silent = is_step("request")
        second = await six.ask(token)
        six.clock.at_s += DAY_S + 1
        six.gateway.streams.epoch.began_s -= DAY_S
        third = await six.ask(token, grant=six.grant(token))
        return first[0].opened.survivors, second, third

    survivors, second, third = six.run(script)
    assert survivors == six.consortium.members
    assert second == "roster_locked"
    assert third[0].opened.survivors == six.consortium.members[1:]


def test_c2_roster_lock_survives_the_process(six):
    token, member = entity(six, 3), six.consortium.members[0]

    async def script():
        await six.ask(token)
        for name in six.consortium.members:
            await six.disconnect(name)
        six.gateway._answers.clear()
        six.gateway._locks.clear()
        await six.connect(*six.consortium.members[1:])
        return await six.ask(token)

    assert six.run(script) == "roster_locked"
    assert member


def test_c2_gateway_keeps_an_entity_to_its_survivors_when_a_member_has_come_back(six):
    token, member = entity(six, 3), six.consortium.members[0]

    async def script():
        six.nodes[member].silent = is_step("request")
        first = await six.ask(token)
        six.nodes[member].silent = None
        six.gateway._answers.clear()  # as if the window had passed, the lock not
        return [*first, *(await six.ask(token))]

    first, second = six.run(script)
    assert first.opened.survivors == second.opened.survivors == six.consortium.members[1:]
    assert np.array_equal(first.total, second.total)


def test_c2_lock_of_a_lost_machine_is_taken_up_from_what_was_contributed(three, monkeypatch):
    """A power cut may lose the entry of S2b that was written and not flushed; the one of S1 is on the disk."""
    token, member = entity(three, 3), three.consortium.members[0]

    async def script():
        await three.ask(token)
        await three.disconnect(member)
        return three.nodes

    three.run(script)
    node = three._node(member)
    kept = [e for e in node.journal.entries() if e.event != StoredDisclosure.OPENED]
    node.journal.close()
    for path in (three.consortium.folder / member / "state" / "scoring").iterdir():
        path.unlink()
    monkeypatch.setattr("nodes.scoring_guard.boot_id", lambda: "another start of the machine")
    fresh = three._node(member)
    for entry in kept:
        fresh.journal.append(entry)
    fresh.journal.close()
    again = three._node(member)
    again.journal.close()

    assert again.responder._guard._locks[token][1].survivors == three.consortium.members


# ---- the reach of a grant: two totals whose difference is a role's score ----


def forgetful(scoring):
    """A gateway that tries to take a difference: it asks the nodes again and checks nothing itself."""
    scoring.gateway._answers.clear()
    scoring.gateway._locks.clear()


def test_c2_second_grant_with_fewer_roles_is_refused_by_every_node_known_entity_or_not(six):
    tokens = [entity(six, 3), bytes(32)]

    async def script():
        codes = []
        for token in tokens:
            await six.ask(token)
            forgetful(six)
            codes.append(await six.ask(token, grant=six.grant(token, roles=ROLES[:2])))
        return codes

    assert six.run(script) == ["grant_reach", "grant_reach"]


def test_c2_grant_that_names_another_member_to_answer_is_refused(six):
    token = entity(six, 3)

    async def script():
        await six.ask(token, grant=six.grant(token, answering={"bank": "bank-1"}))
        forgetful(six)
        other = await six.ask(token, grant=six.grant(token, answering={"bank": "bank-2"}))
        return other, await six.ask(token, grant=six.grant(token))

    assert six.run(script) == ("grant_reach", "grant_reach")


def test_c2_reach_is_locked_over_model_versions_tasks_and_the_process(six):
    token = entity(six, 3)

    async def script():
        await six.ask(token)
        for name in six.consortium.members:
            await six.disconnect(name)
        forgetful(six)
        await six.connect(*six.consortium.members)
        return await six.ask(token, grant=six.grant(token, roles=ROLES[:2]))

    assert six.run(script) == "grant_reach"


def test_c2_two_requests_of_different_reach_at_once_open_one_total(six):
    """Both pass the check before the look-up; the one before the shares lets one of them through."""
    token = entity(six, 3)

    async def script():
        asked = [asyncio.create_task(six.ask(token))]
        while not any(node.seen for node in six.nodes.values()):  # noqa: ASYNC110
            await asyncio.sleep(0)
        forgetful(six)
        asked.append(asyncio.create_task(six.ask(token, grant=six.grant(token, roles=ROLES[:2]))))
        return await asyncio.gather(*asked)

    found = six.run(script)
    assert sum(not isinstance(one, str) for one in found) == 1
    assert {one for one in found if isinstance(one, str)} <= {"grant_reach", "too_few_members"}


def test_c2_lock_of_a_journal_that_has_no_reach_lets_no_grant_through(three):
    """Written by a release that did not lock the reach: nobody can say whose sum it was."""
    token = entity(three, 3)

    async def script():
        await three.ask(token)
        for name in three.consortium.members:
            await three.disconnect(name)

    three.run(script)
    for member in three.consortium.members:
        node = three._node(member)
        kept = list(node.journal.entries())
        node.journal.close()
        for path in (three.consortium.folder / member / "state" / "scoring").iterdir():
            path.unlink()
        fresh = three._node(member)
        for entry in kept:
            entry.ClearField("reach")
            fresh.journal.append(entry)
        fresh.journal.close()

    async def again():
        forgetful(three)
        return await three.ask(token)

    assert three.run(again) == "grant_reach"


def test_c2_gateway_keeps_an_answer_to_grants_of_its_reach(six):
    token = entity(six, 3)

    async def script():
        await six.ask(token)
        asked = {member: len(node.seen) for member, node in six.nodes.items()}
        code = await six.ask(token, grant=six.grant(token, roles=ROLES[:2]))
        renewed = await six.ask(token, grant=six.grant(token))
        return code, renewed, asked == {member: len(node.seen) for member, node in six.nodes.items()}

    code, renewed, silent = six.run(script)
    assert code == "grant_reach"
    assert renewed[0].from_cache
    assert silent


def test_c6_kept_total_over_one_member_is_not_given_to_a_grant_that_forbids_it(six):
    token = entity(six, 1)

    async def script():
        first = await six.ask(token, grant=six.grant(token, one_role_may_answer=True))
        return first[0].outcome, await six.ask(token)

    assert six.run(script) == (pb.SCORED, "grant_one_member")


# ---- replays and order ----


def test_a8_replayed_request_is_refused_by_every_node(three):
    async def script():
        await three.ask(entity(three, 3))
        found = []
        for node in three.nodes.values():
            replay = next(message for message in node.seen if message.WhichOneof("what") == "request")
            found.append(node.responder.handle(replay).message.refusal.code)
        return found

    assert three.run(script) == ["StaleSum"] * 3


def test_reordered_and_replayed_reveals_are_refused(three):
    async def script():
        await three.ask(entity(three, 3))
        found = []
        for node in three.nodes.values():
            for message in [m for m in node.seen if m.WhichOneof("what") == "shares"]:
                found.append(node.responder.handle(message).message.refusal.code)
                early = masked.Reveal.FromString(message.shares)
                early.request_digest = bytes(32)
                found.append(node.responder.handle(pb.ToNode(shares=early.SerializeToString())).message.refusal.code)
        return found

    assert three.run(script) == ["WrongEpoch"] * 6


def test_c4_node_refuses_a_roster_that_is_not_the_epochs(three):
    from protos.masked_sum.request import Request  # noqa: PLC0415

    async def script():
        await three.ask(entity(three, 3))
        node = three.nodes[three.consortium.members[0]]
        message = next(m for m in node.seen if m.WhichOneof("what") == "request")
        body = masked.Request.FromString(message.request)
        body.k += 1
        del body.roster[2:]
        request = Request.from_bytes(body.SerializeToString(deterministic=True))
        return node.responder.handle(pb.ToNode(request=request.wire)).message.refusal.code

    assert three.run(script) == "CohortRefused"


def test_journal_has_each_disclosure_and_no_score(three):
    token, member = entity(three, 3), three.consortium.members[0]
    three.run(lambda: three.ask(token))
    node = three._node(member)
    entries = list(node.journal.entries())
    node.journal.close()

    contributed = [entry for entry in entries if entry.event == StoredDisclosure.CONTRIBUTED]
    opened = [entry for entry in entries if entry.event == StoredDisclosure.OPENED]
    assert [entry.entities for entry in contributed] == [token]
    assert contributed[0].task == TASK
    assert contributed[0].model_version == MODEL_VERSION
    assert opened[0].request_digest == contributed[0].request_digest
    assert tuple(opened[0].survivors) == three.consortium.members


# ---- evidence ----


def test_c7_platform_learns_that_an_invoice_is_matched_or_financed_and_not_by_whom_or_how_often(three):
    """Three-way match and double financing over the same gateway: an opened slot is zero, or a fresh random number."""
    key = bytes(range(32))
    parties = {"seller": "DE811128135", "buyer": "FR40303265045", "date": "2026-11-02", "amount": "1200.00"}
    invoices = [fingerprint(key, parties | {"number": str(number)}) for number in range(4)]
    three.layout = ScoreSlots(evidence=("paid", "shipped", "pledged"), scores=False)
    paid, pledged_once, pledged_twice = [1, 1, 0], [0, 0, 1], [0, 0, 1]
    held = {
        three.consortium.members[0]: {invoices[0]: paid, invoices[2]: pledged_twice},
        three.consortium.members[1]: {invoices[1]: pledged_once, invoices[2]: pledged_twice},
        three.consortium.members[2]: {},
    }
    for member, evidence in held.items():
        rows = np.array(list(evidence.values()), dtype=np.int64).reshape(-1, 3)
        three.consortium.tables[member] = EntityTable.of(three.layout, list(evidence), rows)

    answers = three.run(lambda: three.ask(*invoices))

    assert [answer.total.tolist() for answer in answers] == [[1, 1, 0], [0, 0, 1], [0, 0, 1], [0, 0, 0]]
    assert all(answer.outcome == pb.SCORED for answer in answers)


def test_member_that_is_admitted_no_more_loses_its_stream_and_its_place_in_the_keys(six):
    gone = six.consortium.members[0]

    async def script():
        before = six.gateway.streams.epoch
        six.gateway.streams.keep_only(six.consortium.members[1:])
        while six.gateway.streams.epoch is before:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return six.gateway.streams.epoch.view.cohort, await six.ask(entity(six, 2))

    cohort, (answer,) = six.run(script)
    assert cohort == six.consortium.members[1:]
    assert gone not in answer.opened.survivors
