"""What an owner should look into: a gateway whose log says something else than what this node did (C2), probing (C8).

An alarm stands in the journal and in the log. It is never told to the gateway: whether one was raised would say what
this node knows.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nodes.scoring_journal import Journal
from policies.disclosure import DisclosureRefused, hash_of, peek_disclosure, read_disclosure
from protos.scoring.v1.scoring_pb2 import StoredDisclosure

log = logging.getLogger(__name__)

_KEPT = 20_000


class Alarms:
    """Raises alarms.

    Args:
        journal: Where they are kept.
        now: This node's clock, Unix seconds.
    """

    def __init__(self, journal: Journal, now: Callable[[], float]) -> None:
        self._journal = journal
        self._now = now

    def raise_(self, sentence: str, request_digest: bytes = b"") -> None:
        """Keep an alarm and log it."""
        log.warning("ALARM: %s", sentence)
        entry = StoredDisclosure(
            event=StoredDisclosure.ALARM,
            at_ms=int(self._now() * 1000),
            request_digest=request_digest,
            note=sentence,
        )
        self._journal.append(entry)


@dataclass
class _Done:
    """What this node did in one request.

    Attributes:
        uploaded_after_ms: How long after the request's own time its upload left.
        gave_shares_for: The survivors it gave shares for; () if it was not asked.
    """

    uploaded_after_ms: int
    gave_shares_for: tuple[str, ...] = ()


class OpeningsWatch:
    """Compares the gateway's log of openings with what this node did.

    Args:
        member: This node's id.
        coordinator_key: Ed25519 public key, 32 bytes: an alarm says whether the entry could be shown to others.
        alarms: Where discrepancies go.
    """

    def __init__(self, member: str, coordinator_key: bytes, alarms: Alarms) -> None:
        self._member = member
        self._key = coordinator_key
        self._alarms = alarms
        self._done: OrderedDict[bytes, _Done] = OrderedDict()
        self._last: tuple[int, bytes] | None = None

    def connected(self) -> None:
        """A new stream: what was uploaded on the last one may have been lost, and entries may have been missed."""
        self._done = OrderedDict((digest, done) for digest, done in self._done.items() if done.gave_shares_for)
        self._last = None

    def uploaded(self, request_digest: bytes, after_ms: int) -> None:
        """S1 of this node is on its way."""
        self._done[request_digest] = _Done(after_ms)
        if len(self._done) > _KEPT:
            self._done.popitem(last=False)

    def gave_shares(self, request_digest: bytes, survivors: tuple[str, ...]) -> None:
        """S2b of this node is on its way."""
        done = self._done.get(request_digest)
        if done is not None:
            done.gave_shares_for = survivors

    def named_absent(self, request_digest: bytes) -> None:
        """The gateway told this node itself that it is not in a sum."""
        self._alarms.raise_(
            f"the gateway asked {self._member} about a sum and named it absent from it; ask the operator why",
            request_digest,
        )

    def told(self, entries: Sequence[bytes]) -> None:
        """Look at entries of the log.

        Raises:
            DisclosureRefused: One is none.
        """
        for signed in entries:
            entry = peek_disclosure(signed)
            if self._last is not None and (entry.number, entry.previous) != (self._last[0] + 1, self._last[1]):
                self._alarm(signed, "the gateway's log of openings does not continue where it was")
            self._last = entry.number, hash_of(signed)
            done = self._done.pop(entry.request_digest, None)
            if done is None:
                continue
            survivors = tuple(entry.survivors)
            if done.gave_shares_for and done.gave_shares_for != survivors:
                self._alarm(
                    signed,
                    f"the gateway's log names other survivors ({', '.join(survivors)}) than those this node gave its"
                    f" shares for ({', '.join(done.gave_shares_for)})",
                )
            elif self._member not in survivors:
                self._alarm(
                    signed,
                    f"the gateway's log names {self._member} absent, which uploaded {done.uploaded_after_ms} ms after"
                    " it was asked and is still connected: too slow, or left out",
                )

    def _alarm(self, signed: bytes, sentence: str) -> None:
        try:
            entry = read_disclosure(signed, self._key)
            shown = "the entry has the coordinator's signature"
        except DisclosureRefused:
            entry = peek_disclosure(signed)
            shown = "the entry's signature does not hold"
        self._alarms.raise_(f"entry {entry.number}: {sentence} ({shown})", entry.request_digest)
