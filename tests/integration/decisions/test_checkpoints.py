"""Checkpoints of the stored log: signed once, never against what was signed before, and under every decision."""

import json
import shutil
from dataclasses import replace

import pytest
import sqlalchemy as sa

from coordinator.database.connection import parse_url
from coordinator.ledger.checkpoints import MARK_FILE, Checkpointer, EntryUnknown, LedgerRolledBack
from coordinator.ledger.export import export_lines
from coordinator.ledger.high_water import HighWaterRefused
from coordinator.ledger.log import LedgerDamaged, Log
from coordinator.ledger.proof_file import EvidenceRefused, evidence, verify_evidence
from protos.ledger.checkpoints import open_checkpoint
from protos.ledger.errors import ProofInvalid
from protos.ledger.merkle import Frontier, leaf_hash, verify_consistency, verify_inclusion


def many(store, make, number):
    """Entries in a few commits, enough for stored subtrees."""
    for begin in range(0, number, 100):
        records = [make.decision(begin + at) for at in range(min(100, number - begin))]
        store.commit_blocking(lambda writes, some=records: [writes.add_decision(one) for one in some])


def test_every_entry_has_a_proof_under_the_operators_signature(store, make, checkpointer, keys):
    many(store, make, 600)

    for entry in (0, 1, 254, 255, 256, 511, 512, 598, 599):
        proved = checkpointer.proof_for(entry)
        checkpoint = open_checkpoint(proved.checkpoint.note, keys.log)
        verify_inclusion(leaf_hash(proved.body), entry, checkpoint.size, proved.proof, checkpoint.root)


def test_the_stored_log_has_the_roots_and_proofs_of_its_entries(store, make):
    many(store, make, 700)

    with store.reading() as connection:
        log = Log(connection)
        frontiers = [Frontier()]
        for one in log.entries(0, 700):
            frontiers.append(frontiers[-1].append(one.leaf_hash)[0])
        assert log.head() == frontiers[700]
        for old, size in ((0, 700), (1, 2), (255, 256), (256, 700), (300, 513), (512, 700), (700, 700)):
            assert log.root(size) == frontiers[size].root()
            proof = log.consistency_proof(old, size)
            verify_consistency(old, frontiers[old].root(), size, frontiers[size].root(), proof)


def test_a_checkpoint_covers_a_decision_that_was_just_acknowledged(decide, checkpointer):
    sizes = []
    for number in range(5):
        stored = decide(number)
        sizes.append(checkpointer.proof_for(stored.entry).checkpoint.checkpoint.size)

    assert sizes == [1, 2, 3, 4, 5]


def test_an_entry_that_the_log_has_not_got_has_no_proof(decide, checkpointer):
    decide()

    for entry in (1, 1000):
        with pytest.raises(EntryUnknown):
            checkpointer.proof_for(entry)


