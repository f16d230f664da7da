"""What the two sides of a vertical run have in common: who takes part, the session's name, letters that are checked.

Everything that two members must mean alike is in a digest that every later letter and mask is bound to: first the
hellos of all members with fresh nonces, then per task what each of them announces.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from google.protobuf.message import Message

from models.features import BoolArray
from models.vertical import VerticalSettings
from nodes.membership import Membership
from nodes.vertical_data import PlacedRows
from nodes.vertical_turns import Program, RoleSums, Turn
from policies.alignment import feature_holders, members_of_role
from policies.errors import UserError
from policies.proposal import RunProposal
from protos.encrypted_gradient.partial_scores import score_seed
from protos.encrypted_gradient.session import SessionTerms, SlotShape
from protos.role_sum.member import RoleSum
from protos.runs.v1 import vertical_pb2
from protos.sealed_sum.canonical import digest, encode
from protos.sealed_sum.dealing import Ready
from protos.sealed_sum.secret import MaskSeed
from protos.sealed_sum.wire import OVERHEAD_BYTES, open_signed, sign

HELLO, ROWS, COLUMNS, OPENING = "vertical-hello", "vertical-rows", "vertical-columns", "vertical-opening"
PRODUCTS, RECALIBRATION, REPORT = "vertical-products", "vertical-recalibration", "vertical-tower-report"
MAX_ROWS = 4_000_000
_MAX_COLUMNS = 4096

M = TypeVar("M", bound=Message)


class VerticalStepRefused(UserError):
    """A letter or a step that does not fit where this vertical run stands at this node."""


class ModelsDiffer(VerticalStepRefused):
    """Two members of one role ended with different towers."""


@dataclass(frozen=True)
class Roster:
    """Who does what in one task of a run.

    Attributes:
        label_holders: Members of the label's role, sorted.
        feature_holders: Members of other roles with features, sorted.
        role: This member's role.
        peers: Members of that role in the run, sorted, this one among them.
        feature_roles: Roles of the feature holders.
        role_of: Role of everybody above.
    """

    label_holders: tuple[str, ...]
    feature_holders: tuple[str, ...]
    role: str
    peers: tuple[str, ...]
    feature_roles: int
    role_of: Mapping[str, str]

    @property
    def everybody(self) -> tuple[str, ...]:
        """All members of the task."""
        return (*self.label_holders, *self.feature_holders)


@dataclass(frozen=True, eq=False)
class Party:
    """A member in one attempt at a run.

    Attributes:
        membership: Who it is.
        proposal: The run.
        ready: Its key epoch.
        rows: Its rows as aligned.
        rng: Cryptographic randomness.
        session: Hash of all hellos, 32 bytes; empty before them.
    """

    membership: Membership
    proposal: RunProposal
    ready: Ready
    rows: PlacedRows = field(repr=False)
    rng: Callable[[int], bytes]
    session: bytes = b""

    @property
    def member(self) -> str:
        """Its id."""
        return self.membership.member

    @property
    def settings(self) -> VerticalSettings:
        """The run's public settings: form and floors from the agreement, passes and pairs from the proposal."""
        model, privacy = self.membership.agreement.model, self.membership.agreement.privacy
        return VerticalSettings(
            bins=model.bins,
            ridge=model.ridge,
            smoothness=model.smoothness,
            min_rows_per_column=privacy.min_rows_per_column,
            passes=self.proposal.settings.passes,
            pairs=self.proposal.settings.pairs,
            max_colluders=privacy.max_colluders,
        )

    def roster(self, task: str) -> Roster:
        """Who does what in a task."""
        agreement = self.membership.agreement
        role = agreement.member(self.member).role
        holders = members_of_role(agreement, self.proposal, agreement.task(task).label_role)
        others = feature_holders(agreement, self.proposal, task)
        role_of = {member: agreement.member(member).role for member in (*holders, *others)}
        return Roster(
            holders,
            others,
            role,
            members_of_role(agreement, self.proposal, role),
            len({role_of[member] for member in others}),
            role_of,
        )

    def sums(self, task: str, roster: Roster) -> RoleSums:
        """The sums of this member's role in a task."""
        session = digest("vertical/role", self.session, task, roster.role)
        return RoleSums(RoleSum(self.ready, roster.peers, session), self.rng)

    # -- letters --

    def letter(self, domain: str, message: Message) -> bytes:
        """Sign a letter."""
        return sign(self.membership.identity, domain, message)

    def opened(self, kind: type[M], member: str, letter: bytes, *, domain: str, session: bytes, size: int = 0) -> M:
        """Check a letter: its length, its member's signature, its session and sender.

        Raises:
            VerticalStepRefused: It is of another session or member.
            BadSignature: It is not signed by the member.
            MalformedMessage: It is not the message it should be.
        """
        message = open_signed(
            kind,
            letter,
            size + OVERHEAD_BYTES,
            domain=domain,
            member=member,
            identity_key=self.membership.agreement.member(member).identity_key_bytes,
        )
        if getattr(message, "session", session) != session or getattr(message, "member", member) != member:
            raise VerticalStepRefused(f"Expected a letter of {member} of this session, found another; start again.")
        return message

    def identity_key(self, member: str) -> bytes:
        """A member's Ed25519 key from the agreement."""
        return self.membership.agreement.member(member).identity_key_bytes

    def seeds(self, peers: Iterable[str], session: bytes, number: int, purpose: str) -> list[tuple[str, MaskSeed]]:
        """The seeds shared with other members for one pass of one session."""
        announced = self.ready.keyed.joined.announced
        return [
            (
                peer,
                score_seed(
                    announced.masking_secret,
                    self.ready.view.announcements[peer].masking_public_key,
                    member=self.member,
                    peer=peer,
                    agreement_hash=self.membership.agreement_hash,
                    session=session,
                    pass_number=number,
                    purpose=purpose,
                ),
            )
            for peer in peers
            if peer != self.member
        ]


