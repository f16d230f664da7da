"""A lying operator against the nodes that witness its ledger: forks, rollbacks, replays, and lost memories."""

import json
import shutil

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nodes.ledger_witness import LEDGER, CheckpointRefused, LedgerForked, LedgerWitness
from nodes.membership import Membership
from nodes.runtime import NodeRuntime
from nodes.store import NodeStore
from policies.ledger_keys import ledger_keys, ledger_origin
from policies.presets import example_agreement
from protos.ledger.checkpoints import Checkpoint, open_checkpoint, sign_checkpoint, verify_cosignature
from protos.ledger.merkle import consistency_proof, leaf_hash, subtree_of, tree_root
from protos.ledger.notes import Note, NoteSignature, parse_note
from protos.ledger.v1 import ledger_pb2
from protos.sealed_sum.keys import SigningKey

MEMBERS = ("bank-1", "bank-2", "bank-3")


class Operator:
    """Signs whatever it is told to; `history` is the ledger that it shows."""

    def __init__(self, agreement, private, history):
        self.origin, self.private = ledger_origin(agreement), private
        self.leaves = [leaf_hash(entry) for entry in history]

    def subtree(self, level, at):
        return subtree_of(self.leaves[at << level : (at + 1) << level])

    def checkpoint(self, size, root=None):
        return sign_checkpoint(Checkpoint(self.origin, size, root or tree_root(size, self.subtree)), self.private)

    def request(self, size, old_size=0, *, note=None, proof=None):
        return ledger_pb2.WitnessRequest(
            checkpoint=(note or self.checkpoint(size)).encode().encode(),
            old_size=old_size,
            proof=consistency_proof(old_size, size, self.subtree) if proof is None else proof,
        ).SerializeToString()


@pytest.fixture
def private():
    return Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@pytest.fixture
def identities():
    return {name: SigningKey.from_bytes(bytes([number]) * 32) for number, name in enumerate(MEMBERS, start=1)}


@pytest.fixture
def agreement(private, identities):
    return example_agreement(
        {name: key.public_bytes for name, key in identities.items()},
        coordinator_key=private.public_key().public_bytes_raw(),
    )


@pytest.fixture
def operator(agreement, private):
    return Operator(agreement, private, [b"%d" % number for number in range(40)])


@pytest.fixture
def liar(agreement, private):
    """The same operator with another history: entry 5 was rewritten."""
    return Operator(agreement, private, [b"%d" % number if number != 5 else b"other" for number in range(40)])


@pytest.fixture
def witness_in(agreement, identities):
    """A witness whose memory is in a folder: `witness_in(folder, member)`, as after a start of its process."""
    stores = []

    def start(folder, member="bank-1"):
        stores.append(NodeStore(folder, survives_power_cut=False))
        membership = Membership(member=member, identity=identities[member], agreement=agreement, policy=None)
        witness = LedgerWitness(membership, stores[-1], now=lambda: "2026-11-25T10:00:00", now_s=lambda: 1795600000)
        witness.store = stores[-1]
        witness.stop = lambda store=stores[-1]: (stores.remove(store), store.close())
        return witness

    yield start
    for store in stores:
        store.close()


@pytest.fixture
def witness(witness_in, tmp_path):
    return witness_in(tmp_path / "node")


def cosigned(witness, body):
    reply = witness.handle(body)
    assert reply.WhichOneof("outcome") == "cosignature", reply
    return NoteSignature.parse(reply.cosignature)


def events(witness):
    return [event for _, _, event, _ in witness.store.journal_entries(LEDGER)]


def test_a_witness_signs_what_continues_what_it_has_seen(witness, operator, agreement):
    key = ledger_keys(agreement).witnesses["bank-1"]
    for size, old_size in ((3, 0), (3, 3), (20, 3), (40, 20)):
        line = cosigned(witness, operator.request(size, old_size))
        assert verify_cosignature(operator.checkpoint(size).text, line, key) == 1795600000
    assert events(witness) == []


def test_a_witness_says_what_it_saw_when_the_operator_does_not_know(witness, operator):
    cosigned(witness, operator.request(7))

    for old_size in (0, 3, 20):
        assert witness.handle(operator.request(30, old_size)).seen.size == 7


def test_a_fork_of_one_size_is_refused_for_ever_and_its_proof_is_kept(witness, witness_in, operator, liar, tmp_path):
    cosigned(witness, operator.request(20))

    with pytest.raises(LedgerForked, match="is forked"):
        witness.handle(liar.request(20, 20, proof=[]))
    for body in (operator.request(20, 20), operator.request(30, 20), liar.request(30, 20)):
        with pytest.raises(LedgerForked):
            witness.handle(body)
    witness.stop()
    again = witness_in(tmp_path / "node")
    with pytest.raises(LedgerForked, match="members must settle it"):
        again.handle(operator.request(30, 20))

    assert events(again) == ["ledger alarm"]
    with again.store.reading() as db:
        kept = [
            db.execute("select note from witnessed").fetchone()[0],
            db.execute("select fork from ledgers").fetchone()[0],
        ]
    notes = [parse_note(note) for note in kept]
    assert notes[0].text != notes[1].text
    log = ledger_keys(again._membership.agreement).log
    assert [open_checkpoint(note, log).size for note in notes] == [20, 20]  # both under the operator's signature


