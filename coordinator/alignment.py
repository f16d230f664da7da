"""Every pair of a run's label holders and feature holders aligned, all at the same time, over the engine's steps.

The coordinator carries parcels from one member of a pair to the other. It keeps nothing: after a crash, its own or a
node's, the nodes say what they said last, and the pairs go on from there.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from coordinator.engine.steps import StepOutcome, Steps
from coordinator.epoch_opening import parse_reply
from coordinator.patience import Patience
from coordinator.sum_round import RunFailed, Traffic
from protos.private_set_intersection.channel import Pair
from protos.runs.v1 import alignment_pb2

log = logging.getLogger(__name__)

STEP_ELEMENTS = 16_384
"""Elements that a member blinds, and raises, in one step: about a second of work on one core."""
SMALLEST_CHUNK = 256


@dataclass
class _Session:
    """Where one pair stands: what each member said, by exchange."""

    pair: Pair
    said: dict[str, dict[int, tuple[bytes, ...]]] = field(default_factory=lambda: defaultdict(dict))
    done: set[str] = field(default_factory=set)

    @property
    def over(self) -> bool:
        """The feature holder has matched, and the label holder knows that it has."""
        return self.pair.label_holder in self.done

    def take(self, member: str, parcel: alignment_pb2.Parcel) -> None:
        """Note a member's reply; older ones than the last two are not needed any more."""
        said = self.said[member]
        said[parcel.exchange] = tuple(parcel.messages)
        for number in [number for number in said if number < parcel.exchange - 1]:
            del said[number]
        if parcel.done:
            self.done.add(member)

    def next_for(self, member: str) -> alignment_pb2.Parcel | None:
        """What to ask a member next; None while its peer is behind, or when it needs nothing more."""
        exchange = max(self.said[member])
        heard = self.said[self.pair.peer_of(member)].get(exchange)
        if member in self.done or heard is None:
            return None
        return alignment_pb2.Parcel(pair=_named(self.pair), exchange=exchange + 1, messages=heard)


class AlignmentRound:
    """Drives the intersections of one run.

    Args:
        run_id: The run; its key epoch is open.
        pairs: Who aligns with whom, see `policies.alignment.alignment_pairs`.
        steps: The engine.
        confirmations: E2 messages, for members that have not accepted them yet.
        deadline_s: How long a step waits for silent members.
        pause_limit_s: How long the alignment waits for a member that is away before it is given up.
        announce: Called with an event name and details, for progress.
        clock: Monotonic seconds.
        step_elements: Elements of one member and step, shared by its pairs.
    """

    def __init__(
        self,
        run_id: str,
        pairs: tuple[Pair, ...],
        steps: Steps,
        confirmations: tuple[bytes, ...],
        *,
        deadline_s: float,
        pause_limit_s: float,
        announce: Callable[..., None],
        clock: Callable[[], float] = time.monotonic,
        step_elements: int = STEP_ELEMENTS,
    ) -> None:
        self._run_id = run_id
        self._steps = steps
        self._confirmations = confirmations
        self._announce = announce
        self._patience = Patience("the alignment", deadline_s, pause_limit_s, announce, clock)
        self._sessions = {pair: _Session(pair) for pair in pairs}
        busiest = max(Counter(member for pair in pairs for member in _members(pair)).values(), default=1)
        self._chunk_elements = max(min(SMALLEST_CHUNK, step_elements), step_elements // busiest)
        self.traffic = Traffic()

    def run(self) -> None:
        """Align every pair; returns when all are done.

        Raises:
            RunFailed: A member refuses, or stays away for longer than the pause limit.
        """
        self._announce("aligning", pairs=len(self._sessions), chunk_elements=self._chunk_elements)
        self._until_answered(self._openings)
        while stuck := [session.pair for session in self._sessions.values() if not session.over]:
            if not self._relays():
                raise RunFailed(
                    f"The alignment of {stuck[0].label_holder} and {stuck[0].feature_holder} cannot go on: what they "
                    "say last does not fit together; propose the run again."
                )
            self._until_answered(self._relays)
        self._announce("aligned", pairs=len(self._sessions))

    def _until_answered(self, requests: Callable[[], Mapping[str, bytes]]) -> None:
        """One step with everybody who has something to do; a member that is silent is waited for."""
        while bodies := requests():
            outcome = self._steps.run_step("align", bodies, deadline_s=self._patience.deadline_s)
            self.traffic.count("align", outcome)
            self._take(outcome)
            if self._patience.after(outcome):
                return

    def _openings(self) -> dict[str, bytes]:
        """Requests to the members of whose sessions nothing has been heard."""
        pairs: dict[str, list[Pair]] = defaultdict(list)
        for pair, session in self._sessions.items():
            for member in _members(pair):
                if not session.said[member]:
                    pairs[member].append(pair)
        return {
            member: alignment_pb2.AlignRequest(
                run_id=self._run_id,
                open=alignment_pb2.AlignOpen(
                    pairs=[_named(pair) for pair in own],
                    chunk_elements=self._chunk_elements,
                    confirmations=self._confirmations,
                ),
            ).SerializeToString()
            for member, own in pairs.items()
        }

    def _relays(self) -> dict[str, bytes]:
        """What each member is to be handed next."""
        parcels: dict[str, list[alignment_pb2.Parcel]] = defaultdict(list)
        for pair, session in self._sessions.items():
            for member in _members(pair):
                parcel = session.next_for(member)
                if parcel is not None:
                    parcels[member].append(parcel)
        return {
            member: alignment_pb2.AlignRequest(
                run_id=self._run_id, relay=alignment_pb2.AlignRelay(parcels=own)
            ).SerializeToString()
            for member, own in parcels.items()
        }

    def _take(self, outcome: StepOutcome) -> None:
        for member, refusal in sorted(outcome.refusals.items()):
            raise RunFailed(f"{member} refused the alignment ({refusal.code}): {refusal.sentence}")
        for member, body in outcome.replies.items():
            for parcel in parse_reply(alignment_pb2.AlignReply, member, body).parcels:
                session = self._sessions.get(Pair(parcel.pair.label_holder, parcel.pair.feature_holder))
                if session is None or member not in _members(session.pair):
                    raise RunFailed(f"{member} answered for a pair that it is not in; update its node.")
                session.take(member, parcel)


def _members(pair: Pair) -> tuple[str, str]:
    return pair.label_holder, pair.feature_holder


def _named(pair: Pair) -> alignment_pb2.AlignPair:
    return alignment_pb2.AlignPair(label_holder=pair.label_holder, feature_holder=pair.feature_holder)
