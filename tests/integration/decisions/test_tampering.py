"""Whoever changes a byte of an export or of a stored decision is found, and what was changed is named."""

import hashlib
import json
import random
from dataclasses import replace

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coordinator.database.connection import parse_url, writing_engine
from coordinator.decisions.ledgered import decision_entry
from coordinator.ledger.audit import MAX_FINDINGS, audit
from coordinator.ledger.entries import DisclosureEntry, encode_entry, parse_entry
from coordinator.ledger.export import encode_line, entry_line, export_lines
from coordinator.ledger.export_check import ExportRefused, verify_export
from coordinator.ledger.proof_file import evidence, verify_evidence
from policies.ledger_keys import LedgerKeys
from protos.ledger.checkpoints import cosign, witness_key
from protos.ledger.merkle import Frontier, leaf_hash

ORIGIN = "tallystick-ledger/test"
DISCLOSURE = DisclosureEntry(
    at="2026-11-25T09:00:00.000000Z",
    request="0f" * 32,
    task="credit",
    model="m1",
    purpose="lending",
    roster=("bank-a", "bank-b", "bank-c"),
    survivors=("bank-a", "bank-c"),
    degraded=True,
)


@pytest.fixture
def full(store, make, checkpointer, keys):
    """A ledger with every kind of row: entries 0-9 decisions, then transitions, an offer, a disclosure, ten more."""
    records = [make.decision(number) for number in range(10)]
    decisions = store.commit_blocking(lambda writes: [writes.add_decision(one) for one in records])

    def more(writes):
        first = decisions[0].record
        writes.move("acme", first.id, expected="approved", to="disbursed", actor="ops-1", why="signed")
        writes.move("acme", first.id, expected="disbursed", to="frozen", actor="policy", why="rate moved")
        writes.add_offer(make.offer(decisions[1].record), decisions[1])
        writes.append(DISCLOSURE)

    store.commit_blocking(more)
    signed = checkpointer.newest()
    private = Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32)
    line = cosign(
        signed.note.text, 1_795_600_000, witness_key(ORIGIN, "bank-a", private.public_key().public_bytes_raw()), private
    )
    size, root, note = signed.checkpoint.size, signed.checkpoint.root, signed.note.encode()
    store.commit_blocking(lambda writes: writes.keep_checkpoint(size, root, note))
    store.commit_blocking(lambda writes: writes.keep_cosignature(size, "bank-a", line.encode()))
    store.commit_blocking(lambda writes: [writes.add_decision(make.decision(20 + at)) for at in range(10)])
    return store


# -- exports --------------------------------------------------------------------------------------------


@pytest.fixture
def lines(full, checkpointer, keys):
    return list(export_lines(full, checkpointer, keys))


def test_an_export_verifies_offline_and_says_what_it_proves(lines, keys):
    report = verify_export(lines, keys)

    assert (report.size, report.cosigned_size, dict(report.witnesses)) == (24, 14, {"bank-a": 1_795_600_000})
    assert report.kinds == {"decision": 20, "transition": 2, "offer": 1, "disclosure": 1}
    assert report.trusted is True
    assert verify_export(lines).trusted is False


def test_an_export_holds_no_personal_data(lines):
    text = b"".join(lines).decode()

    for secret in ("acme", "globex", "token-", "120000", "approved", "ops-1", "rate moved", "dec-", "off-"):
        assert secret not in text, secret


def test_every_changed_byte_of_an_export_is_found_and_its_entry_named(lines, keys):
    starts = [sum(map(len, lines[:number])) for number in range(len(lines))]
    rng = random.Random(5)
    for number, line in enumerate(lines):
        named = json.loads(line).get("entry")
        for at in sorted({0, 1, len(line) - 1, *rng.sample(range(len(line)), min(40, len(line)))}):
            changed = line[:at] + bytes([line[at] ^ rng.choice([1, 2, 32, 128])]) + line[at + 1 :]
            with pytest.raises(ExportRefused) as refused:
                verify_export([*lines[:number], changed, *lines[number + 1 :]], keys)
            assert refused.value.line == number + 1, (starts[number] + at, changed)
            if named is not None and changed.startswith(b'{"body"'):
                assert refused.value.entry == named