def test_a_fork_at_any_size_seen_before_is_found_not_only_at_the_last(witness, operator, liar):
    cosigned(witness, operator.request(10))
    cosigned(witness, operator.request(20, 10))

    with pytest.raises(LedgerForked):
        witness.handle(liar.request(10, 20, proof=[]))
    with pytest.raises(LedgerForked):
        witness.handle(operator.request(30, 20))


def test_a_longer_ledger_with_a_rewritten_past_is_refused_and_the_memory_stays(witness, operator, liar):
    cosigned(witness, operator.request(20))

    for proof in (None, [], consistency_proof(20, 30, operator.subtree), [b"\0" * 32] * 63):
        with pytest.raises(CheckpointRefused, match="Checkpoint: expected"):
            witness.handle(liar.request(30, 20, proof=proof))

    assert set(events(witness)) == {"ledger alarm"}
    cosigned(witness, operator.request(30, 20))


def test_an_old_checkpoint_replayed_is_refused(witness, operator):
    cosigned(witness, operator.request(20))

    for old_size in (0, 10, 20):
        with pytest.raises(CheckpointRefused, match="at least the 20 entries seen before"):
            witness.handle(operator.request(10, min(old_size, 10)))
    assert set(events(witness)) == {"stale checkpoint refused"}


def test_what_the_operator_has_not_signed_is_refused_and_blames_nobody(witness, operator, liar):
    cosigned(witness, operator.request(20))
    honest, forged = operator.checkpoint(20), liar.checkpoint(20)
    stranger = Operator.__new__(Operator)
    stranger.__dict__.update(operator.__dict__, private=Ed25519PrivateKey.generate())
    elsewhere = sign_checkpoint(Checkpoint("tallystick-ledger/other", 20, bytes(32)), operator.private)

    for note in (Note(forged.text, honest.signatures), stranger.checkpoint(20), elsewhere):
        with pytest.raises(CheckpointRefused) as refused:
            witness.handle(operator.request(20, 20, note=note, proof=[]))
        assert not isinstance(refused.value, LedgerForked)

    assert events(witness) == []
    cosigned(witness, operator.request(30, 20))


@pytest.mark.parametrize(
    "body",
    [
        b"\xff",
        b"",
        b"x" * (1 << 20 | 1),
        ledger_pb2.WitnessRequest(checkpoint=b"no note").SerializeToString(),
        ledger_pb2.WitnessRequest(checkpoint=b"\xff\xff", proof=[b"x"]).SerializeToString(),
        ledger_pb2.WitnessRequest(proof=[bytes(32)] * 64).SerializeToString(),
    ],
)
def test_bytes_that_are_no_request_are_refused_in_one_sentence(witness, body):
    with pytest.raises(CheckpointRefused) as refused:
        witness.handle(body)
    assert "\n" not in str(refused.value)


def test_what_was_seen_is_on_the_disk_before_the_signature_is_made(
    witness, witness_in, operator, liar, tmp_path, monkeypatch
):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("nodes.ledger_witness.cosign", killed)
    with pytest.raises(KeyboardInterrupt):
        witness.handle(operator.request(20))
    monkeypatch.undo()

    again = witness_in(tmp_path / "node")
    with pytest.raises(LedgerForked):
        again.handle(liar.request(20, 20, proof=[]))


def test_a_memory_restored_from_a_copy_signs_again_only_with_honest_company(
    witness, witness_in, operator, liar, tmp_path
):
    cosigned(witness, operator.request(10))
    witness.stop()
    shutil.copytree(tmp_path / "node", tmp_path / "backup")
    later = witness_in(tmp_path / "node")
    cosigned(later, operator.request(20, 10))
    later.stop()

    restored = witness_in(tmp_path / "backup")
    # It has forgotten 20: alone it would co-sign a fork behind 10.
    with pytest.raises(CheckpointRefused, match="restored from a copy"):
        restored.handle(operator.request(30, 10))

    note = operator.checkpoint(30)
    lines = [cosigned(witness_in(tmp_path / name, name), operator.request(30)) for name in ("bank-2", "bank-3")]
    alone = Note(note.text, (*note.signatures, lines[0]))
    own = [cosigned(witness_in(tmp_path / "fresh"), operator.request(30))]
    for company in (
        alone,
        Note(note.text, (*note.signatures, lines[0], lines[0])),
        Note(note.text, (*note.signatures, lines[0], *own)),
    ):
        with pytest.raises(CheckpointRefused, match="expected 2 other members' cosignatures, found 1"):
            restored.handle(operator.request(30, 10, note=company))
    cosigned(restored, operator.request(30, 10, note=Note(note.text, (*note.signatures, *lines))))
    cosigned(restored, operator.request(40, 30))


def test_the_refusal_is_what_the_nodes_runtime_hands_to_the_coordinator(witness, operator, liar):
    runtime = NodeRuntime(witness._membership, None, witness.store, rng=bytes, now=lambda: "now", witness=witness)
    reply = ledger_pb2.WitnessReply.FromString(runtime.handle("witness", operator.request(20)))

    assert reply.cosignature
    with pytest.raises(LedgerForked):
        runtime.handle("witness", liar.request(20, 20, proof=[]))
    (details,) = [json.dumps(details) for *_, details in witness.store.journal_entries(LEDGER)]
    assert "another under the operator's signature" in details
