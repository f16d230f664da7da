"""A node's part in vertical runs: takes letters, runs the program on them, gives its letters back.

The program lives in memory alone, and with it the label holder's key, so a node that restarts has lost it: the
coordinator then starts the training again (another attempt), on the alignment that all nodes have on disk. What must
survive does so before an answer leaves: how much the labels were asked (rules B4, B5). A step that is asked again gets
the same bytes: fresh noise on a second answer could be averaged away.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from models.metrics import OneClassError
from nodes.alignment_store import AlignmentStore
from nodes.membership import Membership
from nodes.store import NodeStore, RunRecord
from nodes.vertical_data import PlacedRows, VerticalRows, placed_rows
from nodes.vertical_feature import FeatureProgram, TrainedTower
from nodes.vertical_label import LabelProgram, TrainedLabel
from nodes.vertical_release import vertical_table
from nodes.vertical_session import Party, VerticalStepRefused, greet
from nodes.vertical_turns import Program, Progress
from policies.proposal import RunProposal
from policies.release import sign_release
from protos.encrypted_gradient.parameters import MAX_PASSES
from protos.runs.v1 import vertical_pb2
from protos.sealed_sum.dealing import Ready

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 16


class AttemptLost(VerticalStepRefused):
    """This node has lost the attempt: the training must be started again."""


class TowerSink(Protocol):
    """Takes what a member keeps of a trained task: its tower, and what it will answer scores from."""

    def __call__(self, trained: TrainedTower, rows: PlacedRows) -> None:
        """Keep it, durably."""
        ...


@dataclass(frozen=True)
class VerticalSide:
    """What a node needs for vertical runs.

    Attributes:
        rows: Gives the member's rows.
        keep: Keeps what was trained.
    """

    rows: VerticalRows
    keep: TowerSink


class VerticalParticipation:
    """A member's part in one vertical run.

    Args:
        membership: Who this node is.
        proposal: The accepted proposal.
        record: The run as last committed, phase `ready`.
        side: Rows, and what keeps the trained towers.
        store: Durable state.
        rng: Cryptographic randomness.
        now: Wall clock as ISO 8601 text, for the journal.
    """

    def __init__(
        self,
        membership: Membership,
        proposal: RunProposal,
        record: RunRecord,
        side: VerticalSide,
        store: NodeStore,
        *,
        rng: Callable[[int], bytes],
        now: Callable[[], str],
    ) -> None:
        self._membership = membership
        self._proposal = proposal
        self._ready = Ready.from_bytes(record.state, membership.identity)
        self._side = side
        self._store = store
        self._rng = rng
        self._now = now
        self._placed: PlacedRows | None = None
        self._attempt = -1
        self._number = -1
        self._program: Program[list[vertical_pb2.VerticalResult]] | None = None
        self._awaits: tuple[str, ...] = ()
        self._last: tuple[bytes, vertical_pb2.VerticalStepReply] | None = None

    def step(self, request: vertical_pb2.VerticalStepRequest) -> vertical_pb2.VerticalStepReply:
        """Answer one step.

        Raises:
            AttemptLost: This node restarted since the attempt began.
            VerticalStepRefused: The step is not the next one, or its letters are not those that are due.
            UserError, SealedSumError: What another member sent is refused.
        """
        told = hashlib.sha256(request.SerializeToString(deterministic=True)).digest()
        if self._last is not None and self._last[0] == told:
            return self._last[1]
        if request.number == 0 and self._attempt < request.attempt < MAX_ATTEMPTS and not request.letters:
            self._begin(request.attempt)
        elif self._program is None or request.attempt != self._attempt:
            raise AttemptLost(
                f"This node is not in attempt {request.attempt} of vertical run {self._proposal.run_id}, because it "
                "restarted or refused; the training must be started again."
            )
        elif request.number != self._number + 1:
            raise VerticalStepRefused(
                f"Expected step {self._number + 1} of the attempt, found step {request.number}, or another request for "
                "an answered one; an answer is given once."
            )
        reply = self._advance(request)
        self._number = request.number
        self._last = (told, reply)
        return reply

    def _begin(self, attempt: int) -> None:
        if self._placed is None:
            own = self._side.rows(*self._proposal.tasks)
            alignment = AlignmentStore(self._store, self._proposal.run_id)
            self._placed = placed_rows(
                self._membership.agreement, self._proposal, self._membership.member, own, alignment
            )
        party = Party(self._membership, self._proposal, self._ready, self._placed, self._rng)
        self._attempt, self._awaits = attempt, ()
        self._program = self._all_tasks(party, attempt)
        self._journal("vertical attempt", number=attempt)

    def _advance(self, request: vertical_pb2.VerticalStepRequest) -> vertical_pb2.VerticalStepReply:
        program, self._program = self._program, None  # an error below leaves nothing to go on with
        if program is None:
            raise AttemptLost("Expected an attempt that has begun, found none; start the training again.")
        letters = {letter.sender: letter.body for letter in request.letters}
        if set(letters) != set(self._awaits) or len(letters) != len(request.letters):
            raise VerticalStepRefused(
                f"Expected a letter of each of {', '.join(self._awaits) or 'nobody'}, found others; start again."
            )
        reply = vertical_pb2.VerticalStepReply()
        try:
            turn = next(program) if request.number == 0 else program.send(letters)
            while True:
                _post(reply, turn.letters)
                if turn.progress is not None:
                    _show(reply, turn.progress)
                if turn.awaits:
                    break
                turn = program.send({})
        except StopIteration as ended:
            reply.done = True
            reply.results.extend(ended.value)
            return reply
        except OneClassError as problem:
            raise VerticalStepRefused(
                f"The hold-out of run {self._proposal.run_id} cannot be evaluated: {problem}."
            ) from problem
        self._awaits = tuple(turn.awaits)
        reply.awaits.extend(self._awaits)
        self._program = program
        return reply

    def _all_tasks(self, party: Party, attempt: int) -> Program[list[vertical_pb2.VerticalResult]]:
        session = yield from greet(party, attempt)
        party = Party(party.membership, party.proposal, party.ready, party.rows, party.rng, session)
        results = []
        for task in self._proposal.tasks:
            roster = party.roster(task)
            trained: TrainedTower
            if party.member in roster.label_holders:
                budget = _StoredBudget(self._store, task, party.rows.own.data_version(task))
                budget.require(self._proposal.settings.passes)
                labelled = yield from LabelProgram(party, task, budget).run()
                results.append(self._released(task, labelled))
                trained = labelled
            elif party.member in roster.feature_holders:
                trained = yield from FeatureProgram(party, task).run()
                results.append(vertical_pb2.VerticalResult(task=task, model_version=trained.version))
            else:
                continue
            self._side.keep(trained, party.rows)
            self._journal("vertical trained", task=task, version=trained.version)
        return results

    def _released(self, task: str, trained: TrainedLabel) -> vertical_pb2.VerticalResult:
        table = vertical_table(self._proposal, self._ready, task, trained)
        signed = sign_release(table, self._membership.identity.private)
        self._journal("released", task=task, table=table.digest().hex())
        return vertical_pb2.VerticalResult(
            task=task, released=signed.released, signature=signed.signature, model_version=trained.version
        )

    def _journal(self, event: str, **details: str | int | list[str]) -> None:
        self._store.journal(self._now(), self._proposal.run_id, event, **details)


class _StoredBudget:
    """One task's label budget on this node's disk."""

    def __init__(self, store: NodeStore, task: str, version: bytes) -> None:
        self._store = store
        self._task = task
        self._version = version

    def require(self, passes: int) -> None:
        """Refuse a run that could not be finished, before anything of it leaves."""
        _, begun = self._store.label_queries(self._task, self._version)
        if begun + passes > MAX_PASSES:
            raise VerticalStepRefused(
                f"Expected at most {MAX_PASSES} passes over the labels of these rows, found {begun} before this run "
                f"and {passes} in it; use newer data (rule B5)."
            )

    def asked(self) -> int:
        return self._store.label_queries(self._task, self._version)[0]

    def begin_pass(self) -> None:
        asked, begun = self._store.label_queries(self._task, self._version)
        if begun >= MAX_PASSES:
            raise VerticalStepRefused(f"Expected at most {MAX_PASSES} passes over these labels, found one more (B5).")
        self._store.save_label_queries(self._task, self._version, asked=asked, passes=begun + 1)

    def charge(self, asked: int) -> None:
        _, begun = self._store.label_queries(self._task, self._version)
        self._store.save_label_queries(self._task, self._version, asked=asked, passes=begun)


def _post(reply: vertical_pb2.VerticalStepReply, letters: Mapping[str, bytes]) -> None:
    """Add letters to a reply, equal ones once."""
    recipients: dict[bytes, list[str]] = {}
    for member, body in letters.items():
        recipients.setdefault(body, []).append(member)
    for body, members in recipients.items():
        reply.posts.add(recipients=members, body=body)


def _show(reply: vertical_pb2.VerticalStepReply, progress: Progress) -> None:
    reply.progress.task, reply.progress.number, reply.progress.of = progress.task, progress.number, progress.of
