"""What a gateway knows after kill -9, what its log says of openings, and what a node makes of that log."""

import asyncio
import sqlite3

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coordinator.revocations import RevocationLists
from coordinator.scoring_store import FILE_NAME
from policies.disclosure import DisclosureRefused, check_log, peek_disclosure, read_disclosure, sign_disclosure
from policies.errors import UserError
from policies.grants import GrantRefused, issue_revocations
from protos.masked_sum import masked_sum_pb2 as masked
from protos.masked_sum.aggregator import Collecting
from protos.masked_sum.request import Request
from protos.scoring.v1 import scoring_pb2 as pb
from protos.scoring.v1.scoring_pb2 import StoredDisclosure
from protos.sealed_sum.keys import SigningKey
from simulations.scoring_consortium import MODEL_VERSION, PURPOSE, TASK
from simulations.scoring_in_process import is_step

DAY_S = 86_400


def known_to(scoring, count):
    return next(t for t in scoring.consortium.tokens if scoring.consortium.pooled([t])[0, 1] == count)


def key_of(scoring):
    return scoring.consortium.agreement.coordinator.identity_key_bytes


def alarms(scoring, member):
    node = scoring._node(member)
    found = [entry for entry in node.journal.entries() if entry.event == StoredDisclosure.ALARM]
    node.journal.close()
    return [entry.note for entry in found]


# ---- what outlives the gateway's process ----


def test_answers_of_the_window_outlive_the_gateway_and_no_node_is_asked_again(six):
    tokens = six.consortium.tokens[:20]

    async def script():
        before = await six.ask(*tokens)
        await six.restart_gateway()
        asked = {member: len(node.seen) for member, node in six.nodes.items()}
        after = await six.ask(*tokens)
        return before, after, asked == {member: len(node.seen) for member, node in six.nodes.items()}

    before, after, silent = six.run(script)
    assert silent
    assert all(answer.from_cache for answer in after)
    assert [(a.outcome, a.total.tolist()) for a in before] == [(a.outcome, a.total.tolist()) for a in after]
    assert before[0].opened.disclosure == after[0].opened.disclosure


def test_restarted_gateway_keeps_answers_to_grants_of_their_reach_and_terms(six):
    many, one = known_to(six, 3), known_to(six, 1)

    async def script():
        await six.ask(many)
        await six.ask(one, grant=six.grant(one, one_role_may_answer=True))
        await six.restart_gateway()
        return (
            await six.ask(many, grant=six.grant(many, roles=["bank", "payment"])),
            await six.ask(one),
            (await six.ask(many))[0].from_cache,
        )

    assert six.run(script) == ("grant_reach", "grant_one_member", True)


def test_answers_in_a_file_without_reach_are_given_to_no_grant(six):
    """A file of a release that did not keep the reach gets the columns, and what is in it stays closed."""
    token = known_to(six, 3)

    async def script():
        await six.ask(token)
        with sqlite3.connect(six.consortium.folder / "coordinator" / "state" / FILE_NAME) as db:
            db.execute("alter table openings drop column reach")
            db.execute("alter table openings drop column one_member")
        db.close()
        await six.restart_gateway()
        return await six.ask(token)

    assert six.run(script) == "grant_reach"


def test_c2_restarted_gateway_keeps_an_entity_to_its_survivors(six):
    """A degraded answer, a restart, another window: the members of then are asked for, and no other sum."""
    token, member = known_to(six, 3), six.consortium.members[0]

    async def script():
        six.nodes[member].silent = is_step("request")
        first = await six.ask(token)
        six.nodes[member].silent = None
        await six.restart_gateway()
        six.gateway._answers.clear()  # as if the window had passed, the lock not
        return [*first, *(await six.ask(token))]

    first, second = six.run(script)
    assert first.opened.survivors == second.opened.survivors == six.consortium.members[1:]
    assert np.array_equal(first.total, second.total)


