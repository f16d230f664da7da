"""Rounds of witnesses over real nodes' witnesses: who co-signs, who refuses, and what the ledger says about it."""

from dataclasses import dataclass, field

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coordinator.decisions.store import DecisionStore
from coordinator.engine.steps import Refusal, StepOutcome
from coordinator.ledger.checkpoints import Checkpointer
from coordinator.ledger.entries import AlarmEntry, CheckpointEntry, parse_entry
from coordinator.ledger.log import Log
from coordinator.ledger.witnesses import WitnessRound
from nodes.ledger_witness import LedgerWitness
from nodes.membership import Membership
from nodes.store import NodeStore
from policies.errors import UserError
from policies.ledger_keys import ledger_keys
from policies.presets import example_agreement
from protos.ledger.checkpoints import open_checkpoint, verify_cosignature
from protos.ledger.v1 import ledger_pb2
from protos.sealed_sum.keys import SigningKey

MEMBERS = ("bank-1", "bank-2", "bank-3")


@dataclass
class Nodes:
    """`Steps` over witnesses in this process; `replies` holds what a dishonest one says instead."""

    witnesses: dict
    away: set = field(default_factory=set)
    replies: dict = field(default_factory=dict)
    asked: list = field(default_factory=list)

    def online(self):
        return frozenset(self.witnesses) - self.away

    def run_step(self, action, bodies, *, deadline_s, enough=None):
        assert action == "witness"
        replies, refusals, silent = {}, {}, set()
        for member, body in bodies.items():
            self.asked.append((member, ledger_pb2.WitnessRequest.FromString(body).old_size))
            if member in self.replies:
                replies[member] = self.replies[member]
                continue
            try:
                replies[member] = self.witnesses[member].handle(body).SerializeToString()
            except UserError as refused:
                refusals[member] = Refusal(type(refused).__name__, str(refused))
        return StepOutcome(replies, refusals, frozenset(silent), {}, {}, 0.0)


@pytest.fixture
def private():
    return Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@pytest.fixture
def agreement(private):
    identities = {name: SigningKey.from_bytes(bytes([at]) * 32) for at, name in enumerate(MEMBERS, start=1)}
    agreement = example_agreement(
        {name: key.public_bytes for name, key in identities.items()},
        coordinator_key=private.public_key().public_bytes_raw(),
    )
    object.__setattr__(agreement, "identities", identities)
    return agreement


@pytest.fixture
def nodes(agreement, tmp_path):
    stores = {name: NodeStore(tmp_path / name, survives_power_cut=False) for name in MEMBERS}
    yield Nodes(
        {
            name: LedgerWitness(
                Membership(member=name, identity=agreement.identities[name], agreement=agreement, policy=None),
                store,
                now=str,
                now_s=lambda: 1_795_600_000,
            )
            for name, store in stores.items()
        }
    )
    for store in stores.values():
        store.close()


@pytest.fixture
def ledger(decisions_url, agreement, private, tmp_path):
    """(store, checkpointer, round) of the consortium's own ledger."""
    keys = ledger_keys(agreement)
    store = DecisionStore.open(decisions_url, origin=keys.origin, survives_power_cut=False)
    store.commit_blocking(lambda writes: writes.add_tenant("acme", "Acme"))
    checkpointer = Checkpointer(store, private, tmp_path / "state")
    yield store, checkpointer, WitnessRound(store, checkpointer, keys)
    store.close()


@pytest.fixture
def decided(ledger, make_decision):
    store, *_ = ledger

    def some(times=1):
        for number in range(times):
            record = make_decision(store, number)
            store.commit_blocking(lambda writes, one=record: writes.add_decision(one))

    return some


def kinds(store, begin=0):
    with store.reading() as connection:
        return [parse_entry(one.body) for one in Log(connection).entries(begin, 1000)]


def test_every_node_cosigns_and_the_ledger_says_so(ledger, nodes, decided, agreement):
    store, checkpointer, witnessing = ledger
    decided(5)

    outcome = witnessing.run(nodes, deadline_s=1)

    keys = ledger_keys(agreement)
    note = outcome.signed.note
    assert outcome.witnesses == MEMBERS
    assert open_checkpoint(note, keys.log).size == 5
    for key in keys.witnesses.values():
        assert verify_cosignature(note.text, note.by(key), key) == 1_795_600_000
    assert isinstance(kinds(store)[5], CheckpointEntry)
    assert checkpointer.newest_cosigned().note == note