def rehashed(lines):
    """Give the file the last line that fits what stands before it, as a forger would."""
    content = lines[:-1]
    count = sum(line.startswith(b'{"body"') for line in content)
    digest = hashlib.sha256(b"".join(content)).hexdigest()
    return [*content, encode_line({"end": {"entries": count, "sha256": digest}})]


def forged_entry(line, **changes):
    entry = parse_entry(encode_line(json.loads(line)["body"])[:-1]).model_copy(update=changes)
    body = encode_entry(entry)
    return entry_line(json.loads(line)["entry"], body, leaf_hash(body))


@pytest.mark.parametrize("entry", [0, 5, 13, 14, 23])
def test_an_entry_rewritten_with_its_hash_is_found_between_the_checkpoints_around_it(lines, keys, entry):
    at = next(number for number, line in enumerate(lines) if json.loads(line).get("entry") == entry)
    forged = rehashed([*lines[:at], forged_entry(lines[at], at="2026-01-01T00:00:00.000000Z"), *lines[at + 1 :]])

    with pytest.raises(ExportRefused, match="rewritten or swapped") as refused:
        verify_export(forged, keys)
    assert refused.value.entry == (0 if entry < 14 else 14)


def test_two_entries_that_swapped_places_are_found(lines, keys):
    def renumbered(line, entry):
        body = encode_line(json.loads(line)["body"])[:-1]
        return entry_line(entry, body, leaf_hash(body))

    moved = rehashed([lines[0], lines[2], lines[1], *lines[3:]])
    swapped = rehashed([lines[0], renumbered(lines[2], 0), renumbered(lines[1], 1), *lines[3:]])

    with pytest.raises(ExportRefused, match="expected entry 0, found 1"):
        verify_export(moved, keys)
    with pytest.raises(ExportRefused, match="rewritten or swapped"):
        verify_export(swapped, keys)


def test_a_cut_export_is_found_wherever_it_was_cut(lines, keys):
    for kept in range(len(lines)):
        with pytest.raises(ExportRefused):
            verify_export(lines[:kept], keys)
        if kept and not lines[kept - 1].startswith(b'{"checkpoint"'):
            with pytest.raises(ExportRefused):
                verify_export(rehashed([*lines[:kept], lines[-1]]), keys)
    with pytest.raises(ExportRefused, match="cut"):
        verify_export([*lines[:5], lines[5][:-10]], keys)


def test_an_export_cut_back_to_a_checkpoint_is_a_shorter_ledger_which_the_end_tells(lines, keys):
    at = max(number for number, line in enumerate(lines[:-3]) if line.startswith(b'{"checkpoint"'))
    shorter = rehashed([*lines[: at + 1], lines[-1]])

    # Nobody can tell a true earlier export from a later one cut back: the size is what its reader must look at.
    assert verify_export(shorter, keys).size == 14


def test_lines_that_were_doubled_taken_out_or_put_in_are_found(lines, keys):
    for number in range(len(lines) - 1):
        doubled = rehashed([*lines[: number + 1], lines[number], *lines[number + 1 :]])
        if lines[number].startswith(b'{"checkpoint"'):
            continue  # said twice, it is as true as once
        with pytest.raises(ExportRefused):
            verify_export(doubled, keys)
        with pytest.raises(ExportRefused):
            verify_export(rehashed([*lines[:number], *lines[number + 1 :]]), keys)
    with pytest.raises(ExportRefused, match="behind the end"):
        verify_export([*lines, lines[3]], keys)


def test_an_export_under_a_forgers_own_keys_is_refused_by_whoever_holds_the_agreement(lines, keys):
    forger = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    mine = LedgerKeys(replace(keys.log, public_bytes=forger), keys.witnesses)
    other = {**keys.witnesses, "bank-a": replace(keys.witnesses["bank-a"], public_bytes=forger)}

    with pytest.raises(ExportRefused, match="of the agreement, found"):
        verify_export(lines, mine)
    with pytest.raises(ExportRefused, match="agreement's key of bank-a"):
        verify_export(lines, LedgerKeys(keys.log, other))
    stranger = LedgerKeys(keys.log, {"bank-b": keys.witnesses["bank-b"]})
    assert verify_export(lines, stranger).witnesses == {}  # bank-a is no member of that agreement