def test_c2_survivors_are_written_down_before_any_share_is_asked_for(six, monkeypatch):
    """Killed between S2a and S2b: nodes may hold the lock, so the next process must know it."""
    token, member = known_to(six, 3), six.consortium.members[0]

    async def dies(*_):
        raise RuntimeError("killed")

    async def script():
        six.nodes[member].silent = is_step("request")
        with monkeypatch.context() as patch:
            patch.setattr("coordinator.scoring_opening.Opener._reveal_shares", dies)
            with pytest.raises(RuntimeError, match="killed"):
                await six.ask(token)
        six.nodes[member].silent = None
        await six.restart_gateway()
        return await six.ask(token)

    (answer,) = six.run(script)
    assert answer.opened.survivors == six.consortium.members[1:]


def test_gateway_that_cannot_write_asks_for_no_share(three):
    async def script():
        three.gateway._store._db.execute("drop table openings")
        code = await three.ask(known_to(three, 3))
        return code, [m.WhichOneof("what") for node in three.nodes.values() for m in node.seen]

    code, seen = three.run(script)
    assert code == "gateway_store"
    assert "shares" not in seen


def test_answer_that_cannot_be_logged_does_not_leave(three):
    async def script():
        three.gateway._store._db.execute("drop table disclosures")
        return await three.ask(known_to(three, 3))

    assert three.run(script) == "gateway_store"


def test_old_answers_are_forgotten_and_the_log_is_not(three):
    token = known_to(three, 3)

    async def script():
        await three.ask(token)
        three.clock.at_s += 2 * DAY_S
        three.gateway._forget(three.clock())
        return list(three.gateway._store.kept()), len(three.gateway._store.disclosures())

    assert three.run(script) == ([], 1)


def test_file_that_is_no_store_is_one_sentence(three):
    state = three.consortium.folder / "coordinator" / "state"
    state.mkdir(mode=0o700)
    (state / FILE_NAME).write_bytes(b"no database" * 1000)

    async def script():
        three.open_gateway()

    with pytest.raises(UserError, match="expected the scoring gateway's own file"):
        asyncio.run(script())


def test_c6_total_over_one_member_is_on_no_disk_of_the_platform(three):
    """Neither the partial score nor how many members know an entity is kept, in the file or in memory."""
    token = known_to(three, 1)

    async def script():
        (answer,) = await three.ask(token)
        return answer.outcome, answer.total.tolist(), list(three.gateway._store.kept())

    outcome, total, (kept,) = three.run(script)
    assert outcome == pb.ONE_MEMBER_ONLY
    assert not any(total)
    assert not kept.opened.totals.any()


# ---- the cached answer ----


@pytest.mark.parametrize(
    ("terms", "code"),
    [
        ({"purposes": ("marketing",)}, "purpose"),
        ({"lifetime_s": -1}, "grant_expired"),
    ],
)
def test_answer_from_the_cache_still_needs_a_grant_that_allows_it(three, terms, code):
    token = known_to(three, 3)

    async def script():
        await three.ask(token)
        return await three.ask(token, grant=three.grant(token, **terms))

    assert three.run(script) == code


def test_answer_from_the_cache_is_refused_for_another_entitys_or_strangers_grant(three):
    token, other = known_to(three, 3), known_to(three, 2)

    async def script():
        await three.ask(token)
        foreign = await three.ask(token, grant=three.grant(other))
        three.consortium.issuer = Ed25519PrivateKey.generate()
        return foreign, await three.ask(token, grant=three.grant(token))

    assert three.run(script) == ("grant_entity", "grant_issuer")


def test_answer_from_the_cache_is_refused_under_a_revoked_grant(three):
    token = known_to(three, 3)

    async def script():
        await three.ask(token)
        three.gateway.revoke(issue_revocations(three.consortium.issuer, 1, ["grant-1"]))
        return await three.ask(token), await three.ask(token, grant=three.grant(token, grant_id="grant-2"))

    revoked, (answer,) = three.run(script)
    assert revoked == "grant_revoked"
    assert answer.from_cache


# ---- revocation lists ----


