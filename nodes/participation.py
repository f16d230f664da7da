"""One run at this node after its key epoch has opened: a fold over opened sums, restored from disk after a crash."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable

import torch

from models.features import TrainingData
from models.horizontal import HorizontalProgram
from models.metrics import OneClassError
from models.program import ProgramError, RunResult
from nodes.membership import Membership
from nodes.program import horizontal_program
from nodes.released import released_table
from nodes.store import NodeStore, OpenedRecord, RunRecord
from policies.errors import UserError
from policies.proposal import RunProposal
from policies.release import sign_artefact, sign_progress, sign_release
from protos.runs.v1 import runs_pb2
from protos.sealed_sum.dealing import Ready, model_report
from protos.sealed_sum.errors import OpeningRefused
from protos.sealed_sum.header import FIRST, SumHeader, chain
from protos.sealed_sum.member import contribute, open_sum, remember, resend, reveal_seeds, reveal_shares
from protos.sealed_sum.memory import EpochMemory
from protos.sealed_sum.parameters import parameters_digest

log = logging.getLogger(__name__)


class StepRefused(UserError):
    """A request that does not fit where this run stands at this node."""


class Participation:
    """A member's part in one run: contributes, reveals, opens, and at the end releases.

    Args:
        membership: Who this node is.
        proposal: The accepted proposal.
        record: The run as last committed, phase `ready`.
        data: This member's rows.
        store: Durable state.
        rng: Cryptographic randomness.
        now: Wall clock as ISO 8601 text, for the journal.
    """

    def __init__(
        self,
        membership: Membership,
        proposal: RunProposal,
        record: RunRecord,
        data: TrainingData,
        store: NodeStore,
        *,
        rng: Callable[[int], bytes],
        now: Callable[[], str],
    ) -> None:
        torch.set_num_threads(1)  # as everything of a node, see `nodes.service`
        self._membership = membership
        self._proposal = proposal
        self._store = store
        self._rng = rng
        self._now = now
        self._ready = Ready.from_bytes(record.state, membership.identity)
        self._memory = (
            EpochMemory.from_bytes(record.memory)
            if record.memory
            else remember(self._ready, allow_roster_change=membership.agreement.privacy.allow_roster_change)
        )
        self._next_k = record.next_k
        self._previous = record.previous or FIRST
        self._program: HorizontalProgram = horizontal_program(
            membership.agreement, proposal, data, self._ready.member, self._ready.weights
        )
        snapshot = store.blob(record.run_id, "snapshot")
        if snapshot:
            self._program.restore(snapshot)
        # From disk, so that an upload sent again after a restart carries the same statistics as before.
        openings = store.openings(record.run_id)
        self._last: OpenedRecord | None = openings[-1] if openings else None
        self._current_header: SumHeader | None = None

    # -- S1 and S3 --------------------------------------------------------------------------------------

    def contribute(self, request: runs_pb2.ContributeRequest) -> runs_pb2.ContributeReply:
        """Open what came before, then contribute to sum k, or release when the program is over.

        Raises:
            StepRefused: The coordinator asks for a sum that lies behind.
            SealedSumError: A sealed sum or a survivor set is refused.
            ValueOutOfRange: This member's own contribution leaves its public range.
        """
        for opening in request.openings:
            if opening.k < self._next_k:
                continue
            if opening.k > self._next_k:
                return self._behind()
            self._open(opening)
        if request.k > self._next_k:
            return self._behind()
        if request.k < self._next_k:
            raise StepRefused(
                f"Expected a request for sum {self._next_k}, found one for sum {request.k}; "
                "the coordinator's checkpoint is older than this node's, restore the newer one."
            )
        if self._program.finished:
            return runs_pb2.ContributeReply(finished=self._finish())
        return runs_pb2.ContributeReply(upload=self._upload())

    def _behind(self) -> runs_pb2.ContributeReply:
        return runs_pb2.ContributeReply(behind=runs_pb2.Behind(opened=self._next_k))

    def _upload(self) -> runs_pb2.Upload:
        run_id, k = self._proposal.run_id, self._next_k
        layout = self._program.layout()
        current = self._memory.current
        if current is not None and current.header.k == k:
            upload = resend(self._memory, self._store.blob(run_id, "upload"))
        else:
            contribution = contribute(
                self._ready, self._memory, self._header(), layout, self._program.contribution(), self._rng
            )
            self._store.save_upload(run_id, contribution.memory.to_bytes(), contribution.upload)
            self._memory = contribution.memory
            upload = contribution.upload
        message = runs_pb2.Upload(
            upload=upload,
            purpose=self._program.purpose(),
            num_ciphertexts=layout.num_ciphertexts(len(self._ready.cohort)),
        )
        if self._last is not None:
            progress = json.dumps(self._last.statistics, sort_keys=True, separators=(",", ":")).encode()
            message.progress = progress
            message.progress_signature = sign_progress(
                run_id, self._last.k, progress, self._membership.identity.private
            )
        return message

    def _header(self) -> SumHeader:
        """The next sum's header; it is built once, since every phase of the sum needs it and hashes the model."""
        if self._current_header is None:
            self._current_header = self._next_header()
        return self._current_header

    def _next_header(self) -> SumHeader:
        program = self._program
        return SumHeader(
            epoch_id=self._ready.epoch_id,
            k=self._next_k,
            purpose=program.purpose(),
            task=self._proposal.task,
            input_class=program.input_class(),
            layout_digest=program.layout().digest(),
            model_digest=program.model_digest(),
            parameters_digest=hashlib.sha256(self._proposal.digest() + parameters_digest()).digest(),
            previous=self._previous,
        )

    def _open(self, opening: runs_pb2.Opening) -> None:
        self._require_sums_left()
        run_id, header, layout = self._proposal.run_id, self._header(), self._program.layout()
        try:
            opened = open_sum(self._ready, self._memory, header, layout, opening.sealed_sum)
        except OpeningRefused:
            # The epoch is over (rule A4 iii): its keys go before the refusal leaves, so there is nothing left to ask.
            self._store.end_run(run_id, f"sum {header.k} was not the sum of the named survivors")
            self._journal("opening refused", k=header.k)
            raise
        self._current_header = None  # from here on the program may have moved, also if something below fails
        try:
            statistics = self._program.absorb(opened.opened)
        except (ProgramError, OneClassError) as problem:
            raise StepRefused(f"Sum {header.k} was opened, but the run cannot go on: {problem}") from problem
        record = OpenedRecord(
            k=header.k,
            class_key=header.class_key().hex(),
            survivors=opened.survivors,
            chain=chain(header.digest(), opened.opened, opened.survivors),
            purpose=header.purpose,
            input_class=header.input_class,
            statistics=statistics,
        )
        self._store.commit_opening(run_id, record, opened.memory.to_bytes(), self._program.snapshot())
        self._memory, self._previous, self._last = opened.memory, record.chain, record
        self._next_k = header.k + 1
        if opened.left_out:
            # Rule A7 iv: the coordinator said that this node was gone, and it was not.
            self._journal("alarm: left out of a sum this node contributed to", k=header.k)

    # -- S2 ---------------------------------------------------------------------------------------------

    def reveal_seeds(self, k: int, survivors: tuple[str, ...], dropped: tuple[str, ...]) -> bytes:
        """S2a: the seeds of this sum shared with members that dropped; committed before it is returned."""
        self._require_current(k)
        answer = reveal_seeds(self._ready, self._memory, self._header(), survivors, dropped)
        self._store.save_memory(self._proposal.run_id, answer.memory.to_bytes())
        self._memory = answer.memory
        self._journal("seeds revealed", k=k, dropped=list(dropped))
        return answer.message

    def reveal_shares(
        self, k: int, survivors: tuple[str, ...], dropped: tuple[str, ...], encrypted_shares: dict[str, bytes]
    ) -> bytes:
        """S2b: shares of the survivors' self-mask seeds, once, for one U; committed before it is returned."""
        self._require_current(k)
        answer = reveal_shares(self._ready, self._memory, self._header(), survivors, dropped, encrypted_shares)
        self._store.save_memory(self._proposal.run_id, answer.memory.to_bytes())
        self._memory = answer.memory
        return answer.message

    def _require_current(self, k: int) -> None:
        if k != self._next_k:
            raise StepRefused(
                f"Expected a request about sum {self._next_k}, found one about sum {k}; ask again in order."
            )
        self._require_sums_left()

    def _require_sums_left(self) -> None:
        if self._program.finished:
            raise StepRefused(
                f"Run {self._proposal.run_id} has no sums left at this node, found a request about another one; "
                "ask for its release."
            )

    # -- the end ----------------------------------------------------------------------------------------

    def _finish(self) -> runs_pb2.Finished:
        result = self._program.result()
        openings = self._store.openings(self._proposal.run_id)
        table = released_table(self._membership.agreement, self._proposal, self._ready, result, openings)
        signed = sign_release(table, self._membership.identity.private)
        self._store.save_model(self._proposal.run_id, result.artefact)
        self._journal("released", table=table.digest().hex())
        self._keep_own_view(result)
        finished = runs_pb2.Finished(
            released=signed.released,
            signature=signed.signature,
            model_report=model_report(self._ready, bytes.fromhex(result.version), self._next_k),
        )
        if self._membership.agreement.release.policy == "platform":
            finished.artefact_signature = sign_artefact(
                self._proposal.run_id, result.artefact, self._membership.identity.private
            )
        return finished

    def _keep_own_view(self, result: RunResult) -> None:
        """This member's own hold-out beside the cohort's, in its own journal and log alone; never released."""
        try:
            own = self._program.private_evaluation()
        except OneClassError:
            self._journal("own hold-out", note="too few goods or bads of its own to evaluate")
            return
        figures = {
            f"{whose}_{name}": f"{getattr(evaluation, name):.4f}"
            for whose, evaluation in (("own", own), ("cohort", result.evaluation))
            for name in ("auc", "ks", "gini", "brier", "bad_rate", "mean_pd")
        }
        self._journal("own hold-out", **figures)
        log.info("%s: own hold-out %s", self._proposal.run_id, figures)

    def released_artefact(self) -> bytes:
        """The opened model; the caller has checked the release policy.

        Raises:
            StepRefused: The program is not over.
        """
        if not self._program.finished:
            raise StepRefused(f"Run {self._proposal.run_id} has not finished at this node; finish it first.")
        self._journal("model released to the platform")
        return self._program.result().artefact

    def _journal(self, event: str, **details: str | int | list[str]) -> None:
        self._store.journal(self._now(), self._proposal.run_id, event, **details)
