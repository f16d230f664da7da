"""A scoring epoch in one process, for tests and for measuring the masked sum without a network."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from protos.masked_sum import masked_sum_pb2 as pb
from protos.masked_sum.aggregator import Collecting, Revealing
from protos.masked_sum.masking import Vector
from protos.masked_sum.member import Contributed, Party, contribute, reveal_seeds, reveal_shares
from protos.masked_sum.request import Request
from protos.sealed_sum.bounds import Bounds
from protos.sealed_sum.epoch import EpochView, announce, join
from protos.sealed_sum.keys import SigningKey

AGREEMENT = bytes(range(32))


@dataclass
class MaskedConsortium:
    """All members of one epoch, each with its own keys, and the gateway's view of it.

    Attributes:
        view: What everybody knows.
        parties: By member.
    """

    view: EpochView
    parties: Mapping[str, Party] = field(repr=False)

    @classmethod
    def found(cls, bounds: Bounds) -> Self:
        """Open an epoch of `bounds.cohort` members."""
        names = [f"member-{number:02d}" for number in range(bounds.cohort)]
        identities = {name: SigningKey.from_bytes(os.urandom(32)) for name in names}
        keys = {name: identity.public_bytes for name, identity in identities.items()}
        states = {name: announce(identities[name], name, AGREEMENT, "scoring", 0, os.urandom)[0] for name in names}
        messages = [state.message for state in states.values()]
        parties = {name: Party.of(join(state, messages, keys, bounds)) for name, state in states.items()}
        return cls(next(iter(parties.values())).joined.view, parties)

    def request(
        self, k: int = 1, *, entities: bytes = bytes(32), slots: int = 4, purpose: str = "credit-decision"
    ) -> Request:
        """A request of this epoch."""
        return Request(
            epoch_id=self.view.epoch_id,
            k=k,
            task="credit",
            model_version="00" * 32,
            purpose=purpose,
            requester="platform",
            window=1,
            asked_at_ms=0,
            layout_digest=bytes(32),
            slots_per_entity=slots,
            roster=self.view.cohort,
            entities=entities,
            grant=b"",
        )

    def contribute(self, request: Request, values: Mapping[str, Vector]) -> tuple[dict[str, Contributed], Collecting]:
        """S1 of the members that `values` names."""
        states: dict[str, Contributed] = {}
        collecting = Collecting(self.view, request)
        for member, vector in values.items():
            states[member], upload = contribute(self.parties[member], request, vector, os.urandom)
            collecting.receive(member, upload)
        return states, collecting

    def open(self, request: Request, values: Mapping[str, Vector]) -> Vector:
        """The whole sum over the members that `values` names."""
        states, collecting = self.contribute(request, values)
        revealing = collecting.close()
        self.reveal(states, revealing)
        return revealing.open_total()

    def reveal(self, states: dict[str, Contributed], revealing: Revealing) -> None:
        """S2a when somebody dropped, then S2b."""
        for member in revealing.needs_seeds:
            asked = pb.Reveal.FromString(revealing.seed_request())
            states[member], reply = reveal_seeds(self.parties[member], states[member], asked)
            revealing.receive_seeds(member, reply)
        for member in revealing.survivors:
            asked = pb.Reveal.FromString(revealing.share_request(member))
            states[member], reply = reveal_shares(self.parties[member], states[member], asked)
            revealing.receive_shares(member, reply)


def random_vector(length: int) -> Vector:
    """Uniform modulo 2^64."""
    return np.frombuffer(os.urandom(8 * length), dtype="<u8").copy()