def test_revoked_grant_is_refused_by_a_node_that_restarted_without_the_gateways_word(three):
    """The list was on the node's disk before the node acknowledged it."""
    issuer, token = three.consortium.issuer, known_to(three, 3)

    async def script():
        three.gateway.revoke(issue_revocations(issuer, 4, ["grant-1"]))
        await three.ask(known_to(three, 2), grant=three.grant(known_to(three, 2), grant_id="grant-2"))
        raw = issuer.public_key().public_bytes_raw()
        acknowledged = three.gateway.streams.acknowledged(raw, 4)
        three.gateway._revocations._signed.clear()  # a gateway that has lost its lists, or withholds them
        members = three.consortium.members
        for member in members:
            await three.disconnect(member)
        await three.connect(*members)
        return acknowledged, await three.ask(token)

    acknowledged, answer = three.run(script)
    assert acknowledged == set(three.consortium.members)
    assert answer == "grant_revoked"


def test_revocation_list_outlives_the_gateway(three):
    async def script():
        three.gateway.revoke(issue_revocations(three.consortium.issuer, 1, ["grant-1"]))
        await three.restart_gateway()
        return three.gateway._revocations.revoked("grant-1", three.consortium.issuer.public_key().public_bytes_raw())

    assert three.run(script)


def test_list_put_into_the_folder_reaches_running_nodes(three):
    token = known_to(three, 3)

    async def script():
        folder = three.consortium.folder / "coordinator" / "state" / "revocations"
        (folder / "from-the-issuer.revocations").write_bytes(issue_revocations(three.consortium.issuer, 1, ["grant-1"]))
        three.gateway.look_for_revocations()
        return await three.ask(token)

    assert three.run(script) == "grant_revoked"


def test_folder_takes_the_newest_list_of_each_issuer_and_leaves_out_what_is_none(tmp_path, caplog):
    issuer, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    lists = RevocationLists(tmp_path / "r")
    (tmp_path / "r" / "a.revocations").write_bytes(issue_revocations(issuer, 2, ["x"]))
    (tmp_path / "r" / "b.revocations").write_bytes(issue_revocations(issuer, 1, ["y"]))
    (tmp_path / "r" / "c.revocations").write_bytes(issue_revocations(other, 1, ["z"]))
    (tmp_path / "r" / "d.revocations").write_bytes(b"none")

    assert len(lists.refresh()) == 2
    assert lists.refresh() == []
    assert lists.revoked("x", issuer.public_key().public_bytes_raw())
    assert not lists.revoked("y", issuer.public_key().public_bytes_raw())
    assert "d.revocations" in caplog.text
    signed = issue_revocations(issuer, 3, ["x"])
    with pytest.raises(GrantRefused):
        lists.add(signed[:-1] + bytes([signed[-1] ^ 1]))


# ---- the log of openings (C2) ----


def test_c2_log_names_the_survivors_of_every_answer_and_is_signed_without_a_score(six):
    token, other, member = known_to(six, 3), known_to(six, 2), six.consortium.members[0]

    async def script():
        await six.ask(token)
        six.nodes[member].silent = is_step("request")
        await six.ask(other)
        return six.gateway._store.disclosures()

    entries = six.run(script)
    assert check_log(entries, key_of(six)) == 2
    first, second = (read_disclosure(signed, key_of(six)) for signed in entries)
    assert tuple(first.survivors) == six.consortium.members
    assert tuple(second.survivors) == six.consortium.members[1:]
    assert list(second.absent) == [member]
    assert (first.task, first.model_version, first.purpose, first.num_entities) == (TASK, MODEL_VERSION, PURPOSE, 1)
    assert all(token not in signed and other not in signed for signed in entries)


def test_c2_log_continues_over_a_restart_of_the_gateway(three):
    async def script():
        await three.ask(known_to(three, 3))
        await three.restart_gateway()
        await three.ask(known_to(three, 2))
        return three.gateway._store.disclosures()

    assert check_log(three.run(script), key_of(three)) == 2


def test_log_of_openings_cannot_be_changed_or_shortened_in_place(three):
    async def script():
        await three.ask(known_to(three, 3))
        refused = []
        for statement in ("delete from disclosures", "update disclosures set signed = x''"):
            with pytest.raises(sqlite3.Error, match="append-only") as error:
                three.gateway._store._db.execute(statement)
            refused.append(error)
        return len(refused)

    assert three.run(script) == 2


