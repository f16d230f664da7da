"""One masked sum over the nodes' streams: S1, S2a, S2b, each with its deadline, for one survivor set."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from coordinator.scoring_answers import NotAnswered, Question
from coordinator.scoring_epoch import Epoch, Streams
from models.score_slots import ScoreSlots, Slots
from policies.agreement import Agreement
from protos.masked_sum.aggregator import Collecting, Revealing
from protos.masked_sum.request import Request, digest_of
from protos.scoring.v1 import scoring_pb2 as pb
from protos.sealed_sum.errors import CohortRefused, SealedSumError

log = logging.getLogger(__name__)

HOLD_ABOVE, HOLD_S = 3, 0.0005
"""With more than three requests open, messages to a node wait half a millisecond for each, to be sent together. With
sixteen clients and six nodes that halved the processor time of a request."""


class NothingOpened(Exception):
    """An attempt ended before shares were asked for.

    Attributes:
        reason: Why.
        again: Whether another attempt may fare better: it met a change of epoch, and no node charged it.
        silent: Whether enough members are connected and fell silent, as when a disk holds all of them up: one more
            attempt may fare better.
    """

    def __init__(self, reason: NotAnswered, *, again: bool = False, silent: bool = False) -> None:
        super().__init__(str(reason))
        self.reason = reason
        self.again = again
        self.silent = silent


HELD_UP_S = 0.25
"""A deadline that fires later than this by so much says that the process did not run."""


@dataclass(frozen=True)
class GatewaySettings:
    """How the gateway waits.

    Attributes:
        window_s: Length of the answer window, as in the nodes' policies.
        window_s_of: The same for tasks that have one of their own.
        upload_s: How long S1 waits for a member that is connected and silent.
        reveal_s: The same for each exchange of S2.
        hedge_s: How long S2b waits for the first T + 1 survivors before it asks the others too.
        lock_s: How long an entity's survivor set holds at the nodes (C2).
    """

    window_s: int = 86_400
    window_s_of: Mapping[str, int] = field(default_factory=dict)
    upload_s: float = 2.0
    reveal_s: float = 2.0
    hedge_s: float = 0.25
    lock_s: float = 86_400.0

    def window(self, task: str, now_s: float) -> int:
        """Number of the answer window at a time."""
        return int(now_s) // self.window_s_of.get(task, self.window_s)

    def window_end_s(self, task: str, window: int) -> float:
        """When a window ends, Unix seconds."""
        return (window + 1) * self.window_s_of.get(task, self.window_s)


@dataclass(frozen=True, eq=False)
class Summed:
    """An opened sum, not yet released.

    Attributes:
        request: What was asked.
        survivors: Whose sum it is.
        totals: Signed sums, shape (n_entities, layout.width).
        opening: What `lock` gave when the survivors were fixed.
    """

    request: Request
    survivors: tuple[str, ...]
    totals: Slots = field(repr=False)
    opening: int


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


class Deadline:
    """Ends a wait after some time, unless this process was held up itself: then answers may lie unread.

    Args:
        seconds: How long members have.
        over: Set in the end.
    """

    def __init__(self, seconds: float, over: asyncio.Event) -> None:
        self._seconds = seconds
        self._over = over
        self._loop = asyncio.get_running_loop()
        self._arm()

    def cancel(self) -> None:
        """End nothing."""
        self._timer.cancel()

    def _arm(self) -> None:
        self._due = self._loop.time() + self._seconds
        self._timer = self._loop.call_later(self._seconds, self._expire)

    def _expire(self) -> None:
        if self._loop.time() - self._due > HELD_UP_S:
            self._arm()
        else:
            self._over.set()


class Opener:
    """Runs masked sums. All calls come from one event loop.

    Args:
        agreement: The signed agreement.
        settings: Deadlines.
        now: Clock, Unix seconds.

    Attributes:
        streams: The nodes' streams, whose answers come back here.
    """

    def __init__(self, agreement: Agreement, settings: GatewaySettings, now: Callable[[], float]) -> None:
        self._settings = settings
        self._now = now
        self._exchanges: dict[bytes, _Exchange] = {}
        self.streams = Streams(agreement, self._deliver, self._lost, self._hold_s)

    async def attempt(
        self,
        question: Question,
        tokens: Sequence[bytes],
        layout: ScoreSlots,
        locked: tuple[str, ...],
        window: int,
        lock: Callable[[Request, tuple[str, ...]], int],
    ) -> Summed:
        """Open one sum.

        Args:
            question: What is asked.
            tokens: About whom.
            layout: Slots of one entity.
            locked: The only survivors that may be; () for any.
            window: Number of the answer window.
            lock: Called with request and survivors once they are final, before any share is asked for.

        Raises:
            NothingOpened: No share was asked for.
            NotAnswered: Shares were asked for, and the sum did not open.
        """
        epoch = self._ready_epoch(locked)
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
            raise NothingOpened(NotAnswered("request", str(error))) from error
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
            raise NothingOpened(
                reason,
                again=reason.code in {"WrongEpoch", "StaleSum"},
                silent=not refusals and len(epoch.links) >= epoch.view.bounds.min_survivors,
            ) from error
        opening = lock(request, revealing.survivors)
        await self._reveal_shares(epoch, revealing, refusals)
        try:
            total = revealing.open_total()
        except SealedSumError as error:
            raise _reason(refusals, error) from error
        return Summed(request, revealing.survivors, total.view("<i8").reshape(len(tokens), layout.width), opening)

    def _ready_epoch(self, locked: tuple[str, ...]) -> Epoch:
        epoch = self.streams.epoch
        online = len(epoch.links) if epoch is not None else len(self.streams.online)
        if not online:
            raise NothingOpened(NotAnswered("no_members", "expected members online, found none; try again later"))
        if epoch is None or online < epoch.view.bounds.min_survivors:
            raise NothingOpened(
                NotAnswered(
                    "too_few_members",
                    f"expected enough members online for a sum that hides each of them, found {online}; "
                    "try again later",
                ),
                again=len(self.streams.online) > online,  # they are about to get their keys
            )
        absent = sorted(set(locked) - epoch.links.keys())
        if absent:
            raise NothingOpened(
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
        request = revealing.collected.request
        turn = [member for member in request.in_turn(revealing.survivors) if member in epoch.links]
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
            timer = Deadline(deadline_s, exchange.done)
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


def _reason(refusals: Mapping[str, pb.Refusal], error: SealedSumError) -> NotAnswered:
    """Why there is no answer: what most nodes say, or that too few answered."""
    if refusals:
        code, _ = Counter(refusal.code for refusal in refusals.values()).most_common(1)[0]
        sentence = next(refusal.sentence for refusal in refusals.values() if refusal.code == code)
        return NotAnswered(code, sentence)
    return NotAnswered("too_few_members", str(error))
