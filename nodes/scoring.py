"""A node's answers in federated scoring: keys of the day, and for each request S1, S2a, S2b."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from models.score_slots import ScoreSlots
from nodes.membership import Membership
from nodes.scoring_alarms import OpeningsWatch
from nodes.scoring_guard import ScoringGuard, ScoringRefused
from nodes.scoring_tables import EntityTable
from policies import documents
from policies.errors import SettingsRefused, UserError
from protos.masked_sum import masked_sum_pb2 as masked
from protos.masked_sum.member import Contributed, Party, contribute, reveal_seeds, reveal_shares
from protos.masked_sum.request import MAX_REQUEST_BYTES, Request
from protos.scoring.v1 import scoring_pb2 as pb
from protos.sealed_sum.epoch import Announced, announce, join
from protos.sealed_sum.errors import CohortRefused, SealedSumError, StaleSum, WrongEpoch
from protos.sealed_sum.wire import OVERHEAD_BYTES, ROSTER_BYTES, parse

log = logging.getLogger(__name__)

MAX_OPEN_REQUESTS = 1024
MAX_MESSAGE_BYTES = MAX_REQUEST_BYTES + 65_536
_KEPT_EPOCHS = 2
_MAX_REVEAL_BYTES = ROSTER_BYTES + 200 * 64 + OVERHEAD_BYTES


_NO_DOCUMENTS = EntityTable.of(
    ScoreSlots.of_documents(), (), np.zeros((0, ScoreSlots.of_documents().width), dtype=np.int64)
)
"""What a node without books answers from, so that every node uploads: nobody has evidence here."""


@dataclass
class _Epoch:
    party: Party
    began_s: float
    last_k: int = 0


@dataclass
class _Open:
    epoch: _Epoch
    state: Contributed
    ticket: int = field(default=0)


@dataclass
class _About:
    """What a refusal is about, as far as it was read."""

    digest: bytes = b""
    run_id: str = ""


@dataclass(frozen=True)
class Reply:
    """An answer, and what it has to do with the journal.

    Attributes:
        message: The answer.
        ticket: Entry that must be on the disk before it leaves; 0 for none.
        flush: Entry to be flushed once it has left; 0 for none.
    """

    message: pb.FromNode
    ticket: int = 0
    flush: int = 0


class ScoringResponder:
    """Answers the gateway. One thread calls it; epoch keys and open requests live in memory alone and die with it.

    Args:
        membership: Who this node is.
        guard: What it answers.
        tables: (task, model version) -> what it knows.
        now: This node's clock, Unix seconds.
        rng: Cryptographic randomness.
    """

    def __init__(
        self,
        membership: Membership,
        guard: ScoringGuard,
        tables: Mapping[tuple[str, str], EntityTable],
        *,
        now: Callable[[], float],
        rng: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._membership = membership
        self._guard = guard
        self._tables = tables
        self._now = now
        self._rng = rng
        self._watch = OpeningsWatch(
            membership.member, membership.agreement.coordinator.identity_key_bytes, guard.alarms
        )
        self._keys = {member.id: member.identity_key_bytes for member in membership.agreement.members}
        self._announced: Announced | None = None
        self._epochs: OrderedDict[bytes, _Epoch] = OrderedDict()
        self._open: OrderedDict[bytes, _Open] = OrderedDict()

    def connected(self) -> None:
        """A new stream to the gateway is open."""
        self._watch.connected()

    def handle(self, message: pb.ToNode) -> Reply | None:
        """Answer one message of the gateway; None where none is due."""
        what = message.WhichOneof("what")
        about = _About()
        try:
            if what in {"request", "seeds", "shares"}:
                return self._answer(message, about)
            return self._prepare(message, about)
        except ScoringRefused as refused:
            return _refusal(about, refused.code, str(refused))
        except (SealedSumError, UserError) as refused:
            log.warning("refused: %s", refused)
            return _refusal(about, type(refused).__name__, str(refused))

    def _answer(self, message: pb.ToNode, about: _About) -> Reply:
        """S1, S2a, S2b."""
        if message.request:
            request = Request.from_bytes(message.request)
            about.digest = request.digest
            return self._contribute(request)
        asked = parse(masked.Reveal, message.seeds or message.shares, _MAX_REVEAL_BYTES)
        about.digest = asked.request_digest
        return self._reveal_seeds(asked) if message.seeds else self._reveal_shares(asked)

    def _prepare(self, message: pb.ToNode, about: _About) -> Reply | None:
        """E1, revocations, and what the gateway tells of openings."""
        what = message.WhichOneof("what")
        if what == "announce":
            about.run_id = message.announce.run_id
            return self._announce(about.run_id)
        if what == "cohort":
            about.run_id = message.cohort.run_id
            return self._join(message.cohort)
        if what == "revocations":
            try:
                listed = self._guard.revoke(message.revocations)
            except SettingsRefused as problem:
                log.error("a revocation list does not count yet: %s", problem)  # noqa: TRY400 - one sentence says it
                raise ScoringRefused(
                    "revocations", "expected a disk to keep the revocation list on, found none; its owner must look"
                ) from problem
            return Reply(pb.FromNode(revoked=pb.Revoked(issuer=listed.issuer, version=listed.version)))
        if what == "disclosures":
            self._watch.told(message.disclosures.signed)
        return None

    def _announce(self, run_id: str) -> Reply:
        membership = self._membership
        self._announced, message = announce(
            membership.identity, membership.member, membership.agreement_hash, run_id, 0, self._rng
        )
        return Reply(pb.FromNode(announced=pb.Announced(run_id=run_id, announcement=message)))

    def _join(self, cohort: pb.Cohort) -> Reply:
        if self._announced is None or self._announced.run_id != cohort.run_id:
            raise WrongEpoch("expected the cohort of the epoch this node announced itself for, found another")
        bounds = self._membership.agreement.bounds(len(cohort.announcements))
        party = Party.of(join(self._announced, list(cohort.announcements), self._keys, bounds))
        self._announced = None
        epoch_id = party.joined.epoch_id
        self._epochs[epoch_id] = _Epoch(party, self._now())
        while len(self._epochs) > _KEPT_EPOCHS:
            self._epochs.popitem(last=False)
        return Reply(pb.FromNode(joined=pb.Joined(run_id=cohort.run_id, epoch_id=epoch_id)))

    def _contribute(self, request: Request) -> Reply:
        epoch = self._epochs.get(request.epoch_id)
        if epoch is None:
            raise WrongEpoch("expected a request of this node's key epoch, found one of another")
        if request.k <= epoch.last_k:
            raise StaleSum(expected=f"above {epoch.last_k}", got=request.k)
        if request.roster != epoch.party.joined.cohort:
            raise CohortRefused("expected the epoch's cohort as the request's roster, found another")
        epoch.last_k = request.k
        table = self._tables.get((request.task, request.model_version))
        if table is None and (request.task, request.model_version) == (documents.TASK, documents.VERSION):
            table = _NO_DOCUMENTS
        if table is None:
            known = sorted(version[:16] for task, version in self._tables if task == request.task)
            raise ScoringRefused(
                "model_version",
                f"expected a model version that this node serves ({', '.join(known) or 'none'}), found "
                f"{request.model_version[:16]}; ask for the current one",
            )
        if request.layout_digest != table.layout.digest or request.slots_per_entity != table.layout.width:
            raise ScoringRefused("layout", "expected the slots of the agreement's catalogue, found others")
        ticket, answers = self._guard.admit(request, epoch.began_s, lambda: table.count_unknown(request.tokens))
        values = table.vector(request.tokens, answers=answers, rng=self._rng)
        state, upload = contribute(epoch.party, request, values, self._rng)
        self._open[request.digest] = _Open(epoch, state, ticket)
        while len(self._open) > MAX_OPEN_REQUESTS:
            self._open.popitem(last=False)
        self._watch.uploaded(request.digest, int(self._now() * 1000) - request.asked_at_ms)
        # Who is asked for shares first has its entry flushed in the meantime; the others' goes with the next flush.
        few = epoch.party.joined.bounds.shamir_threshold + 1
        soon = self._membership.member in request.in_turn(request.roster)[:few]
        return Reply(pb.FromNode(upload=upload), flush=ticket if soon else 0)

    def _reveal_seeds(self, asked: masked.Reveal) -> Reply:
        opened = self._opened(asked)
        opened.state, reply = reveal_seeds(opened.epoch.party, opened.state, asked)
        return Reply(pb.FromNode(seeds=reply), opened.ticket)

    def _reveal_shares(self, asked: masked.Reveal) -> Reply:
        opened = self._opened(asked)
        state, reply = reveal_shares(opened.epoch.party, opened.state, asked)
        ticket = self._guard.lock(state.request, state.survivors)
        opened.state = state
        # One survivor set and one answer a request: nothing more is said about it.
        del self._open[asked.request_digest]
        self._watch.gave_shares(asked.request_digest, state.survivors)
        return Reply(pb.FromNode(shares=reply), max(ticket, opened.ticket))

    def _opened(self, asked: masked.Reveal) -> _Open:
        opened = self._open.get(asked.request_digest)
        if opened is None:
            raise WrongEpoch("expected a request that this node has open, found another; ask again from the start")
        if self._membership.member not in asked.survivors:
            self._watch.named_absent(asked.request_digest)
        return opened


def _refusal(about: _About, code: str, sentence: str) -> Reply:
    return Reply(
        pb.FromNode(
            refusal=pb.Refusal(request_digest=about.digest, run_id=about.run_id, code=code, sentence=sentence[:500])
        )
    )
