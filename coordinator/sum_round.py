"""One sealed sum as the coordinator drives it: S1, then S2a if somebody dropped, then S2b, over the engine's steps.

Survivor sets are committed before they are announced; everything else can be asked again after a crash, because
nodes answer a repeated request with the bytes that they stored.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError

from coordinator.engine.steps import Refusal, StepOutcome, Steps
from coordinator.store import CoordinatorStore, StoredSum
from policies.errors import UserError
from protos.runs.v1 import runs_pb2
from protos.sealed_sum.aggregator import Collecting, RevealingSeeds, RevealingShares
from protos.sealed_sum.epoch import EpochView
from protos.sealed_sum.errors import CohortRefused, SealedSumError
from protos.sealed_sum.parameters import MAX_CIPHERTEXTS

log = logging.getLogger(__name__)


class RunFailed(UserError):
    """A run cannot go on; the sentence says why."""


class MembersMissing(Exception):  # control flow between a sum and the driver, never shown
    """Members that the sum may not do without have not answered by the deadline."""

    def __init__(self, members: frozenset[str]) -> None:
        super().__init__(", ".join(sorted(members)))
        self.members = members


@dataclass(frozen=True)
class Contributions:
    """S1 as it ended.

    Attributes:
        uploads: Member to its upload; empty when the program is over.
        finished: Member to its signed release, when the program is over.
        purpose: What the sum is for.
    """

    uploads: Mapping[str, runs_pb2.Upload] = field(default_factory=dict)
    finished: Mapping[str, runs_pb2.Finished] = field(default_factory=dict)
    purpose: str = ""


@dataclass
class Traffic:
    """Body bytes and exchanges of a run, by phase; what `tallystick bench round` reports."""

    exchanges: int = 0
    bytes_up: dict[str, int] = field(default_factory=dict)
    bytes_down: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def count(self, phase: str, outcome: StepOutcome) -> None:
        """Add one exchange."""
        self.exchanges += 1
        self.bytes_up[phase] = self.bytes_up.get(phase, 0) + sum(outcome.bytes_up.values())
        self.bytes_down[phase] = self.bytes_down.get(phase, 0) + sum(outcome.bytes_down.values())
        self.seconds[phase] = self.seconds.get(phase, 0.0) + outcome.elapsed_s

    def add(self, other: Traffic) -> None:
        """Take over what another round counted."""
        self.exchanges += other.exchanges
        for own, more in ((self.bytes_up, other.bytes_up), (self.bytes_down, other.bytes_down)):
            for phase, count in more.items():
                own[phase] = own.get(phase, 0) + count
        for phase, seconds in other.seconds.items():
            self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds


class SumRound:
    """Drives the sums of one run.

    Args:
        view: The key epoch as the coordinator checked it.
        steps: The engine.
        store: Where survivor sets and sealed sums are committed.
        confirmations: E2 messages, for members that have not accepted them yet.
        deadline_s: How long a step waits for silent members.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        view: EpochView,
        steps: Steps,
        store: CoordinatorStore,
        confirmations: tuple[bytes, ...],
        *,
        deadline_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._view = view
        self._steps = steps
        self._store = store
        self._confirmations = confirmations
        self._deadline_s = deadline_s
        self._clock = clock
        self._suspects: frozenset[str] = frozenset()
        self.traffic = Traffic()

    # -- S1 ---------------------------------------------------------------------------------------------

    def contributions(self, k: int, members: tuple[str, ...], required: frozenset[str]) -> Contributions:
        """Ask `members` for sum k.

        Args:
            k: Number of the sum.
            members: Whom to ask.
            required: Whom the sum may not do without.

        Raises:
            MembersMissing: A required member was silent until the deadline.
            RunFailed: A member refuses, or members are at different points of the program.
        """
        end = self._clock() + self._deadline_s
        latest = self._store.sealed_sums(self._view.run_id, max(0, k - 1))
        request = self._request(k, latest)
        pending = dict.fromkeys(members, request)
        uploads: dict[str, runs_pb2.Upload] = {}
        finished: dict[str, runs_pb2.Finished] = {}
        while pending:
            outcome = self._steps.run_step(
                "contribute",
                pending,
                deadline_s=max(0.0, end - self._clock()),
                enough=self._enough(pending, required),
            )
            self.traffic.count("contribute", outcome)
            self._refuse(outcome.refusals, f"sum {k}")
            pending = {}
            for member, body in outcome.replies.items():
                reply = _parse_reply(member, body)
                match reply.WhichOneof("outcome"):
                    case "upload":
                        uploads[member] = reply.upload
                    case "finished":
                        finished[member] = reply.finished
                    case "behind":
                        pending[member] = self._catch_up(k, reply.behind)
                    case _:
                        raise RunFailed(f"{member} answered sum {k} with an empty message; update its node.")
        silent = frozenset(members) - uploads.keys() - finished.keys()
        self._suspects = silent
        if silent & required:
            raise MembersMissing(silent & required)
        if uploads and finished:
            raise RunFailed(
                f"Members are at different points of the program ({', '.join(sorted(finished))} finished, "
                f"{', '.join(sorted(uploads))} did not); all nodes must run the same release."
            )
        purposes = {upload.purpose for upload in uploads.values()}
        return Contributions(uploads, finished, next(iter(purposes), ""))

    def _enough(
        self, pending: Mapping[str, bytes], required: frozenset[str]
    ) -> Callable[[Mapping[str, bytes]], bool] | None:
        """Do not wait for members that were silent before and are still away, unless the sum needs them."""
        away = (self._suspects - required) - self._steps.online()
        awaited = pending.keys() - away
        return (lambda replies: awaited <= replies.keys()) if away else None

    def _request(self, k: int, openings: Sequence[StoredSum], *, confirmations: bool = False) -> bytes:
        message = runs_pb2.ContributeRequest(run_id=self._view.run_id, k=k)
        for stored in openings:
            if stored.k < k:
                message.openings.add(k=stored.k, sealed_sum=stored.sealed_sum, survivors=stored.survivors)
        if k == 0 or confirmations:
            message.confirmations.extend(self._confirmations)
        return message.SerializeToString()

    def _catch_up(self, k: int, behind: runs_pb2.Behind) -> bytes:
        openings = self._store.sealed_sums(self._view.run_id, behind.opened)
        return self._request(k, openings, confirmations=behind.needs_confirmations)

    # -- S1 closed, S2, S3 ------------------------------------------------------------------------------

    def unmask(self, k: int, contributions: Contributions) -> tuple[bytes, tuple[str, ...]]:
        """Add up, let the survivors reveal, unmask; committed when this returns.

        Returns:
            The sealed sum and the final survivors.

        Raises:
            RunFailed: Too few members survive, or their shares do not rebuild what was committed to.
        """
        started = time.process_time()
        collecting = self._collect(k, contributions)
        try:
            closing = collecting.close()
        except CohortRefused as refusal:
            raise RunFailed(
                f"Sum {k} was given up, nothing was revealed: {refusal}; wait for the members and start a new run."
            ) from None
        self._store.fix_survivors(self._view.run_id, k, contributions.purpose, closing.survivors)
        closing = self._seeds(k, closing, contributions.purpose)
        revealing = self._shares(k, closing.finalise())
        try:
            sealed = revealing.finish()
        except SealedSumError as refusal:
            # More wrong shares than can be told apart: U is frozen, so no other answers can be asked for.
            raise RunFailed(f"Sum {k} was given up, nothing was opened: {refusal}; start a new run.") from None
        self._store.finish_sum(self._view.run_id, k, sealed)
        self.traffic.seconds["aggregate_cpu"] = (
            self.traffic.seconds.get("aggregate_cpu", 0.0) + time.process_time() - started
        )
        return sealed, revealing.survivors

    def _collect(self, k: int, contributions: Contributions) -> Collecting:
        sizes = {upload.num_ciphertexts for upload in contributions.uploads.values()}
        size = next(iter(sizes), 0)
        if len(sizes) != 1 or not 0 < size <= MAX_CIPHERTEXTS:
            raise RunFailed(f"Members disagree about the size of sum {k}; all nodes must run the same release.")
        collecting = Collecting.start(self._view, k, size)
        for member, upload in sorted(contributions.uploads.items()):
            try:
                collecting = collecting.receive(member, upload.upload)
            except SealedSumError as refusal:
                # A member whose message does not hold counts as gone; the others decide without it.
                log.warning("upload of %s to sum %d refused: %s", member, k, refusal)
        return collecting

    def _seeds(self, k: int, closing: RevealingSeeds, purpose: str) -> RevealingSeeds:
        while closing.missing:
            asked = closing.missing
            body = runs_pb2.SeedsRequest(
                run_id=self._view.run_id, k=k, survivors=closing.survivors, dropped=closing.dropped
            ).SerializeToString()
            outcome = self._steps.run_step("seeds", dict.fromkeys(asked, body), deadline_s=self._deadline_s)
            self.traffic.count("seeds", outcome)
            self._refuse(outcome.refusals, f"the seeds of sum {k}")
            for member, reply in outcome.replies.items():
                try:
                    closing = closing.receive(member, _parse_answer(member, reply))
                except SealedSumError as refusal:
                    log.warning("seeds of %s in sum %d refused: %s", member, k, refusal)
            gone = set(closing.missing)
            if gone:
                try:
                    closing = closing.drop(gone)
                except CohortRefused as refusal:
                    raise RunFailed(
                        f"Sum {k} was given up, nothing was opened: {refusal}; wait for members and start a new run."
                    ) from None
                self._store.fix_survivors(self._view.run_id, k, purpose, closing.survivors)
        return closing

    def _shares(self, k: int, revealing: RevealingShares) -> RevealingShares:
        end = self._clock() + self._deadline_s
        while not revealing.enough:
            bodies = {
                member: runs_pb2.SharesRequest(
                    run_id=self._view.run_id,
                    k=k,
                    survivors=revealing.survivors,
                    dropped=revealing.dropped,
                    encrypted_shares=revealing.encrypted_shares_for(member),
                ).SerializeToString()
                for member in revealing.missing
            }
            needed = self._view.bounds.shamir_threshold + 1
            have = len(revealing.survivors) - len(revealing.missing)
            remaining = end - self._clock()
            if remaining <= 0:
                raise MembersMissing(frozenset(revealing.missing))
            outcome = self._steps.run_step(
                "shares",
                bodies,
                deadline_s=remaining,
                enough=lambda replies, missing=needed - have: len(replies) >= missing,  # type: ignore[misc]
            )
            self.traffic.count("shares", outcome)
            self._refuse(outcome.refusals, f"the shares of sum {k}")
            for member, reply in outcome.replies.items():
                try:
                    revealing = revealing.receive(member, _parse_answer(member, reply))
                except SealedSumError as refusal:
                    log.warning("shares of %s in sum %d refused: %s", member, k, refusal)
        return revealing

    def _refuse(self, refusals: Mapping[str, Refusal], what: str) -> None:
        if refusals:
            member, refusal = min(refusals.items(), key=lambda item: item[0])
            raise RunFailed(f"{member} refused {what} ({refusal.code}): {refusal.sentence}")


def _parse_reply(member: str, body: bytes) -> runs_pb2.ContributeReply:
    try:
        return runs_pb2.ContributeReply.FromString(body)
    except DecodeError:
        raise RunFailed(f"{member} sent a contribution that is no message of this release; update its node.") from None


def _parse_answer(member: str, body: bytes) -> bytes:
    try:
        return runs_pb2.UnmaskReply.FromString(body).answer
    except DecodeError:
        raise RunFailed(f"{member} sent an answer that is no message of this release; update its node.") from None
