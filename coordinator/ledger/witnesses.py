"""Have the newest checkpoint co-signed by the nodes: one step, and a second one for those that need another proof.

A node that last saw another size says so and gets the proof from there. One that refuses is asked once more, with the
cosignatures of the others under the checkpoint. What still refuses is an alarm, in the log and in the ledger itself.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import sqlalchemy as sa
from google.protobuf.message import DecodeError

from coordinator.database.schema import CosignatureRow
from coordinator.decisions.store import DecisionStore, utc_now
from coordinator.decisions.writes import DecisionWrites
from coordinator.engine.steps import Refusal, Steps
from coordinator.ledger.checkpoints import Checkpointer, SignedCheckpoint
from coordinator.ledger.entries import AlarmEntry, CheckpointEntry, time_text
from coordinator.ledger.log import Log
from policies.ledger_keys import LedgerKeys
from protos.ledger.checkpoints import verify_cosignature
from protos.ledger.errors import LedgerError
from protos.ledger.notes import Note, NoteSignature
from protos.ledger.v1 import ledger_pb2

log = logging.getLogger(__name__)

ACTION: Final = "witness"


@dataclass(frozen=True)
class WitnessOutcome:
    """How a round ended.

    Attributes:
        signed: The checkpoint with all cosignatures of the round.
        witnesses: Members that co-signed it.
        refusals: Members that refused, in their own words.
        silent: Members that said nothing.
    """

    signed: SignedCheckpoint
    witnesses: tuple[str, ...]
    refusals: Mapping[str, Refusal]
    silent: frozenset[str]


@dataclass
class _Answers:
    """What one step brought."""

    lines: dict[str, NoteSignature] = field(default_factory=dict)
    behind: dict[str, int] = field(default_factory=dict)
    refusals: dict[str, Refusal] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)


class WitnessRound:
    """Asks the members to co-sign. One call at a time.

    Args:
        store: Whose ledger it is.
        checkpointer: Signs it.
        keys: The ledger's keys of the agreement.
        clock: Wall clock, aware.
    """

    def __init__(
        self,
        store: DecisionStore,
        checkpointer: Checkpointer,
        keys: LedgerKeys,
        *,
        clock: Callable[[], dt.datetime] = utc_now,
    ) -> None:
        self._store = store
        self._checkpointer = checkpointer
        self._keys = keys
        self._clock = clock

    def due(self) -> bool:
        """Whether the ledger has entries that no witness has seen, beside those about witnessing."""
        last = self._checkpointer.newest_cosigned()
        begin = 0 if last is None else last.checkpoint.size
        with self._store.reading() as connection:
            ledger = Log(connection)
            return any(entry.kind not in {"checkpoint", "alarm"} for entry in ledger.entries(begin, ledger.head().size))

    def run(self, steps: Steps, *, deadline_s: float) -> WitnessOutcome:
        """One round over the members that are connected.

        Args:
            steps: Reaches the members.
            deadline_s: Seconds for each of the two steps.

        Raises:
            LedgerRolledBack: The ledger does not continue what was signed before.
        """
        signed = self._checkpointer.newest()
        checkpoint, note = signed.checkpoint, signed.note.encode()
        self._store.commit_blocking(lambda writes: writes.keep_checkpoint(checkpoint.size, checkpoint.root, note))
        known = self._last_seen()
        online = steps.online() & self._keys.witnesses.keys()
        first = self._ask(steps, signed, {member: known.get(member, 0) for member in online}, deadline_s)
        again = {**{member: known.get(member, 0) for member in first.refusals}, **first.behind}
        second = self._ask(steps, _with_lines(signed, first.lines), again, deadline_s) if again else _Answers()
        lines = {**first.lines, **second.lines}
        refusals = {**{member: _still_behind(member) for member in second.behind}, **second.refusals}
        silent = (self._keys.witnesses.keys() - online) | first.silent | second.silent
        self._keep(signed, lines, refusals)
        return WitnessOutcome(_with_lines(signed, lines), tuple(sorted(lines)), refusals, frozenset(silent))

    def _last_seen(self) -> dict[str, int]:
        """Size of the checkpoint that each witness has co-signed last, as far as is known here."""
        newest = sa.select(CosignatureRow.witness, sa.func.max(CosignatureRow.size).label("size"))
        with self._store.reading() as connection:
            rows = connection.execute(newest.group_by(CosignatureRow.witness))
            return {row.witness: row.size for row in rows}

    def _ask(self, steps: Steps, signed: SignedCheckpoint, old_sizes: Mapping[str, int], deadline_s: float) -> _Answers:
        note, size = signed.note.encode().encode(), signed.checkpoint.size
        with self._store.reading() as connection:
            ledger = Log(connection)
            proofs = {old: ledger.consistency_proof(old, size) for old in {*old_sizes.values()} if old <= size}
        bodies = {
            member: ledger_pb2.WitnessRequest(checkpoint=note, old_size=old, proof=proofs[old]).SerializeToString()
            for member, old in old_sizes.items()
            if old in proofs
        }
        answers = _Answers(behind={member: old for member, old in old_sizes.items() if old not in proofs})
        if not bodies:
            return answers
        outcome = steps.run_step(ACTION, bodies, deadline_s=deadline_s)
        answers.silent |= outcome.silent
        answers.refusals.update(outcome.refusals)
        for member, body in outcome.replies.items():
            self._sort(member, body, signed, answers)
        return answers

    def _sort(self, member: str, body: bytes, signed: SignedCheckpoint, answers: _Answers) -> None:
        """A reply is a line that verifies, another size, or worth nothing: a node is not trusted to be right."""
        reply = ledger_pb2.WitnessReply()
        try:
            reply.ParseFromString(body)
            if reply.WhichOneof("outcome") == "seen":
                answers.behind[member] = reply.seen.size
                return
            line = NoteSignature.parse(reply.cosignature)
            verify_cosignature(signed.note.text, line, self._keys.witnesses[member])
        except (DecodeError, LedgerError) as problem:
            answers.refusals[member] = Refusal("CosignatureInvalid", f"{member}: {problem}")
            return
        answers.lines[member] = line

    def _keep(
        self, signed: SignedCheckpoint, lines: Mapping[str, NoteSignature], refusals: Mapping[str, Refusal]
    ) -> None:
        at, checkpoint = time_text(self._clock()), signed.checkpoint
        evidence = hashlib.sha256(signed.note.text.encode()).hexdigest()

        def work(writes: DecisionWrites) -> None:
            for member, line in lines.items():
                writes.keep_cosignature(checkpoint.size, member, line.encode())
            for member, refusal in sorted(refusals.items()):
                log.error(
                    "ledger: %s refused a checkpoint of %d entries: %s", member, checkpoint.size, refusal.sentence
                )
                writes.append(AlarmEntry(at=at, code=refusal.code[:128], member=member, evidence=evidence))
            if lines:
                writes.append(
                    CheckpointEntry(
                        at=at, size=checkpoint.size, root=checkpoint.root.hex(), witnesses=tuple(sorted(lines))
                    )
                )

        if lines or refusals:
            self._store.commit_blocking(work)


def _with_lines(signed: SignedCheckpoint, lines: Mapping[str, NoteSignature]) -> SignedCheckpoint:
    ordered = tuple(lines[member] for member in sorted(lines))
    return SignedCheckpoint(signed.checkpoint, Note(signed.note.text, (*signed.note.signatures, *ordered)))


def _still_behind(member: str) -> Refusal:
    return Refusal("SeenAnotherSize", f"{member} says that it saw a size that the ledger cannot prove from.")
