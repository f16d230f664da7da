"""Federated averaging without any protection, to measure what protection costs. Never part of a deployment.

Members send their weighted updates in the clear as float32; the coordinator adds them and sees every one. Everything
else is what a sealed run has: the same processes, streams, local training, and checkpoints in the same databases.
One exchange a round: a request carries the sum of the round before.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coordinator.engine.steps import Steps
from coordinator.store import CoordinatorStore
from models.features import FloatArray, TrainingData
from models.horizontal import HorizontalProgram, weight_log2_for_rows
from nodes.membership import Membership
from nodes.program import horizontal_program
from nodes.store import NodeStore, OpenedRecord
from policies.agreement import Agreement, agreement_hash
from policies.errors import UserError
from policies.proposal import MethodSettings, RunProposal
from protos.sealed_sum.layout import Layout, OpenedSum
from simulations.consortium import PURPOSE, TASK

JOIN, CONTRIBUTE = "unsafe-join", "unsafe-contribute"
_LENGTH = struct.Struct("<I")

Float32s = NDArray[np.float32]
Sums = dict[str, Float32s]


class UnsafePlainFailed(UserError):
    """A plain round of a benchmark did not work."""


class UnsafePlainSum(OpenedSum):
    """A sum that was added in the clear; values are used as they came, without fixed point.

    Counts are whole numbers below 2^24, so float32 holds them exactly.
    """

    def __init__(self, layout: Layout, values: Mapping[str, Float32s], contributors: int) -> None:
        integers = {
            public.name: np.rint(
                (values[public.name].astype(np.float64) - contributors * public.low) / public.step
            ).astype(np.int64)
            for public in layout.fields
            if public.low == 0.0  # counts; the change of the parameters is never read as integers
        }
        super().__init__(integers, contributors, layout)
        object.__setattr__(self, "_plain", values)  # frozen like its parent

    def values(self, name: str) -> NDArray[np.float64]:
        """The sum of the members' values of one field, shape (field.length,)."""
        plain: Mapping[str, Float32s] = self.__dict__["_plain"]
        return plain[name].astype(np.float64)


class UnsafePlainNode:
    """A member that hides nothing; hosted by the benchmark's node process alone.

    Args:
        membership: Who this node is.
        data: Its rows by task.
        store: Where checkpoints go.
    """

    def __init__(self, membership: Membership, data: Callable[[str], TrainingData], store: NodeStore) -> None:
        self._membership = membership
        self._data = data
        self._store = store
        self._program: HorizontalProgram | None = None
        self._run_id = ""
        self._k = -1
        self._reply = b""

    def handle(self, action: str, body: bytes) -> bytes:
        """Answer one message; a repeated one gets the same answer."""
        header, sums = _read(body)
        if action == JOIN:
            rows = self._data(TASK)
            return _write({"weight": 1 << weight_log2_for_rows(int((~rows.holdout).sum()))}, {})
        proposal = RunProposal.from_bytes(header["proposal"].encode())
        if proposal.run_id != self._run_id:
            self._begin(proposal, header["weights"])
        k = int(header["k"])
        if k != self._k:
            self._advance(k, sums, len(proposal.cohort))
        return self._reply

    def _begin(self, proposal: RunProposal, weights: Mapping[str, int]) -> None:
        self._program = horizontal_program(
            self._membership.agreement, proposal, self._data(TASK), self._membership.member, weights
        )
        self._store.add_run(proposal.run_id, proposal.to_bytes(), b"", b"")
        self._run_id, self._k = proposal.run_id, -1

    def _advance(self, k: int, sums: Sums, contributors: int) -> None:
        program = self._program
        if program is None:
            raise UnsafePlainFailed("Expected a plain run at this node, found none; start the benchmark again.")
        if k > 0:
            purpose = program.purpose()
            statistics = program.absorb(UnsafePlainSum(program.layout(), sums, contributors))
            record = OpenedRecord(k - 1, "", (), b"", purpose, "plain", statistics)
            self._store.commit_opening(self._run_id, record, b"", program.snapshot())
        values = {} if program.finished else program.contribution()
        plain = {name: np.asarray(array, dtype=np.float32) for name, array in values.items()}
        self._reply = _write({"purpose": program.purpose()}, plain)
        self._k = k