def greet(party: Party, attempt: int) -> Program[bytes]:
    """Exchange fresh nonces with everybody; returns the session, which no earlier letter can be part of (A8, A10)."""
    hello = vertical_pb2.VerticalHello(
        epoch_id=party.ready.epoch_id,
        proposal_digest=party.proposal.digest(),
        attempt=attempt,
        member=party.member,
        nonce=party.rng(32),
    )
    own = party.letter(HELLO, hello)
    others = tuple(member for member in party.proposal.cohort if member != party.member)
    letters = yield Turn(dict.fromkeys(others, own), others)
    parts = []
    for member in party.proposal.cohort:
        if member == party.member:
            parts.append(own)
            continue
        found = party.opened(vertical_pb2.VerticalHello, member, letters[member], domain=HELLO, session=b"")
        same = (found.epoch_id, found.proposal_digest, found.attempt)
        if same != (hello.epoch_id, hello.proposal_digest, attempt) or len(found.nonce) != 32:
            raise VerticalStepRefused(f"Expected {member} in the same run and attempt, found it in another.")
        parts.append(letters[member])
    return digest("vertical/session", *parts)


@dataclass(frozen=True, eq=False)
class LabelRows:
    """A label holder's rows in the order of the alignment.

    Attributes:
        training: Places that are trained on, ascending.
        holdout: Places that are held out, ascending.
    """

    training: np.ndarray
    holdout: np.ndarray

    @classmethod
    def of(cls, held_out: BoolArray) -> LabelRows:
        """From the marks of all places."""
        return cls(np.flatnonzero(~held_out), np.flatnonzero(held_out))


def packed_holdout(held_out: BoolArray) -> bytes:
    """One bit a row."""
    return np.packbits(held_out, bitorder="little").tobytes()