@pytest.mark.parametrize("damage", ["left out", "moved", "changed", "signed by another"])
def test_log_that_was_tampered_with_is_found_out(three, damage):
    async def script():
        for count in (1, 2, 3):
            await three.ask(known_to(three, count))
        return three.gateway._store.disclosures()

    entries = three.run(script)
    if damage == "left out":
        del entries[1]
    elif damage == "moved":
        entries[0], entries[1] = entries[1], entries[0]
    elif damage == "changed":
        entries[1] = entries[1][:-1] + bytes([entries[1][-1] ^ 1])
    else:
        stranger = SigningKey.from_bytes(bytes(range(32)))
        entries[1] = sign_disclosure(stranger, peek_disclosure(entries[1]))
    with pytest.raises(DisclosureRefused, match="of the log of openings"):
        check_log(entries, key_of(three))


# ---- alarms at the nodes ----


def test_c2_node_that_uploaded_and_is_named_absent_raises_an_alarm(six, monkeypatch):
    """A gateway that leaves out a member whose upload it has got: the covert adversary that the alarm deters."""
    token, victim = known_to(six, 3), six.consortium.members[0]
    real = Collecting.close

    def close_without(self):
        self.received.pop(victim, None)
        return real(self)

    async def script():
        with monkeypatch.context() as patch:
            patch.setattr(Collecting, "close", close_without)
            (answer,) = await six.ask(token)
        six.gateway.disclose()
        await six.ask(known_to(six, 2))  # whatever was sent before has arrived
        return answer.opened.survivors

    assert victim not in six.run(script)
    (note,) = alarms(six, victim)
    assert f"names {victim} absent" in note
    assert "has the coordinator's signature" in note
    assert all(alarms(six, member) == [] for member in six.consortium.members[1:])


def test_c2_node_that_was_not_there_raises_no_alarm(six):
    gone = six.consortium.members[0]

    async def script():
        await six.disconnect(gone)
        await six.ask(known_to(six, 3))
        await six.connect(gone)
        six.gateway.disclose()
        await six.ask(known_to(six, 2))

    six.run(script)
    assert all(alarms(six, member) == [] for member in six.consortium.members)


def test_c2_log_that_names_other_survivors_than_the_shares_were_given_for_raises_an_alarm(three):
    async def script():
        await three.ask(known_to(three, 3))
        (signed,) = three.gateway._store.disclosures()
        lie = peek_disclosure(signed)
        del lie.survivors[-1]
        three.gateway.streams.tell([pb.SignedDisclosure(body=lie.SerializeToString()).SerializeToString()])
        await three.ask(known_to(three, 2))

    three.run(script)
    notes = [note for member in three.consortium.members for note in alarms(three, member)]
    assert len(notes) >= 2  # every member that was asked for shares
    assert all("other survivors" in note and "signature does not hold" in note for note in notes)


def test_c2_log_that_does_not_continue_raises_an_alarm(three):
    async def script():
        for count in (1, 2, 3):
            await three.ask(known_to(three, count))
        entries = three.gateway._store.disclosures()
        three.gateway.streams.tell([entries[0], entries[2]])
        await three.ask(bytes(32))

    three.run(script)
    assert any("does not continue" in note for note in alarms(three, three.consortium.members[0]))


def test_c2_node_that_is_told_itself_that_it_is_absent_raises_an_alarm(six):
    member = six.consortium.members[0]

    async def script():
        node = six.nodes[member]
        node.silent = is_step("shares")
        await six.ask(known_to(six, 3))
        asked = next(m for m in node.seen if m.WhichOneof("what") in {"request", "shares"})
        digest = Request.from_bytes(asked.request).digest
        reveal = masked.Reveal(request_digest=digest, survivors=six.consortium.members[1:])
        return node.responder.handle(pb.ToNode(seeds=reveal.SerializeToString())).message.refusal.code

    assert six.run(script) == "CohortRefused"
    assert any("named it absent" in note for note in alarms(six, member))
