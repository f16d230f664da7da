"""The nodes' scoring streams, and the key epochs of whoever is connected."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import grpc
from google.protobuf.message import DecodeError

from policies.agreement import Agreement, agreement_hash
from policies.errors import AgreementRefused
from protos.masked_sum.member import require_one_opening
from protos.scoring.v1 import scoring_pb2 as pb
from protos.sealed_sum.epoch import EpochView, observe
from protos.sealed_sum.errors import SealedSumError

log = logging.getLogger(__name__)

SETTLE_S = 0.15
"""How long to wait for further members before keys are made: at a start they come one after another."""
ANSWER_S = 5.0
RENEW_S = 72_000.0


@dataclass(eq=False)
class Link:
    """One node's open stream.

    Attributes:
        member: Whose.
        revoked: Issuer -> version of its revocation list that the node says is on its disk.
        task: Serves the stream.
    """

    member: str
    revoked: dict[bytes, int] = field(default_factory=dict)
    task: asyncio.Task[None] | None = field(default_factory=asyncio.current_task)
    _waiting: list[bytes] = field(default_factory=list)
    _more: asyncio.Future[None] | None = None

    def close(self) -> None:
        """End the stream."""
        if self.task is not None:
            self.task.cancel()

    def send(self, message: bytes) -> None:
        """Queue a message; order is kept."""
        self._waiting.append(message)
        if self._more is not None and not self._more.done():
            self._more.set_result(None)

    async def wait(self) -> None:
        """Wait until a message is queued."""
        if not self._waiting:
            self._more = asyncio.get_running_loop().create_future()
            await self._more

    def take(self) -> list[bytes]:
        """Everything that is queued."""
        taken, self._waiting = self._waiting, []
        return taken


@dataclass(eq=False)
class Epoch:
    """Keys of one cohort.

    Attributes:
        view: As checked here.
        links: The very streams whose nodes hold keys of it; a node that comes back is not among them.
    """

    view: EpochView
    links: dict[str, Link]
    began_s: float
    attempts: itertools.count[int] = field(default_factory=lambda: itertools.count(1))


@dataclass(eq=False)
class _Gathering:
    run_id: str
    waiting: set[str]
    announced: dict[str, bytes] = field(default_factory=dict)
    joined: dict[str, bytes] = field(default_factory=dict)
    all_answered: asyncio.Event = field(default_factory=asyncio.Event)

    def answer(self, member: str) -> None:
        self.waiting.discard(member)
        if not self.waiting:
            self.all_answered.set()


class Streams:
    """Who is connected, and the current epoch.

    Args:
        agreement: The signed agreement.
        deliver: Called with (member, message) for everything that is not about epochs.
        lost: Called with the member when its stream has ended.
        hold_s: How long a message may wait for others to be sent with it, seconds.

    Attributes:
        epoch: The current keys, and who has them.
        at_connect: Revocation lists for a node that has just connected.
    """

    def __init__(
        self,
        agreement: Agreement,
        deliver: Callable[[str, pb.FromNode], None],
        lost: Callable[[str], None],
        hold_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._agreement = agreement
        self._hash = agreement_hash(agreement)
        self._keys = {member.id: member.identity_key_bytes for member in agreement.members}
        self._deliver = deliver
        self._lost = lost
        self._hold_s = hold_s
        self._links: dict[str, Link] = {}
        self._gathering: _Gathering | None = None
        self._changed = asyncio.Event()
        self.epoch: Epoch | None = None
        self.at_connect: Callable[[], Iterable[bytes]] = tuple
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to keep an epoch open."""
        self._task = asyncio.create_task(self._keep_epoch())

    def stop(self) -> None:
        """Make no more keys."""
        if self._task is not None:
            self._task.cancel()

    def acknowledged(self, issuer: bytes, version: int) -> frozenset[str]:
        """Members that are connected and have this version of a revocation list, or a later one, on their disks."""
        return frozenset(m for m, link in self._links.items() if link.revoked.get(issuer, 0) >= version)

    @property
    def online(self) -> frozenset[str]:
        """Members whose stream is open."""
        return frozenset(self._links)

    def keep_only(self, admitted: Collection[str]) -> None:
        """Close the streams of members that are admitted no more; new keys are made without them (A14)."""
        for member, link in list(self._links.items()):
            if member not in admitted:
                log.warning("%s is admitted no more; its scoring stream is closed", member)
                link.close()
                self._changed.set()

    def push_revocations(self, signed: bytes) -> None:
        """Send a revocation list to every node that is connected; others get it from `at_connect`."""
        for link in self._links.values():
            link.send(pb.ToNode(revocations=signed).SerializeToString())

    def tell(self, disclosures: Sequence[bytes]) -> None:
        """Send entries of the log of openings to every node that is connected."""
        message = pb.ToNode(disclosures=pb.Disclosures(signed=disclosures)).SerializeToString()
        for link in self._links.values():
            link.send(message)

    async def attend(self, member: str, context: grpc.aio.ServicerContext[pb.Packet, pb.Packet]) -> None:
        """Serve one node's stream until it ends."""
        link = Link(member)
        previous = self._links.get(member)
        self._links[member] = link
        if previous is not None:
            log.warning("%s connected again while its last stream was open; the last one is closed", member)
            previous.close()
        await context.send_initial_metadata(())
        for signed in self.at_connect():
            link.send(pb.ToNode(revocations=signed).SerializeToString())
        writer = asyncio.create_task(_write(link, context, self._hold_s))
        log.info("%s attends to scoring", member)
        self._changed.set()
        try:
            while (packet := await context.read()) is not grpc.aio.EOF:
                for message in packet.messages:
                    self._receive(link, pb.FromNode.FromString(message))
        except DecodeError:
            log.warning("closing the stream of %s: it sent bytes that are no message", member)
        finally:
            writer.cancel()
            self._end(link)

    def _end(self, link: Link) -> None:
        if self._links.get(link.member) is link:
            del self._links[link.member]
            log.info("%s is gone from scoring", link.member)
        epoch, gathering = self.epoch, self._gathering
        if epoch is not None and epoch.links.get(link.member) is link:
            del epoch.links[link.member]
            self._lost(link.member)
        if gathering is not None:
            gathering.answer(link.member)

    def _receive(self, link: Link, message: pb.FromNode) -> None:
        what, gathering = message.WhichOneof("what"), self._gathering
        if what == "announced":
            if gathering is not None and gathering.run_id == message.announced.run_id:
                gathering.announced[link.member] = message.announced.announcement
                gathering.answer(link.member)
        elif what == "joined":
            if gathering is not None and gathering.run_id == message.joined.run_id:
                gathering.joined[link.member] = message.joined.epoch_id
                gathering.answer(link.member)
        elif what == "revoked":
            link.revoked[message.revoked.issuer] = message.revoked.version
            log.info("%s has version %d of a revocation list", link.member, message.revoked.version)
        elif what == "refusal" and not message.refusal.request_digest:
            log.warning("%s refuses: %s", link.member, message.refusal.sentence)
            if gathering is not None and gathering.run_id == message.refusal.run_id:
                gathering.answer(link.member)
        else:
            self._deliver(link.member, message)

    async def _keep_epoch(self) -> None:
        """A new epoch whenever a node has come (it holds no keys yet), and once a day."""
        while True:
            try:
                await asyncio.wait_for(self._changed.wait(), timeout=60.0)
            except TimeoutError:
                if self.epoch is None or time.monotonic() - self.epoch.began_s < RENEW_S:
                    continue
            await asyncio.sleep(SETTLE_S)
            self._changed.clear()
            links = dict(self._links)
            try:
                epoch = await self._open(links)
            except (SealedSumError, AgreementRefused) as refused:
                log.warning("no key epoch with %s: %s", ", ".join(sorted(links)) or "nobody", refused)
                continue
            if epoch is None:
                self._changed.set()  # somebody fell silent in between
                continue
            self.epoch = epoch
            log.info("scoring epoch with %s", ", ".join(epoch.view.cohort))

    async def _open(self, links: Mapping[str, Link]) -> Epoch | None:
        bounds = self._agreement.bounds(len(links))
        require_one_opening(bounds)
        run_id = f"scoring-{time.time_ns()}"
        announced = await self._ask(
            run_id, links, pb.ToNode(announce=pb.Announce(run_id=run_id)), lambda gathering: gathering.announced
        )
        if len(announced) < len(links):
            return None
        view = observe(list(announced.values()), self._keys, self._hash, run_id, bounds)
        cohort = pb.ToNode(cohort=pb.Cohort(run_id=run_id, announcements=view.messages))
        joined = await self._ask(run_id, links, cohort, lambda gathering: gathering.joined)
        if set(joined.values()) != {view.epoch_id} or len(joined) < len(links):
            return None
        alive = {member: link for member, link in links.items() if self._links.get(member) is link}
        return Epoch(view, alive, time.monotonic())

    async def _ask(
        self,
        run_id: str,
        links: Mapping[str, Link],
        question: pb.ToNode,
        answers: Callable[[_Gathering], dict[str, bytes]],
    ) -> dict[str, bytes]:
        gathering = self._gathering = _Gathering(run_id, set(links))
        data = question.SerializeToString()
        for link in links.values():
            link.send(data)
        try:
            await asyncio.wait_for(gathering.all_answered.wait(), ANSWER_S)
        except TimeoutError:
            log.warning("no answer about the epoch from %s", ", ".join(sorted(gathering.waiting)))
        self._gathering = None
        return answers(gathering)


async def _write(
    link: Link, context: grpc.aio.ServicerContext[pb.Packet, pb.Packet], hold_s: Callable[[], float]
) -> None:
    """Send what waits, all of it at once: what a write, a read and a flush cost hardly depends on how much it is."""
    while True:
        await link.wait()
        hold = hold_s()
        if hold:
            await asyncio.sleep(hold)
        await context.write(pb.Packet(messages=link.take()))
