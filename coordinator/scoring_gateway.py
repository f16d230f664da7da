"""Federated scores: one masked sum over the nodes' streams for what was asked, opened once, kept for the window."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from google.protobuf.message import DecodeError

from coordinator.scoring_epoch import Epoch, Streams
from models.score_slots import ScoreSlots, Slots
from policies.agreement import Agreement
from protos.masked_sum.aggregator import Collecting, Revealing
from protos.masked_sum.request import TOKEN_BYTES, Request, digest_of
from protos.scoring.v1 import scoring_pb2 as pb
from protos.sealed_sum.errors import CohortRefused, SealedSumError

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 4
"""Attempts that opened nothing: no node was asked for a share yet, so that another cannot be a difference."""

HOLD_ABOVE, HOLD_S = 3, 0.0005
"""With more than three requests open, messages to a node wait half a millisecond for each, to be sent together. With
sixteen clients and six nodes that halved the processor time of a request."""

Key = tuple[bytes, str, str, int]


class NotAnswered(Exception):
    """There is no answer.

    Attributes:
        code: For programs; `str()` is the sentence.
    """

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


class _NothingOpened(Exception):
    """An attempt ended before shares were asked for.

    Attributes:
        reason: Why.
        again: Whether another attempt may fare better: it met a change of epoch, and no node charged it.
    """

    def __init__(self, reason: NotAnswered, *, again: bool = False) -> None:
        super().__init__(str(reason))
        self.reason = reason
        self.again = again


@dataclass(frozen=True, eq=False)
class Opened:
    """One opened total.

    Attributes:
        totals: Signed sums, shape (n_entities, layout.width).
        survivors: Whose sum it is.
        request_digest: Of the request.
        one_member_may_answer: Whether the grant lets a total over one knowing member be used.
    """

    totals: Slots
    survivors: tuple[str, ...]
    request_digest: bytes
    one_member_may_answer: bool


@dataclass(frozen=True)
class Answer:
    """One entity's place in an opened total."""

    opened: Opened
    row: int
    from_cache: bool


@dataclass(frozen=True)
class Question:
    """What a client asks."""

    task: str
    model_version: str
    purpose: str
    requester: str
    grant: bytes = field(repr=False)


@dataclass(frozen=True)
class GatewaySettings:
    """How the gateway waits.

    Attributes:
        window_s: Length of the answer window, as in the nodes' policies.
        upload_s: How long S1 waits for a member that is connected and silent.
        reveal_s: The same for each exchange of S2.
        hedge_s: How long S2b waits for the first T + 1 survivors before it asks the others too.
        lock_s: How long an entity's survivor set holds at the nodes (C2).
    """

    window_s: int = 86_400
    upload_s: float = 2.0
    reveal_s: float = 2.0
    hedge_s: float = 0.25
    lock_s: float = 86_400.0


@dataclass(eq=False)
class _Exchange:
    """Answers of one exchange, as they come in."""

    waiting: set[str]
    receive: Callable[[str, bytes], None]
    kind: str
    enough: Callable[[], bool]
    refusals: dict[str, pb.Refusal]
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def answer(self, member: str, message: pb.FromNode | None) -> None:
        if member not in self.waiting:
            return
        if message is not None:
            what = message.WhichOneof("what")
            if what == "refusal":
                self.refusals[member] = message.refusal
            elif what != self.kind:
                return
            else:
                try:
                    self.receive(member, getattr(message, what))
                except SealedSumError as refused:
                    log.warning("an answer of %s is not used: %s", member, refused)
        self.waiting.discard(member)
        if not self.waiting or self.enough():
            self.done.set()


