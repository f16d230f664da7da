"""A decision's evidence in one small file: the record, its ledger entry, the way to a signed checkpoint.

Whoever may see the decision gets it; with the operator's and the members' keys of an agreement it is checked offline,
and nobody has to be believed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from coordinator.decisions.records import StoredDecision, canonical_json
from coordinator.ledger.checkpoints import InclusionEvidence
from coordinator.ledger.commitments import commitment
from coordinator.ledger.entries import DecisionEntry, Entry, parse_entry
from coordinator.ledger.export import encode_line
from coordinator.ledger.export_check import cosigned
from policies.errors import UserError
from policies.ledger_keys import LedgerKeys
from protos.ledger.checkpoints import Checkpoint, open_checkpoint
from protos.ledger.errors import LedgerError
from protos.ledger.merkle import MAX_SIZE, leaf_hash, verify_inclusion
from protos.ledger.notes import parse_note

FORMAT: Final = "tallystick-ledger-proof/1"
_KEYS: Final = {"format", "entry", "body", "proof", "checkpoint"}


class EvidenceRefused(UserError):
    """A proof file does not prove what it is for."""


@dataclass(frozen=True)
class EvidenceReport:
    """What a proof file proves: an entry of a ledger, and the decision behind it where the file holds it."""

    entry: int
    content: Entry
    checkpoint: Checkpoint
    witnesses: Mapping[str, int]
    """Members that co-signed the checkpoint, and when (Unix seconds)."""
    decision: Mapping[str, Any] | None


def evidence(inclusion: InclusionEvidence, stored: StoredDecision | None = None) -> dict[str, Any]:
    """The file's content, as JSON values.

    Args:
        inclusion: Of `Checkpointer.proof_for`.
        stored: The decision, with the salt that ties it to the entry: for those who may see it.
    """
    content: dict[str, Any] = {
        "format": FORMAT,
        "entry": inclusion.entry,
        "body": json.loads(inclusion.body),
        "proof": [one.hex() for one in inclusion.proof],
        "checkpoint": inclusion.checkpoint.note.encode(),
    }
    if stored is not None:
        content["decision"] = {"record": json.loads(stored.record.canonical()), "salt": stored.salt.hex()}
    return content


def verify_evidence(raw: bytes, keys: LedgerKeys) -> EvidenceReport:
    """Check a proof file.

    Args:
        raw: The file.
        keys: The ledger's keys of an agreement that the reader holds.

    Raises:
        EvidenceRefused: What is wrong with it, in one sentence.
    """
    try:
        content = json.loads(raw)
        if content["format"] != FORMAT or not _KEYS <= content.keys() <= _KEYS | {"decision"}:
            raise EvidenceRefused(f"Expected a file of format {FORMAT}, found another one; give a ledger proof.")
        entry, body = content["entry"], encode_line(content["body"])[:-1]
        proof = tuple(bytes.fromhex(one) for one in content["proof"])
        note = parse_note(content["checkpoint"].encode())
        if type(entry) is not int or not 0 <= entry < MAX_SIZE:
            raise EvidenceRefused("Expected the number of an entry, found something else; the file was altered.")
        checkpoint = open_checkpoint(note, keys.log)
        found = parse_entry(body)
        verify_inclusion(leaf_hash(body), entry, checkpoint.size, proof, checkpoint.root)
        witnesses = cosigned(note.known(keys.all()), keys)
        record = _decision(content["decision"], found) if "decision" in content else None
    except LedgerError as problem:
        raise EvidenceRefused(f"The ledger proof: {problem}") from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise EvidenceRefused(f"Expected a file of format {FORMAT}, found a damaged one; fetch it again.") from None
    return EvidenceReport(entry, found, checkpoint, witnesses, record)


def _decision(given: dict[str, Any], entry: Entry) -> Mapping[str, Any]:
    record, salt = given["record"], bytes.fromhex(given["salt"])
    if not isinstance(entry, DecisionEntry):
        raise EvidenceRefused(f"Expected a decision's entry, found one of kind {entry.kind!r}; it is another proof.")
    expected = {
        "decision": commitment(salt, "decision", record["id"].encode()),
        "tenant": commitment(salt, "tenant", record["tenant"].encode()),
        "inputs": commitment(salt, "inputs", bytes.fromhex(record["inputs_hash"])),
        "record": commitment(salt, "record", canonical_json(record)),
    }
    for what, value in expected.items():
        if value != getattr(entry, what):
            raise EvidenceRefused(
                f"The ledger proof: expected the {what} that the entry commits to, found another;"
                " the decision was altered, or the proof is another one's."
            )
    return dict(record)