def test_a_decisions_proof_is_under_the_cosigned_checkpoint_once_there_is_one(ledger, nodes, decided):
    _store, checkpointer, witnessing = ledger
    decided(3)
    assert len(checkpointer.proof_for(1).checkpoint.note.signatures) == 1
    witnessing.run(nodes, deadline_s=1)
    decided(1)

    assert len(checkpointer.proof_for(1).checkpoint.note.signatures) == 4
    assert len(checkpointer.proof_for(4).checkpoint.note.signatures) == 1  # no witness has seen it yet


def test_a_round_is_due_only_when_something_but_witnessing_happened(ledger, nodes, decided):
    _, _, witnessing = ledger
    assert witnessing.due() is False
    decided(1)
    assert witnessing.due() is True
    witnessing.run(nodes, deadline_s=1)
    assert witnessing.due() is False
    decided(1)
    assert witnessing.due() is True


def test_a_node_that_was_away_gets_the_proof_from_where_it_was(ledger, nodes, decided):
    _, _, witnessing = ledger
    decided(3)
    witnessing.run(nodes, deadline_s=1)
    decided(4)
    nodes.away = {"bank-2"}
    outcome = witnessing.run(nodes, deadline_s=1)
    assert (outcome.witnesses, outcome.silent) == (("bank-1", "bank-3"), frozenset({"bank-2"}))
    decided(4)
    nodes.away, nodes.asked = set(), []

    assert witnessing.run(nodes, deadline_s=1).witnesses == MEMBERS
    assert dict(nodes.asked)["bank-2"] == 3


def test_a_coordinator_that_lost_its_records_asks_the_nodes_what_they_saw(ledger, nodes, decided):
    _store, _, witnessing = ledger
    decided(3)
    witnessing.run(nodes, deadline_s=1)
    decided(2)
    witnessing._last_seen = dict

    outcome = witnessing.run(nodes, deadline_s=1)

    assert outcome.witnesses == MEMBERS
    assert [size for member, size in nodes.asked if member == "bank-1"] == [0, 0, 3]


def test_a_refusing_witness_is_an_alarm_in_the_ledger_and_does_not_hold_up_the_others(ledger, nodes, decided):
    store, _, witnessing = ledger
    decided(3)
    with nodes.witnesses["bank-2"]._store.transaction() as db:  # it has seen another history of the same ledger
        db.execute(
            "insert into witnessed values (?, 3, ?, x'', '')", (nodes.witnesses["bank-2"]._keys.origin, bytes(32))
        )

    outcome = witnessing.run(nodes, deadline_s=1)

    assert outcome.witnesses == ("bank-1", "bank-3")
    assert outcome.refusals["bank-2"].code == "LedgerForked"
    alarms = [one for one in kinds(store) if isinstance(one, AlarmEntry)]
    assert [(one.member, one.code) for one in alarms] == [("bank-2", "LedgerForked")]


def test_a_cosignature_that_does_not_verify_counts_for_nothing(ledger, nodes, decided):
    _store, checkpointer, witnessing = ledger
    decided(3)
    first = witnessing.run(nodes, deadline_s=1)
    decided(1)
    stolen = first.signed.note.signatures[2].encode()
    nodes.replies = {
        "bank-1": ledger_pb2.WitnessReply(cosignature=stolen).SerializeToString(),
        "bank-2": b"\xff\xff",
        "bank-3": ledger_pb2.WitnessReply(seen=ledger_pb2.Seen(size=1 << 60)).SerializeToString(),
    }

    outcome = witnessing.run(nodes, deadline_s=1)

    assert outcome.witnesses == ()
    assert {member: refusal.code for member, refusal in outcome.refusals.items()} == {
        "bank-1": "CosignatureInvalid",
        "bank-2": "CosignatureInvalid",
        "bank-3": "SeenAnotherSize",
    }
    assert checkpointer.newest_cosigned().note == first.signed.note


def test_a_node_with_a_restored_memory_signs_in_the_second_step_with_the_others_lines(ledger, nodes, decided):
    _, _, witnessing = ledger
    decided(3)
    witnessing.run(nodes, deadline_s=1)
    with nodes.witnesses["bank-1"]._store.transaction() as db:
        db.execute("update ledgers set unsure = 1")
    decided(1)

    assert witnessing.run(nodes, deadline_s=1).witnesses == MEMBERS