class ScoringGateway:
    """Opens totals and keeps them. All calls come from one event loop.

    Args:
        agreement: The signed agreement.
        layouts: Task -> slots of one entity.
        settings: Deadlines.
        now: Clock, Unix seconds.
    """

    def __init__(
        self,
        agreement: Agreement,
        layouts: Mapping[str, ScoreSlots],
        settings: GatewaySettings | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._agreement = agreement
        self._layouts = layouts
        self._settings = settings or GatewaySettings()
        self._now = now
        self._exchanges: dict[bytes, _Exchange] = {}
        self._answers: dict[Key, tuple[asyncio.Future[Opened], int]] = {}
        self._locks: dict[bytes, tuple[float, tuple[str, ...]]] = {}
        self._window = -1
        self.streams = Streams(agreement, self._deliver, self._lost, self._hold_s)

    def layout(self, task: str) -> ScoreSlots:
        """Slots of a task.

        Raises:
            NotAnswered: The gateway serves no such task.
        """
        found = self._layouts.get(task)
        if found is None:
            raise NotAnswered("task", f"expected a task that is served ({', '.join(self._layouts)}), found another")
        return found

    def silent_roles(self, survivors: Sequence[str]) -> tuple[str, ...]:
        """Roles with a member that is not among the survivors: the answer is degraded."""
        return tuple(sorted({m.role for m in self._agreement.members if m.id not in survivors}))

    async def score(self, question: Question, tokens: Sequence[bytes]) -> list[Answer]:
        """Answers for these entities, in order; entities of this window that were answered before come from the cache.

        Raises:
            NotAnswered: Nothing is opened, with the reason.
        """
        if not tokens or any(len(token) != TOKEN_BYTES for token in tokens):
            raise NotAnswered("entities", f"expected entity tokens of {TOKEN_BYTES} bytes each, found others")
        self.layout(question.task)
        window = int(self._now()) // self._settings.window_s
        self._forget_before(window)
        keys = [(token, question.task, question.model_version, window) for token in tokens]
        known = self._answers
        cached = [key in known for key in keys]
        new = list(dict.fromkeys(token for token, found in zip(tokens, cached, strict=True) if not found))
        waits = []
        for survivors, group in self._groups(new):
            task = asyncio.ensure_future(self._open(question, group, survivors, window))
            for row, token in enumerate(group):
                known[token, question.task, question.model_version, window] = (task, row)
            waits.append(task)
        found = [known[key] for key in keys]
        try:
            for future in dict.fromkeys(future for future, _ in found):
                # Shielded: other clients may wait for the same total.
                await asyncio.shield(future)
        finally:
            self._drop_failed(keys, found)
        return [
            Answer(future.result(), row, from_cache) for (future, row), from_cache in zip(found, cached, strict=True)
        ]

    def _drop_failed(self, keys: Sequence[Key], found: Sequence[tuple[asyncio.Future[Opened], int]]) -> None:
        for key, (future, _) in zip(keys, found, strict=True):
            failed = future.done() and (future.cancelled() or future.exception() is not None)
            if failed and self._answers.get(key, (None,))[0] is future:
                del self._answers[key]

    def _groups(self, tokens: Sequence[bytes]) -> list[tuple[tuple[str, ...], list[bytes]]]:
        """Entities by the survivor set they were answered for within the lock's time; () is no such set."""
        now, groups = self._now(), {}  # type: ignore[var-annotated]  # filled below
        for token in tokens:
            lock = self._locks.get(token)
            groups.setdefault(lock[1] if lock is not None and lock[0] > now else (), []).append(token)
        return list(groups.items())

    def _forget_before(self, window: int) -> None:
        if window == self._window:
            return
        self._window, now = window, self._now()
        self._answers = {key: value for key, value in self._answers.items() if key[3] >= window}
        self._locks = {token: lock for token, lock in self._locks.items() if lock[0] > now}

    async def _open(
        self, question: Question, tokens: Sequence[bytes], survivors: tuple[str, ...], window: int
    ) -> Opened:
        """Open one total, trying again as long as nothing was opened."""
        for attempt in range(1, MAX_ATTEMPTS):
            try:
                return await self._attempt(question, tokens, survivors, window)
            except _NothingOpened as ended:
                if not ended.again:
                    raise ended.reason from None
            # A member has come or gone: wait for the epoch that follows.
            await asyncio.sleep(0.2 * attempt)
        try:
            return await self._attempt(question, tokens, survivors, window)
        except _NothingOpened as ended:
            raise ended.reason from None

    async def _attempt(
        self, question: Question, tokens: Sequence[bytes], locked: tuple[str, ...], window: int
    ) -> Opened:
        epoch = self._ready_epoch(locked)
        layout = self.layout(question.task)
        try:
            request = Request(
                epoch_id=epoch.view.epoch_id,
                k=next(epoch.attempts),
                task=question.task,
                model_version=question.model_version,
                purpose=question.purpose,
                requester=question.requester,
                window=window,
                asked_at_ms=int(self._now() * 1000),
                layout_digest=layout.digest,
                slots_per_entity=layout.width,
                roster=epoch.view.cohort,
                entities=b"".join(tokens),
                grant=question.grant,
            )
        except SealedSumError as error:
            raise _NothingOpened(NotAnswered("request", str(error))) from error
        refusals: dict[str, pb.Refusal] = {}
        collecting = Collecting(epoch.view, request)
        everyone = pb.ToNode(request=request.wire).SerializeToString()
        await self._exchange(
            epoch,
            request.digest,
            dict.fromkeys(epoch.links, everyone),
            _Exchange(set(), collecting.receive, "upload", lambda: False, refusals),
            self._settings.upload_s,
        )
        try:
            revealing = collecting.close()
            if locked:
                revealing.drop(frozenset(revealing.survivors) - frozenset(locked))
                if revealing.survivors != locked:
                    raise CohortRefused("expected every member of this entity's earlier answer, found one silent")
            await self._reveal_seeds(epoch, revealing, refusals)
        except CohortRefused as error:
            reason = _reason(refusals, error)
            raise _NothingOpened(reason, again=reason.code in {"WrongEpoch", "StaleSum"}) from error
        # From here on a node may have locked these survivors: another set would be refused (C2).
        now = self._now()
        for token in tokens:
            lock = self._locks.get(token)
            if lock is None or lock[0] <= now:
                self._locks[token] = (now + self._settings.lock_s, revealing.survivors)
        await self._reveal_shares(epoch, revealing, refusals)
        try:
            total = revealing.open_total()
        except SealedSumError as error:
            raise _reason(refusals, error) from error
        totals = total.view(np.int64).reshape(len(tokens), layout.width)
        return Opened(totals, revealing.survivors, request.digest, _one_member_may_answer(question.grant))

    def _ready_epoch(self, locked: tuple[str, ...]) -> Epoch:
        epoch = self.streams.epoch
        online = len(epoch.links) if epoch is not None else len(self.streams.online)
        if not online:
            raise _NothingOpened(NotAnswered("no_members", "expected members online, found none; try again later"))
        if epoch is None or online < epoch.view.bounds.min_survivors:
            raise _NothingOpened(
                NotAnswered(
                    "too_few_members",
                    f"expected enough members online for a sum that hides each of them, found {online}; "
                    "try again later",
                ),
                again=len(self.streams.online) > online,  # they are about to get their keys
            )
        absent = sorted(set(locked) - epoch.links.keys())
        if absent:
            raise _NothingOpened(
                NotAnswered(
                    "roster_locked",
                    f"expected the members of this entity's earlier answer online, found {', '.join(absent)} absent; "
                    "another total would differ by their part",
                )
            )
        return epoch

    async def _reveal_seeds(self, epoch: Epoch, revealing: Revealing, refusals: dict[str, pb.Refusal]) -> None:
        """S2a until every survivor has given its seeds with all dropped; who falls silent drops too."""
        while True:
            revealing_members = revealing.needs_seeds
            if not revealing_members:
                return
            data = pb.ToNode(seeds=revealing.seed_request()).SerializeToString()
            await self._exchange(
                epoch,
                revealing.collected.request.digest,
                {member: data for member in revealing_members if member in epoch.links},
                _Exchange(set(), revealing.receive_seeds, "seeds", lambda: False, refusals),
                self._settings.reveal_s,
            )
            silent = frozenset(revealing.needs_seeds)
            if silent:
                revealing.drop(silent)

    async def _reveal_shares(self, epoch: Epoch, revealing: Revealing, refusals: dict[str, pb.Refusal]) -> None:
        """S2b: ask T + 1 survivors, which is enough when all answer, and the others when it was not.

        Nothing rests on everybody being asked: any T answers open the total, and so the rules hold for any T.
        """
        request, survivors = revealing.collected.request, revealing.survivors
        first = request.k % len(survivors)
        turn = [member for member in (*survivors[first:], *survivors[:first]) if member in epoch.links]
        few = epoch.view.bounds.shamir_threshold + 1
        late: set[str] = set()
        for members, deadline_s in ((turn[:few], self._settings.hedge_s), (turn[few:], self._settings.reveal_s)):
            questions = {
                member: pb.ToNode(shares=revealing.share_request(member)).SerializeToString()
                for member in members
                if member in epoch.links
            }
            exchange = _Exchange(late, revealing.receive_shares, "shares", lambda: revealing.enough, refusals)
            await self._exchange(epoch, request.digest, questions, exchange, deadline_s)
            if revealing.enough:
                return
            late = {member for member in exchange.waiting if member in epoch.links}

    async def _exchange(
        self, epoch: Epoch, digest: bytes, questions: Mapping[str, bytes], exchange: _Exchange, deadline_s: float
    ) -> None:
        """Ask, and wait for all answers, enough of them, or the deadline."""
        exchange.waiting |= questions.keys()
        self._exchanges[digest] = exchange
        for member, data in questions.items():
            epoch.links[member].send(data)
        if exchange.waiting:
            timer = asyncio.get_running_loop().call_later(deadline_s, exchange.done.set)
            await exchange.done.wait()
            timer.cancel()
        del self._exchanges[digest]

    def _hold_s(self) -> float:
        """Nothing while few requests are open; then a little for each, since they have to wait for a core anyway."""
        open_requests = len(self._exchanges)
        return HOLD_S * open_requests if open_requests > HOLD_ABOVE else 0.0

    def _deliver(self, member: str, message: pb.FromNode) -> None:
        what = message.WhichOneof("what")
        if what is None:
            return
        digest = message.refusal.request_digest if what == "refusal" else digest_of(getattr(message, what))
        exchange = self._exchanges.get(digest)
        if exchange is not None:
            exchange.answer(member, message)

    def _lost(self, member: str) -> None:
        for exchange in list(self._exchanges.values()):
            exchange.answer(member, None)


def outcome_of(answer: Answer, layout: ScoreSlots) -> pb.Outcome.ValueType:
    """What the platform may make of a total (C6)."""
    if not layout.scores:
        return pb.SCORED
    known = int(answer.opened.totals[answer.row, 1])
    if known == 0:
        return pb.UNKNOWN_ENTITY
    if known == 1 and not answer.opened.one_member_may_answer:
        return pb.ONE_MEMBER_ONLY
    return pb.SCORED


def _reason(refusals: Mapping[str, pb.Refusal], error: SealedSumError) -> NotAnswered:
    """Why there is no answer: what most nodes say, or that too few answered."""
    if refusals:
        code, _ = Counter(refusal.code for refusal in refusals.values()).most_common(1)[0]
        sentence = next(refusal.sentence for refusal in refusals.values() if refusal.code == code)
        return NotAnswered(code, sentence)
    return NotAnswered("too_few_members", str(error))


def _one_member_may_answer(grant: bytes) -> bool:
    """The grant's word; its signature was checked by the nodes that answered under it."""
    try:
        return pb.Grant.FromString(pb.SignedGrant.FromString(grant).body).one_role_may_answer
    except DecodeError:
        return False