@pytest.mark.parametrize(
    "raw", [b"", b"\n", b"{}\n", b"null\n", b"[" * 100_000 + b"\n", b"\xff\n", b'{"end":{"entries":0,"sha256":""}}\n']
)
def test_a_file_that_is_no_export_is_refused_in_one_sentence(raw):
    with pytest.raises(ExportRefused) as refused:
        verify_export([raw] if raw else [])
    assert "\n" not in str(refused.value)


def test_a_member_that_has_left_takes_its_cosignatures_with_it_and_nothing_breaks(full, checkpointer, keys):
    today = LedgerKeys(keys.log, {name: key for name, key in keys.witnesses.items() if name != "bank-a"})

    assert verify_export(list(export_lines(full, checkpointer, today)), today).witnesses == {}
    with full.reading() as connection:
        report = audit(connection, today)
    assert (report.findings, report.witnesses) == ([], ())
    stored = full.decisions("acme").rows[-1]
    proof = json.dumps(evidence(checkpointer.proof_for(stored.entry), stored)).encode()
    assert verify_evidence(proof, today).witnesses == {}
    assert verify_evidence(proof, keys).witnesses == {"bank-a": 1_795_600_000}


# -- the database ---------------------------------------------------------------------------------------


@pytest.fixture
def forge(full, decisions_url, keys, checkpointer):
    """Run statements behind the store's back, audit, and take them back: `forge(statement, ...)` -> findings."""
    engine = writing_engine(parse_url(decisions_url))

    def attack(*statements, **values):
        with engine.connect() as connection:
            if connection.dialect.name == "sqlite":
                connection.exec_driver_sql("pragma defer_foreign_keys = on")
                connection.exec_driver_sql("drop trigger ledger_entries_no_update")
                connection.exec_driver_sql("drop trigger ledger_entries_no_delete")
            else:
                connection.exec_driver_sql("set session_replication_role = replica")  # no triggers, no foreign keys
            for statement in statements:
                if callable(statement):
                    statement(connection)
                else:
                    assert connection.execute(sa.text(statement), values).rowcount, statement
            findings = audit(connection, keys, checkpointer.newest().checkpoint).findings
            connection.rollback()
            return findings

    yield attack
    engine.dispose()


def test_an_untouched_database_is_what_its_ledger_says(full, keys, checkpointer):
    signed = checkpointer.newest().checkpoint
    with full.reading() as connection:
        report = audit(connection, keys, signed)

    assert report.findings == []
    assert (report.size, report.rows, report.checkpoints, report.cosigned_size, report.witnesses) == (
        24,
        23,
        1,
        14,
        ("bank-a",),
    )


DECISION_COLUMNS = {
    "applicant": "'token-x'",
    "tenant_id": "'globex'",
    "product": "'warehouse-receipt'",
    "amount": "120000.51",
    "currency": "'USD'",
    "tenor_days": "91",
    "outcome": "'referred'",
    "reasons": "'[\"R01\"]'",
    "rate": "0.0551",
    "policy_versions": '\'{"order-finance":"2026-11-02"}\'',
    "model_version": "'ac'",
    "mode": "'federated'",
    "document": "'{}'",
    "initial_status": "'referred'",
    "id": "'dec-x'",
}


def test_a_changed_column_of_a_decision_is_found_and_the_decision_named(forge, full):
    victim = next(one for one in full.decisions("acme").rows if one.entry == 4)
    for column, value in DECISION_COLUMNS.items():
        findings = forge(f"update decisions set {column} = {value} where entry = 4")

        name = "dec-x" if column == "id" else victim.record.id
        assert {(one.entry, one.row) for one in findings} == {(4, f"decision {name}")}, column


