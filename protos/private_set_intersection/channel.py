"""One direction-bound, encrypted and signed channel between two members; the coordinator only carries it.

Without it the coordinator could play the other side and try its own dictionary (rule B8). Keys are those of the key
epoch (E1); every message has a key of its own, bound to epoch, session, direction, kind and number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from protos.private_set_intersection import private_set_intersection_pb2 as pb
from protos.private_set_intersection.errors import ChunkNotAuthentic, ChunkOutOfOrder, WrongSession
from protos.sealed_sum.canonical import digest, encode
from protos.sealed_sum.dealing import Ready
from protos.sealed_sum.errors import CohortRefused, ShareInvalid
from protos.sealed_sum.keys import AEAD_TAG_BYTES, NONCE_BYTES, SigningKey, agree, derive, seal, unseal
from protos.sealed_sum.secret import AeadKey, SharedSecret
from protos.sealed_sum.wire import OVERHEAD_BYTES, expect_length, open_signed, sign

CHUNK = "alignment"
HELLO, BLINDED, RAISED, DONE = 1, 2, 3, 4
KINDS = {HELLO: "hello", BLINDED: "blinded", RAISED: "raised", DONE: "done"}


@dataclass(frozen=True)
class Pair:
    """Who intersects with whom; the other way round it is another session.

    Attributes:
        label_holder: Learns the number of the feature holder's entities, nothing else.
        feature_holder: Learns which of its own entities the label holder has.
    """

    label_holder: str
    feature_holder: str

    def peer_of(self, member: str) -> str:
        """The other one.

        Raises:
            CohortRefused: `member` is neither, or both are one.
        """
        if member not in (self.label_holder, self.feature_holder) or self.label_holder == self.feature_holder:
            raise CohortRefused(
                f"expected a label holder and a feature holder of which one is {member}, found "
                f"{self.label_holder} and {self.feature_holder}"
            )
        return self.feature_holder if member == self.label_holder else self.label_holder


def session_id(epoch_id: bytes, pair: Pair) -> bytes:
    """What every message, key and digest of a session is bound to, 32 bytes."""
    return digest("alignment/session", epoch_id, pair.label_holder, pair.feature_holder)


@dataclass(frozen=True)
class Channel:
    """One member's end of a session.

    Attributes:
        pair: Who takes part.
        session: 32 bytes.
        member: This end.
        peer: The other end.
    """

    pair: Pair
    session: bytes
    member: str
    peer: str
    agreement_hash: bytes
    identity: SigningKey = field(repr=False)
    peer_identity_key: bytes
    shared: SharedSecret = field(repr=False)

    @classmethod
    def between(cls, ready: Ready, pair: Pair) -> Channel:
        """Open this member's end with the keys of its epoch.

        Raises:
            CohortRefused: The pair is not this member and another one of the cohort.
        """
        peer = pair.peer_of(ready.member)
        if peer not in ready.cohort:
            raise CohortRefused(f"expected a peer of this epoch's cohort, found {peer}")
        announced = ready.view.announcements[peer]
        shared = agree(ready.keyed.joined.announced.sealing_secret, announced.sealing_public_key, peer)
        return cls(
            pair,
            session_id(ready.epoch_id, pair),
            ready.member,
            peer,
            ready.view.agreement_hash,
            ready.identity,
            ready.view.identity_keys[peer],
            shared,
        )

    def send(self, kind: int, number: int, body: bytes, rng: Callable[[int], bytes]) -> bytes:
        """Encrypt to the peer and sign."""
        key, associated = self._key(self.member, self.peer, kind, number)
        nonce = rng(NONCE_BYTES)
        return sign(
            self.identity,
            CHUNK,
            pb.SealedChunk(
                session=self.session,
                sender=self.member,
                recipient=self.peer,
                kind=kind,
                number=number,
                nonce=nonce,
                sealed=seal(key, nonce, body, associated),
            ),
        )

    def receive(self, message: bytes, expected: dict[int, int], max_body_bytes: int) -> tuple[int, bytes]:
        """Check a message of the peer and decrypt it.

        Args:
            message: As relayed.
            expected: Number of the next message of every kind that may come now.
            max_body_bytes: Longest body that can be right.

        Returns:
            Kind and body.

        Raises:
            BadSignature: The peer has not signed it.
            MalformedMessage: It is no such message, or longer than any that may come.
            WrongSession: It is of another session, or goes the other way.
            ChunkOutOfOrder: It is not the next one of its kind.
            ChunkNotAuthentic: It does not decrypt for this place.
        """
        chunk = open_signed(
            pb.SealedChunk,
            message,
            max_body_bytes + AEAD_TAG_BYTES + OVERHEAD_BYTES,
            domain=CHUNK,
            member=self.peer,
            identity_key=self.peer_identity_key,
        )
        if chunk.session != self.session or (chunk.sender, chunk.recipient) != (self.peer, self.member):
            raise WrongSession(
                f"expected a message of the session of {self.pair.label_holder} and {self.pair.feature_holder} from "
                f"{self.peer} to {self.member}, found one of another session or direction; refuse it"
            )
        if expected.get(chunk.kind) != chunk.number:
            known = ", ".join(f"{KINDS[kind]} {number}" for kind, number in sorted(expected.items()))
            raise ChunkOutOfOrder(
                expected=known or "nothing", got=f"{KINDS.get(chunk.kind, 'an unknown kind')} {chunk.number}"
            )
        key, associated = self._key(self.peer, self.member, chunk.kind, chunk.number)
        nonce = expect_length(chunk.nonce, NONCE_BYTES, "nonce")
        try:
            return chunk.kind, unseal(key, nonce, chunk.sealed, associated, self.peer)
        except ShareInvalid as error:
            raise ChunkNotAuthentic(
                f"expected a {KINDS[chunk.kind]} message encrypted by {self.peer} for its place in this session, found "
                "one that does not authenticate; refuse it"
            ) from error

    def _key(self, sender: str, recipient: str, kind: int, number: int) -> tuple[AeadKey, bytes]:
        """The key of one message and the data it is bound to: session, direction, kind and chunk number."""
        info = encode("alignment/chunk", self.session, sender, recipient, kind, number)
        return derive(self.shared, AeadKey, salt=self.agreement_hash, info=info), info