def unpacked_holdout(message: vertical_pb2.VerticalRows, member: str) -> BoolArray:
    """The marks of a label holder's rows.

    Raises:
        VerticalStepRefused: Not one bit a row.
    """
    rows = message.rows
    if not 0 < rows <= MAX_ROWS or len(message.holdout) != -(-rows // 8):
        raise VerticalStepRefused(
            f"Expected 1 to {MAX_ROWS} aligned rows of {member} with one bit each, found {rows} rows and"
            f" {len(message.holdout)} bytes."
        )
    bits = np.unpackbits(np.frombuffer(message.holdout, dtype=np.uint8), bitorder="little")
    return np.asarray(bits[:rows], dtype=np.bool_)


def task_session(party: Party, task: str) -> bytes:
    """What the announcements of one task are bound to, 32 bytes."""
    return digest("vertical/task", party.session, task)


def announced_columns(party: Party, roster: Roster, letters: Mapping[str, bytes], session: bytes) -> dict[str, int]:
    """Columns per feature holder, equal within a role.

    Raises:
        VerticalStepRefused: Two members of a role announce different numbers, or one is out of range.
    """
    found = {}
    for member in roster.feature_holders:
        message = party.opened(vertical_pb2.VerticalColumns, member, letters[member], domain=COLUMNS, session=session)
        if not 1 <= message.columns <= _MAX_COLUMNS:
            raise VerticalStepRefused(f"Expected 1 to {_MAX_COLUMNS} columns of {member}, found {message.columns}.")
        found[member] = int(message.columns)
    by_role: dict[str, set[int]] = {}
    for member, columns in found.items():
        by_role.setdefault(roster.role_of[member], set()).add(columns)
    if any(len(columns) > 1 for columns in by_role.values()):
        raise VerticalStepRefused("Expected one basis per role, found members of a role with different ones.")
    return found


def session_terms(
    party: Party,
    label_holder: str,
    rows: LabelRows,
    columns: Mapping[str, int],
    announcements: Sequence[bytes],
    session: bytes,
) -> SessionTerms:
    """The terms of one label holder's session, the same at everybody who was shown the same announcements (A3).

    Args:
        party: This member.
        label_holder: Whose residuals travel in the session.
        rows: Its rows.
        columns: Columns per feature holder.
        announcements: Of all members of the task, sorted by member.
        session: Of the task.
    """
    return SessionTerms(
        digest("vertical/terms", session, *announcements),
        label_holder,
        columns,
        SlotShape.balanced(len(rows.training), columns),
        digest("vertical/order", party.ready.epoch_id, label_holder, len(rows.training), len(rows.holdout)),
        party.proposal.settings.passes + 1,
        len(rows.holdout),
    )


def tower_digest(party: Party, task: str, role: str, tower: bytes) -> bytes:
    """A keyed hash of a role's tower (rule A4 i: an unkeyed one would let its reader test guesses), 32 bytes."""
    body = encode("vertical/tower", party.ready.epoch_id, party.proposal.run_id, task, role, tower)
    return hmac.digest(party.ready.keyed.tag_key.raw, body, "sha256")


def report_tower(party: Party, task: str, roster: Roster, tower: bytes) -> Program[str]:
    """Tell everybody this member's tower by its keyed hash; returns the model's version, the same at all members.

    Raises:
        ModelsDiffer: Two members of a role report different towers.
    """
    session = digest("vertical/report", task_session(party, task))
    own = vertical_pb2.VerticalTowerReport(
        session=session, member=party.member, digest=tower_digest(party, task, roster.role, tower)
    )
    others = tuple(member for member in roster.everybody if member != party.member)
    letters = yield Turn(dict.fromkeys(others, party.letter(REPORT, own)), others)
    by_role: dict[str, set[bytes]] = {roster.role: {own.digest}}
    for member in others:
        found = party.opened(vertical_pb2.VerticalTowerReport, member, letters[member], domain=REPORT, session=session)
        by_role.setdefault(roster.role_of[member], set()).add(found.digest)
    differing = sorted(role for role, digests in by_role.items() if len(digests) > 1)
    if differing:
        raise ModelsDiffer(
            f"The towers of role {', '.join(differing)} differ between members (their keyed hashes are not equal); "
            "nothing is released, compare the nodes' versions."
        )
    parts: list[str | bytes] = []
    for role in sorted(by_role):
        parts += [role, next(iter(by_role[role]))]
    return digest("vertical/version", party.proposal.run_id, task, *parts).hex()