@pytest.mark.parametrize("column", ["document", "inputs_hash", "salt", "created_at", "reasons", "amount"])
def test_every_byte_of_a_stored_decision_counts(forge, full, decisions_url, column):
    sqlite = decisions_url.startswith("sqlite")
    if column in {"created_at", "amount"} and not sqlite:
        forms = {"created_at": ["created_at + interval '1 microsecond'"], "amount": ["amount + 1e-30", "-amount"]}
        for form in forms[column]:
            assert [one.entry for one in forge(f"update decisions set {column} = {form} where entry = 4")] == [4]
        return
    with full.reading() as connection:
        cast = f"cast({column} as text)" if column in {"created_at", "amount"} else column
        value = connection.exec_driver_sql(f"select {cast} from decisions where entry = 4").scalar_one()
    raw = value.encode() if isinstance(value, str) else bytes(value)
    for at in range(len(raw)):
        changed = raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]
        if isinstance(value, str):
            try:
                changed = changed.decode()
            except UnicodeDecodeError:
                continue
        findings = forge(f"update decisions set {column} = :changed where entry = 4", changed=changed)
        assert [(one.entry, one.row.startswith("decision ")) for one in findings] == [(4, True)], (at, changed)


def test_nonsense_in_a_column_is_a_finding_and_never_hides_the_rest(forge, decisions_url):
    if not decisions_url.startswith("sqlite"):
        return  # PostgreSQL keeps nonsense out of its columns

    def without_checks(column, value):
        def run(connection):
            connection.exec_driver_sql("create table copied as select * from decisions")
            connection.exec_driver_sql("drop table decisions")
            connection.exec_driver_sql("alter table copied rename to decisions")
            connection.exec_driver_sql(f"update decisions set {column} = {value} where entry = 4")
            connection.exec_driver_sql("update decisions set outcome = 'referred' where entry = 6")

        return run

    for column in ("amount", "created_at", "reasons", "document", "salt", "tenor_days", "currency"):
        for value in ("'nonsense'", "x'ff00'", "''", "null", "1.5"):
            assert [one.entry for one in forge(without_checks(column, value))] == [4, 6], (column, value)


def test_a_changed_transition_is_found(forge):
    for change in ("actor = 'x'", "why = 'no reason'", "to_status = 'paid'", "from_status = 'new'", "number = 9"):
        assert 10 in {one.entry for one in forge(f"update transitions set {change} where entry = 10")}, change


def test_a_changed_offer_is_found(forge):
    for change in ("amount = 1001", "rate = 0.04", "expires_at = created_at", "document = '{ }'"):
        assert [one.entry for one in forge(f"update offers set {change}")] == [12], change


def test_a_status_that_no_transition_led_to_is_found(forge, full):
    moved = next(one for one in full.decisions("acme").rows if one.entry == 0)
    for change in ("status = 'disbursed'", "transitions = 1", "transitions = 3"):
        findings = forge(f"update decisions set {change} where entry = 0")
        assert [(one.entry, one.row) for one in findings] == [(0, f"decision {moved.record.id}")]


def test_a_deleted_row_is_found_by_its_entry(forge):
    for table, entry in (("decisions", 7), ("transitions", 10), ("offers", 12)):
        findings = forge(f"delete from {table} where entry = {entry}")
        assert [one.entry for one in findings if "was deleted" in one.what] == [entry]


def test_a_decision_that_was_put_in_without_an_entry_is_found(forge):
    columns = "tenant_id, applicant, product, amount, currency, tenor_days, outcome, reasons, rate, policy_versions, model_version, mode, inputs_hash, document, salt, initial_status, status, transitions, created_at"
    for entry, expected in ((99, "a log that ends before it"), (13, "other values"), (-1, "found none")):
        findings = forge(
            f"insert into decisions (id, {columns}, entry) select 'dec-forged', {columns}, {entry} from decisions where entry = 4"
        )
        assert [one.row for one in findings] == ["decision dec-forged"]
        assert expected in findings[0].what


