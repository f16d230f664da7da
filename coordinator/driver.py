"""The run driver: takes a run from its request to a released model, and takes it up again after a crash.

It decides order, deadlines and who is waited for. It cannot decide what is opened: nodes answer for survivor sets
within the agreement's bounds only, and they build the sums' headers themselves.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from coordinator.alignment import AlignmentRound
from coordinator.engine.steps import Steps
from coordinator.epoch_opening import EpochOpening, parse_reply
from coordinator.releases import Released, accept_release
from coordinator.request import RunRequest
from coordinator.store import CoordinatorStore, StoredRun
from coordinator.sum_round import Contributions, MembersMissing, RunFailed, SumRound, Traffic
from coordinator.vertical import VerticalRound
from policies.agreement import Agreement, agreement_hash
from policies.alignment import alignment_pairs
from policies.errors import UserError
from policies.proposal import RunProposal, sign_end
from policies.release import ReleaseRefused, SignedRelease, verify_artefact, verify_progress
from protos.runs.v1 import runs_pb2, vertical_pb2
from protos.sealed_sum.epoch import EpochView
from protos.sealed_sum.keys import SigningKey

log = logging.getLogger(__name__)

RECONNECT_PATIENCE_S = 15.0
"""How long a run that is taken up again waits for its members to connect again; nodes try every few seconds."""


@dataclass(frozen=True)
class Waiting:
    """How long the driver waits for members.

    Attributes:
        step_deadline_s: One step.
        pause_limit_s: A run that may not go on without a member waits this long for it, then ends (rule A7 iii).
    """

    step_deadline_s: float = 60.0
    pause_limit_s: float = 900.0


@dataclass(frozen=True)
class RunOutcome:
    """What a finished run leaves at the coordinator.

    Attributes:
        proposal: As accepted by all members.
        view: The key epoch.
        released: The members' signed table.
        artefact: The opened model under release policy "platform" of a horizontal run, else None.
        artefact_signatures: Member to its signature under the artefact; all that released, under that policy.
        model_report: The members' keyed report of the model, equal at all of them; empty for a vertical run, whose
            released table holds it.
        last_sealed_sum: Ciphertext of the last training sum; empty for a vertical run.
        rounds: Released statistics per opened sum.
        traffic: Bytes and seconds by phase.
    """

    proposal: RunProposal
    view: EpochView
    released: Released
    artefact: bytes | None
    artefact_signatures: Mapping[str, bytes]
    model_report: bytes
    last_sealed_sum: bytes
    rounds: Mapping[int, Mapping[str, float]]
    traffic: Traffic


class RunDriver:
    """Drives one run at a time.

    Args:
        agreement: The signed agreement.
        identity: The operator's identity key.
        store: Checkpoints and progress.
        steps: The engine.
        waiting: Deadlines.
        now: Wall clock as ISO 8601 text.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        agreement: Agreement,
        identity: SigningKey,
        store: CoordinatorStore,
        steps: Steps,
        *,
        waiting: Waiting,
        now: Callable[[], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._agreement = agreement
        self._identity = identity
        self._store = store
        self._steps = steps
        self._waiting = waiting
        self._now = now
        self._clock = clock

    def run(self, run_id: str) -> RunOutcome:
        """Drive a run to its release.

        Raises:
            UserError: It failed; the reason is recorded and the members were told that the run has ended.
        """
        with self._closing_at_failure(run_id) as stored:
            proposal, view, confirmations = self._opened(stored)
            rounds = SumRound(
                view,
                self._steps,
                self._store,
                confirmations,
                deadline_s=self._waiting.step_deadline_s,
                clock=self._clock,
            )
            return self._sums(proposal, view, rounds)

    def align(self, run_id: str) -> Traffic:
        """Drive a run whose members find the entities that they have in common, and train nothing.

        Raises:
            UserError: It failed; the reason is recorded and the members were told that the run has ended.
        """
        with self._closing_at_failure(run_id) as stored:
            proposal, _, confirmations = self._opened(stored)
            return self._aligned(proposal, confirmations)

    def vertical(self, run_id: str) -> list[RunOutcome]:
        """Drive a vertical run: align the members' entities, then train; one outcome a task.

        Raises:
            UserError: It failed; the reason is recorded and the members were told that the run has ended.
        """
        with self._closing_at_failure(run_id) as stored:
            proposal, view, confirmations = self._opened(stored)
            traffic = self._aligned(proposal, confirmations)
            starts = sum(event.event == "training" for event in self._store.events(run_id))
            driven = VerticalRound(
                run_id,
                view.cohort,
                self._steps,
                confirmations,
                deadline_s=self._waiting.step_deadline_s,
                pause_limit_s=self._waiting.pause_limit_s,
                announce=lambda event, **details: self._announce(run_id, event, **details),
                clock=self._clock,
                first_attempt=starts,
            )
            results = driven.run()
            traffic.add(driven.traffic)
            return [self._vertical_outcome(proposal, view, results[task], traffic) for task in proposal.tasks]

    def _aligned(self, proposal: RunProposal, confirmations: tuple[bytes, ...]) -> Traffic:
        run_id = proposal.run_id
        driven = AlignmentRound(
            run_id,
            alignment_pairs(self._agreement, proposal),
            self._steps,
            confirmations,
            deadline_s=self._waiting.step_deadline_s,
            pause_limit_s=self._waiting.pause_limit_s,
            announce=lambda event, **details: self._announce(run_id, event, **details),
            clock=self._clock,
        )
        driven.run()
        return driven.traffic

    def _vertical_outcome(
        self,
        proposal: RunProposal,
        view: EpochView,
        results: Mapping[str, vertical_pb2.VerticalResult],
        traffic: Traffic,
    ) -> RunOutcome:
        """What every label holder signed, and the version that every member of the task reports."""
        versions = {result.model_version for result in results.values()}
        signed = {
            member: SignedRelease(result.released, result.signature)
            for member, result in results.items()
            if result.released
        }
        released = accept_release(
            signed,
            agreement_hash=agreement_hash(self._agreement),
            epoch_id=view.epoch_id,
            run_id=proposal.run_id,
            cohort=view.cohort,
            identity_keys=view.identity_keys,
            min_signers=len(signed),
        )
        if versions != {released.table.federated_version}:
            raise RunFailed(
                "The members report different versions of the model; nothing is released, compare the nodes' releases."
            )
        self._announce(proposal.run_id, "released", version=released.table.federated_version or "")
        return RunOutcome(proposal, view, released, None, {}, b"", b"", {}, traffic)

    @contextmanager
    def _closing_at_failure(self, run_id: str) -> Iterator[StoredRun]:
        """A run as stored; what goes wrong with it is recorded, and the members are told."""
        stored = self._store.run(run_id)
        if stored is None:
            raise RunFailed(f"There is no run {run_id}; queue it with `tallystick train`.")
        try:
            yield stored
        except UserError as failure:
            self._close(run_id, "failed", reason=str(failure))
            raise

    def end(self, run_id: str) -> None:
        """Tell every connected member that a run is over: it deletes the epoch's keys (rule A10).

        Members that are away, or that do not answer, stay on the list of `CoordinatorStore.ends_to_tell`.
        """
        stored = self._store.run(run_id)
        if stored is None or not stored.proposal:
            return
        reason = f"failed: {stored.reason}"[:500] if stored.status == "failed" else stored.status
        cohort = EpochOpening.proposal(stored.proposal).cohort
        body = runs_pb2.EndRequest(
            run_id=run_id, reason=reason, operator_signature=sign_end(run_id, reason, self._identity.private)
        ).SerializeToString()
        untold = self._steps.online() & set(cohort) - set(stored.told)
        if untold:
            outcome = self._steps.run_step("end", dict.fromkeys(sorted(untold), body), deadline_s=5.0)
            for member, refusal in outcome.refusals.items():
                log.warning("%s refused the end of %s: %s", member, run_id, refusal.sentence)
            told = set(stored.told) | outcome.replies.keys() | outcome.refusals.keys()
            self._store.set_told(run_id, tuple(sorted(told)), everybody=told >= set(cohort))

    def _close(self, run_id: str, status: Literal["finished", "failed"], reason: str = "", **details: object) -> None:
        """Record the end, then tell the members: a crash in between leaves them on the list of those to be told."""
        log.info("%s: %s %s %s", run_id, status, reason, details)
        self._store.close_run(run_id, status, self._now(), reason, **details)
        self.end(run_id)

    def _opened(self, stored: StoredRun) -> tuple[RunProposal, EpochView, tuple[bytes, ...]]:
        """The run's proposal, its key epoch and the members' confirmations, made now or before a crash."""
        run_id = stored.run_id
        opening = EpochOpening(
            self._agreement,
            self._identity,
            self._steps,
            deadline_s=self._waiting.step_deadline_s,
            announce=lambda event, **details: self._announce(run_id, event, **details),
        )
        signed = stored.proposal
        if not signed:
            signed = opening.propose(run_id, RunRequest.from_bytes(stored.request))
            self._store.set_proposal(run_id, signed)
        proposal = opening.proposal(signed)
        if stored.proposal:
            # This process is a new one, and so are the members' connections: give them the time to come back.
            self._steps.wait_online(proposal.cohort, deadline_s=RECONNECT_PATIENCE_S)
        announcements, confirmations = stored.announcements, stored.confirmations
        if not confirmations:
            announcements, confirmations = opening.open(signed)
            self._store.set_epoch(run_id, announcements, confirmations)
        else:
            self._announce(run_id, "resumed", k=self._store.num_finished_sums(run_id))
        self._store.set_status(run_id, "running")
        return proposal, opening.view(proposal, announcements), confirmations

    # -- sums -------------------------------------------------------------------------------------------

    def _sums(self, proposal: RunProposal, view: EpochView, rounds: SumRound) -> RunOutcome:
        run_id = proposal.run_id
        statistics: dict[int, Mapping[str, float]] = {}
        missed_since: float | None = None
        while True:
            k = self._store.num_finished_sums(run_id)
            contributions = self._contributions(proposal, view, rounds, k)
            statistics.update(self._progress(run_id, k - 1, contributions, view))
            if contributions.finished:
                return self._release(proposal, view, rounds, contributions, statistics)
            started = self._clock()
            try:
                _, survivors = rounds.unmask(k, contributions)
            except MembersMissing as missing:
                # Shares of these members are needed and U is frozen: ask the whole sum again until they return.
                self._pause(run_id, k, missing.members)
                missed_since = started if missed_since is None else missed_since
                if self._clock() - missed_since > self._waiting.pause_limit_s:
                    raise RunFailed(
                        f"Sum {k} needs shares of {', '.join(sorted(missing.members))}, who stayed away for "
                        f"{self._waiting.pause_limit_s:g} s; it is given up unopened, start a new run."
                    ) from None
                continue
            if missed_since is not None:
                missed_since = None
                self._store.set_status(run_id, "running")
            dropped = sorted(set(view.cohort) - set(survivors))
            if dropped:
                self._announce(run_id, "dropped", k=k, names=", ".join(dropped), members=dropped)
            self._announce(
                run_id,
                "opened",
                k=k,
                purpose=contributions.purpose,
                survivors=len(survivors),
                seconds=round(self._clock() - started, 4),
                **statistics.get(k - 1, {}),
            )

    def _contributions(self, proposal: RunProposal, view: EpochView, rounds: SumRound, k: int) -> Contributions:
        """S1 with everybody who may and must take part; pauses where the run cannot go on without somebody."""
        waited_since = self._clock()
        while True:
            members, required = self._roster(proposal, view, k, patient=self._clock() - waited_since)
            try:
                contributions = rounds.contributions(k, members, required)
            except MembersMissing as missing:
                self._pause(proposal.run_id, k, missing.members)
                if self._clock() - waited_since > self._waiting.pause_limit_s:
                    raise RunFailed(
                        f"Sum {k} needs {', '.join(sorted(missing.members))}, who stayed away for "
                        f"{self._waiting.pause_limit_s:g} s; the run ends at its last model. A run may go on with "
                        "fewer members only where the agreement says allow_roster_change."
                    ) from None
                continue
            if self._clock() - waited_since > self._waiting.step_deadline_s:
                self._store.set_status(proposal.run_id, "running")
            return contributions

    def _roster(
        self, proposal: RunProposal, view: EpochView, k: int, *, patient: float
    ) -> tuple[tuple[str, ...], frozenset[str]]:
        """Whom to ask for sum k, and whom it needs.

        A sum that was closed before a crash is asked of its survivors alone, all of them. The first sum may go
        on with whoever arrives. After that a smaller roster needs the agreement's flag, because successive sums
        differ by the leaver's input (rule A7); `newton`, whose input hardly changes, waits out the pause first.
        """
        closed = next((stored for stored in self._store.sums(proposal.run_id) if stored.k == k), None)
        if closed is not None and closed.survivors:
            return closed.survivors, frozenset(closed.survivors)
        if k == 0:
            return view.cohort, frozenset()
        before = self._store.sums(proposal.run_id)
        if not self._agreement.privacy.allow_roster_change:
            trained = [stored.survivors for stored in before if stored.purpose == "train"]
            return (trained[0], frozenset(trained[0])) if trained else (view.cohort, frozenset(before[0].survivors))
        impatient = proposal.settings.method != "newton" or patient > self._waiting.pause_limit_s / 2
        return view.cohort, frozenset() if impatient else frozenset(before[-1].survivors)

    def _pause(self, run_id: str, k: int, members: frozenset[str]) -> None:
        names = ", ".join(sorted(members))
        reason = f"sum {k} waits for {names}"
        self._store.set_status(run_id, "paused", reason)
        self._announce(run_id, "paused", reason=reason, members=sorted(members))

    def _progress(
        self, run_id: str, k: int, contributions: Contributions, view: EpochView
    ) -> dict[int, Mapping[str, float]]:
        """The released statistics of the sum opened last, if enough members signed the same bytes (rule D2)."""
        votes: Counter[bytes] = Counter()
        for member, upload in contributions.uploads.items():
            if not upload.progress:
                continue
            try:
                verify_progress(
                    run_id, k, upload.progress, upload.progress_signature, member, view.identity_keys[member]
                )
            except ReleaseRefused as refusal:
                log.warning("statistics of %s refused: %s", member, refusal)
                continue
            votes[upload.progress] += 1
        bounds = view.bounds
        for progress, count in votes.most_common(1):
            if count >= bounds.min_survivors - bounds.max_colluders and len(progress) <= 65536:
                figures = json.loads(progress)
                numbers = {name: float(value) for name, value in figures.items() if isinstance(value, (int, float))}
                return {k: numbers}
        return {}

    # -- the end ----------------------------------------------------------------------------------------

    def _release(
        self,
        proposal: RunProposal,
        view: EpochView,
        rounds: SumRound,
        contributions: Contributions,
        statistics: Mapping[int, Mapping[str, float]],
    ) -> RunOutcome:
        reports = {bytes(finished.model_report) for finished in contributions.finished.values()}
        if len(reports) != 1:
            raise RunFailed(
                "The members' models differ (their keyed reports are not equal); nothing is released, compare the "
                "nodes' versions and journals."
            )
        released = accept_release(
            {
                member: SignedRelease(finished.released, finished.signature)
                for member, finished in contributions.finished.items()
            },
            agreement_hash=agreement_hash(self._agreement),
            epoch_id=view.epoch_id,
            run_id=proposal.run_id,
            cohort=view.cohort,
            identity_keys=view.identity_keys,
            min_signers=view.bounds.min_survivors - view.bounds.max_colluders,
        )
        artefact, signatures = None, {}
        if self._agreement.release.policy == "platform":
            signatures = {member: done.artefact_signature for member, done in contributions.finished.items()}
            artefact = self._artefact(proposal, released, tuple(contributions.finished))
            for member, signature in signatures.items():
                verify_artefact(proposal.run_id, artefact, signature, member, view.identity_keys[member])
        trained = [stored for stored in self._store.sums(proposal.run_id) if stored.purpose == "train"]
        last = self._store.sealed_sums(proposal.run_id, trained[-1].k)[0].sealed_sum if trained else b""
        return RunOutcome(
            proposal,
            view,
            released,
            artefact,
            signatures,
            next(iter(reports)),
            last,
            dict(statistics),
            rounds.traffic,
        )

    def _artefact(self, proposal: RunProposal, released: Released, members: tuple[str, ...]) -> bytes:
        """Fetch the opened model from one member; the caller checks every member's signature under it."""
        body = runs_pb2.RunReference(run_id=proposal.run_id).SerializeToString()
        for member in sorted(members):
            outcome = self._steps.run_step("artefact", {member: body}, deadline_s=self._waiting.step_deadline_s)
            if member not in outcome.replies:
                continue
            reply = parse_reply(runs_pb2.ArtefactReply, member, outcome.replies[member])
            if hashlib.sha256(reply.artefact).hexdigest() != released.table.model_digest:
                log.warning("%s sent another model than the one that the members signed", member)
                continue
            self._announce(proposal.run_id, "released", version=released.table.model_digest or "")
            return reply.artefact
        raise RunFailed("No member delivered the model whose hash all of them signed; nothing is registered.")

    def finish(self, run_id: str, **details: object) -> None:
        """Mark a run finished, after its evidence has been written, and let the members delete its keys.

        In this order: a crash before the mark makes the next start ask the members once more, which they can answer
        only while they hold the run.
        """
        self._close(run_id, "finished", "", **details)

    def _announce(self, run_id: str, event: str, **details: object) -> None:
        log.info("%s: %s %s", run_id, event, details)
        self._store.add_event(self._now(), run_id, event, **details)