@dataclass(frozen=True)
class UnsafePlainDriver:
    """A coordinator that sees every update.

    Attributes:
        agreement: As the members hold it.
        store: Where the sums go.
        steps: The engine.
        deadline_s: Of one exchange.
    """

    agreement: Agreement
    store: CoordinatorStore
    steps: Steps
    deadline_s: float

    def run(self, run_id: str, settings: MethodSettings) -> None:
        """Bins, training rounds and evaluation, all in the clear.

        Raises:
            UnsafePlainFailed: A member did not answer.
        """
        cohort = tuple(sorted(member.id for member in self.agreement.members))
        weights = {
            member: int(header["weight"]) for member, (header, _) in self._ask(JOIN, cohort, _write({}, {})).items()
        }
        proposal = RunProposal(
            run_id=run_id,
            agreement_hash=agreement_hash(self.agreement).hex(),
            task=TASK,
            purpose=PURPOSE,
            cohort=cohort,
            settings=settings,
            nonce="0" * 64,
        )
        self.store.queue_run(run_id, b"")
        head = {"proposal": proposal.to_bytes().decode(), "weights": weights}
        sums: Sums = {}
        k, finished = 0, False
        while not finished:
            replies = self._ask(CONTRIBUTE, cohort, _write({**head, "k": k}, sums))
            purposes = {header["purpose"] for header, _ in replies.values()}
            sums = _added([values for _, values in replies.values()])
            finished = purposes == {"finished"}
            if not finished:
                self.store.fix_survivors(run_id, k, next(iter(purposes)), cohort)
                self.store.finish_sum(run_id, k, _write({}, sums))
            k += 1
        self.store.set_status(run_id, "finished")

    def _ask(self, action: str, cohort: tuple[str, ...], body: bytes) -> dict[str, tuple[dict[str, Any], Sums]]:
        outcome = self.steps.run_step(action, dict.fromkeys(cohort, body), deadline_s=self.deadline_s)
        for member, refusal in outcome.refusals.items():
            raise UnsafePlainFailed(f"{member} refused a plain round: {refusal.sentence}")
        if outcome.silent:
            raise UnsafePlainFailed(
                f"Expected an answer of every member within {self.deadline_s:g} s, found none of "
                f"{', '.join(sorted(outcome.silent))}; their logs say why."
            )
        return {member: _read(reply) for member, reply in outcome.replies.items()}


def _added(parts: list[Sums]) -> Sums:
    total = {name: array.copy() for name, array in parts[0].items()}
    for part in parts[1:]:
        for name, array in part.items():
            total[name] += array
    return total


def _write(header: Mapping[str, Any], arrays: Mapping[str, Float32s | FloatArray]) -> bytes:
    """Header length, header as JSON with the arrays' lengths, then the arrays as little-endian float32."""
    head = json.dumps({**header, "arrays": {name: int(array.size) for name, array in arrays.items()}}).encode()
    parts = [np.ascontiguousarray(array, dtype="<f4").tobytes() for array in arrays.values()]
    return b"".join([_LENGTH.pack(len(head)), head, *parts])


def _read(data: bytes) -> tuple[dict[str, Any], Sums]:
    """What `_write` wrote; both ends are this benchmark's own."""
    (length,) = _LENGTH.unpack_from(data)
    at = _LENGTH.size + length
    header: dict[str, Any] = json.loads(data[_LENGTH.size : at])
    arrays: Sums = {}
    for name, size in header.pop("arrays").items():
        arrays[name] = np.frombuffer(data, dtype="<f4", count=size, offset=at)
        at += 4 * size
    return header, arrays