def rewrite_log(change, *, upto=None):
    """Change entry 4's body and make everything that hangs on it fit: leaf, head; all but what was signed."""

    def run(connection):
        bodies = connection.execute(sa.text("select entry, body from ledger_entries order by entry")).all()
        frontier = Frontier()
        for number, body in bodies[:upto]:
            text = change(number, body)
            frontier, _ = frontier.append(leaf_hash(text.encode()))
            connection.execute(
                sa.text("update ledger_entries set body = :body, leaf_hash = :leaf where entry = :entry"),
                {"body": text, "leaf": leaf_hash(text.encode()), "entry": number},
            )
        connection.execute(
            sa.text("update ledger_head set size = :size, frontier = :frontier"),
            {"size": frontier.size, "frontier": frontier.to_bytes()},
        )

    return run


def test_a_decision_rewritten_together_with_its_entry_is_found_by_what_was_signed(forge, make, full):
    stored = next(one for one in full.decisions("acme").rows if one.entry == 4)
    forged = encode_entry(decision_entry(replace(stored.record, outcome="referred"), stored.salt)).decode()

    findings = forge(
        "update decisions set outcome = 'referred' where entry = 4",
        rewrite_log(lambda number, body: forged if number == 4 else body),
    )

    assert findings[0].row == "the checkpoint of 14 entries"
    assert "one of the entries 0 to 13 was rewritten" in findings[0].what


def test_a_rewritten_tail_that_no_witness_has_seen_is_found_by_the_file_beside_the_database(forge):
    def later(number, body):
        return body.replace("2026-11-25", "2026-11-26") if number == 20 else body

    findings = forge(rewrite_log(later))

    assert any("one of the entries 14 to 23 was rewritten" in one.what for one in findings)


def test_a_log_cut_back_with_its_rows_is_found(forge):
    findings = forge(
        "delete from decisions where entry >= 20",
        "delete from ledger_entries where entry >= 20",
        rewrite_log(lambda _, body: body),
    )

    assert any("expected 24 entries, found 20" in one.what for one in findings)


def test_a_changed_entry_is_found_and_named(forge):
    other = "(select leaf_hash from ledger_entries where entry = 7)"
    for statement, entry in (
        ("update ledger_entries set body = '{}' where entry = 6", 6),
        ("update ledger_entries set kind = 'offer' where entry = 6", 6),
        (f"update ledger_entries set leaf_hash = {other} where entry = 6", 6),
        ("delete from ledger_entries where entry = 13", 13),
    ):
        found = forge(statement)[0]
        assert (found.entry, found.row) == (entry, "the log"), statement


def test_whatever_else_the_log_rests_on_is_found_when_it_is_changed(forge):
    other = "(select leaf_hash from ledger_entries where entry = 1)"
    for statement in (
        "update ledger_head set size = 23",
        f"update ledger_head set frontier = {other}",
        f"update ledger_checkpoints set root = {other}",
        "update ledger_checkpoints set note = replace(note, '14', '13')",
        "update ledger_cosignatures set line = replace(line, 'bank-a', 'bank-b')",
        "update ledger_cosignatures set line = replace(line, 'A', 'B')",
        f"insert into ledger_nodes values (8, 0, {other})",
    ):
        assert forge(statement) != [], statement


def test_stored_subtrees_are_held_against_the_entries(store, make, decisions_url, sql):
    for _ in range(3):
        store.commit_blocking(lambda writes: [writes.add_decision(make.decision(at)) for at in range(100)])
    with store.reading() as connection:
        assert audit(connection).findings == []
    sql("update ledger_nodes set hash = :hash", hash=bytes(32))

    with store.reading() as connection:
        assert [one.row for one in audit(connection).findings] == ["the subtrees"]


def test_an_audit_stops_after_some_findings_and_names_the_first(forge):
    findings = forge(
        "update decisions set currency = 'EUR'", "update transitions set why = 'x'", "update offers set rate = 1"
    )

    assert len(findings) == MAX_FINDINGS
    assert [one.entry for one in findings] == sorted(one.entry for one in findings)
    assert findings[0].entry == 0