def test_a_checkpoint_is_on_the_disk_before_it_leaves(decide, store, operator, tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    decide()
    checkpointer = Checkpointer(store, operator, tmp_path / "state")
    monkeypatch.setattr("coordinator.ledger.checkpoints.HighWaterMark.raise_to", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpointer.newest()
    monkeypatch.undo()

    assert not (tmp_path / "state" / MARK_FILE).exists()
    signed = checkpointer.newest()
    assert (tmp_path / "state" / MARK_FILE).read_text() == signed.note.encode()


def test_a_database_restored_from_a_backup_is_noticed_before_anything_is_signed(
    decide, store, reopen, make, operator, tmp_path, decisions_url
):
    for number in range(3):
        decide(number)
    Checkpointer(store, operator, tmp_path / "state").newest()
    engine = sa.create_engine(parse_url(decisions_url))
    with engine.begin() as connection:  # what a backup from before the last decision would leave
        for statement in (
            "drop trigger if exists ledger_entries_no_delete"
            if connection.dialect.name == "sqlite"
            else "drop trigger ledger_entries_append_only on ledger_entries",
            "delete from decisions where entry = 2",
            "delete from ledger_entries where entry = 2",
        ):
            connection.exec_driver_sql(statement)
        log = Log(connection)
        frontier = Frontier()
        for one in log.entries(0, 2):
            frontier, _ = frontier.append(one.leaf_hash)
        connection.execute(
            sa.text("update ledger_head set size = 2, frontier = :frontier"), {"frontier": frontier.to_bytes()}
        )
    engine.dispose()

    with pytest.raises(LedgerRolledBack, match=r"3 entries that was signed before, found 2"):
        Checkpointer(store, operator, tmp_path / "state")
    # Nor when the log has grown again, past what was signed, in another way.
    other = reopen()
    records = [make.decision(number) for number in range(5)]
    other.commit_blocking(lambda writes: [writes.add_decision(one) for one in records])
    with pytest.raises(LedgerRolledBack):
        Checkpointer(other, operator, tmp_path / "state")


def test_a_log_that_shrinks_under_a_running_process_is_not_signed(decide, checkpointer, sql):
    decide(1)
    decide(2)
    checkpointer.newest()
    sql("update ledger_head set size = 0, frontier = :none", none=b"")

    with pytest.raises(LedgerRolledBack):
        checkpointer.newest()


@pytest.mark.parametrize("size", [0, 1, 7])
def test_a_head_that_is_not_its_entries_is_refused_at_the_start(decide, store, operator, tmp_path, sql, size):
    decide(1)
    decide(2)
    sql("update ledger_head set size = :size, frontier = :frontier", size=size, frontier=b"x" * 32 * size.bit_count())

    if size:
        with pytest.raises(LedgerDamaged):
            Checkpointer(store, operator, tmp_path / "state")
    else:  # an empty head is a rolled-back log: the mark shows it, and an audit does
        Checkpointer(store, operator, tmp_path / "state")


def test_a_mark_that_somebody_wrote_is_refused(decide, store, operator, checkpointer, tmp_path):
    decide()
    checkpointer.newest()
    mark = tmp_path / "state" / MARK_FILE
    mark.write_text(mark.read_text().replace("\n1\n", "\n0\n"))

    with pytest.raises(HighWaterRefused, match=MARK_FILE):
        Checkpointer(store, operator, tmp_path / "state")


def test_several_processes_sign_one_log_and_the_mark_never_sinks(decide, store, operator, tmp_path):
    decide(1)
    first = Checkpointer(store, operator, tmp_path / "state")
    early = first.newest()
    decide(2)
    second = Checkpointer(store, operator, tmp_path / "state")
    late = second.newest()
    shutil.copy(tmp_path / "state" / MARK_FILE, tmp_path / "kept")

    first._mark.raise_to(early.note)

    assert (tmp_path / "state" / MARK_FILE).read_text() == late.note.encode() == (tmp_path / "kept").read_text()


# -- proofs for the holder of a decision ----------------------------------------------------------------


@pytest.fixture
def proof(store, make, checkpointer):
    many(store, make, 20)
    stored = store.decisions("acme").rows[7]
    return evidence(checkpointer.proof_for(stored.entry), stored), stored


def packed(content):
    return json.dumps(content).encode()


def test_the_holder_of_a_decision_can_check_it_with_the_keys_of_the_agreement_alone(proof, keys):
    content, stored = proof

    report = verify_evidence(packed(content), keys)

    assert (report.entry, report.checkpoint.size, report.witnesses) == (stored.entry, 20, {})
    assert report.decision["id"] == stored.record.id
    bare = {key: value for key, value in content.items() if key != "decision"}
    assert verify_evidence(packed(bare), keys).decision is None


@pytest.mark.parametrize(
    ("field", "value"),
    [("amount", "999"), ("outcome", "declined"), ("tenant", "globex"), ("document", "{}"), ("inputs_hash", "00" * 32)],
)
def test_a_proof_with_another_decision_in_it_is_refused(proof, keys, field, value):
    content, _ = proof
    content["decision"]["record"][field] = value

    with pytest.raises(EvidenceRefused, match="that the entry commits to"):
        verify_evidence(packed(content), keys)


def test_a_proof_is_refused_whatever_character_of_it_is_changed(proof, keys):
    content, _ = proof
    raw = packed(content)
    survivors = []
    for at in range(len(raw)):
        altered = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
        try:
            verify_evidence(altered, keys)
        except EvidenceRefused:
            continue
        survivors.append(raw[at : at + 1])

    assert set(survivors) <= {b" "}  # white space between JSON's own signs means nothing, everything else does


def test_a_proof_of_another_ledger_proves_nothing_here(proof, keys):
    content, _ = proof
    with pytest.raises(EvidenceRefused):
        verify_evidence(packed(content), replace(keys, log=replace(keys.log, public_bytes=bytes(32))))


@pytest.mark.parametrize("raw", [b"", b"[]", b"{}", b"null", b"[" * 100000, b'{"format":"tallystick-ledger-proof/1"}'])
def test_a_file_that_is_no_proof_is_refused_in_one_sentence(keys, raw):
    with pytest.raises(EvidenceRefused) as refused:
        verify_evidence(raw, keys)
    assert "\n" not in str(refused.value)


def test_a_checkpoint_of_an_empty_ledger_can_be_signed_and_exported(checkpointer, store, keys):
    assert checkpointer.newest().checkpoint.size == 0
    assert len(list(export_lines(store, checkpointer, keys))) == 3
    with pytest.raises(ProofInvalid), store.reading() as connection:
        Log(connection).inclusion_proof(0, 0)
