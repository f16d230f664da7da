"""What the ledger says: one closed type for each kind of entry, and its one encoding.

An entry holds hashes, versions, members of the agreement and times; no personal data. What it says about a decision
is keyed with that decision's own random salt (`coordinator.ledger.commitments`): whoever is shown the decision can
check the entry, nobody else can guess at it, and where a decision must be erased, its salt goes with it.
"""

from __future__ import annotations

import datetime as dt
import json
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from policies.closed_model import HEX_32_BYTES, MEMBER_ID, ONE_LINE, ClosedModel
from protos.ledger.errors import LedgerError

TIME = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$"
Hash = Annotated[str, Field(pattern=HEX_32_BYTES)]
Word = Annotated[str, Field(min_length=1, max_length=128, pattern=ONE_LINE)]
Members = tuple[Annotated[str, Field(pattern=MEMBER_ID)], ...]


class EntryMalformed(LedgerError):
    """A ledger entry that is not of a known kind, or not written in the one encoding."""


class _Entry(ClosedModel):
    at: Annotated[str, Field(pattern=TIME)]
    """When it happened, UTC."""


class DecisionEntry(_Entry):
    """A financing decision was taken."""

    kind: Literal["decision"] = "decision"
    decision: Hash
    """Keyed hash of the decision's id."""
    tenant: Hash
    inputs: Hash
    """Keyed hash of the hash of what it was taken on."""
    record: Hash
    """Keyed hash of the whole stored decision."""
    policies: dict[Word, Word]
    model: Word
    mode: Literal["released", "federated"]
    survivors: Members = ()
    """Members in the score's sum, in federated mode."""
    degraded: bool = False


class TransitionEntry(_Entry):
    """A decision's status changed."""

    kind: Literal["transition"] = "transition"
    decision: Hash
    record: Hash
    """Keyed hash of who, when and why."""
    to: Word


class OfferEntry(_Entry):
    """Financing was offered."""

    kind: Literal["offer"] = "offer"
    decision: Hash
    offer: Hash
    record: Hash


class DisclosureEntry(_Entry):
    """A score was opened: which members are in the sum, never what it was (rules A7 iv and C2)."""

    kind: Literal["disclosure"] = "disclosure"
    request: Hash
    """Digest of the request that the nodes signed off."""
    task: Word
    model: Word
    purpose: Word
    roster: Members
    survivors: Members
    degraded: bool


class OpeningEntry(_Entry):
    """A sum of a training run was opened."""

    kind: Literal["opening"] = "opening"
    run: Word
    k: Annotated[int, Field(ge=0)]
    purpose: Word
    survivors: Members
    dropped: Members


class ReleaseEntry(_Entry):
    """A run's results were released by its members."""

    kind: Literal["release"] = "release"
    run: Word
    model: Hash | None
    """SHA-256 of the released artefact; none where the members keep the model."""
    table: Hash
    """SHA-256 of the signed table of figures."""
    signers: Members


class CheckpointEntry(_Entry):
    """Witnesses co-signed a checkpoint."""

    kind: Literal["checkpoint"] = "checkpoint"
    size: Annotated[int, Field(ge=0)]
    root: Hash
    witnesses: Members


class AlarmEntry(_Entry):
    """A witness refused a checkpoint, or something else that an auditor must see."""

    kind: Literal["alarm"] = "alarm"
    code: Word
    member: Annotated[str, Field(pattern=MEMBER_ID)]
    evidence: Hash
    """SHA-256 of what it was about."""


Entry = (
    DecisionEntry
    | TransitionEntry
    | OfferEntry
    | DisclosureEntry
    | OpeningEntry
    | ReleaseEntry
    | CheckpointEntry
    | AlarmEntry
)
_ANY: TypeAdapter[Entry] = TypeAdapter(Annotated[Entry, Field(discriminator="kind")])


def time_text(at: dt.datetime) -> str:
    """A time as entries state it: UTC, to the microsecond."""
    return at.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def encode_entry(entry: Entry) -> bytes:
    """The bytes that are hashed: JSON, keys sorted, no white space, ASCII."""
    return json.dumps(entry.model_dump(), sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def parse_entry(body: bytes) -> Entry:
    """Read an entry.

    Raises:
        EntryMalformed: It is of no known kind, has other fields, or is not written as `encode_entry` writes it.
    """
    try:
        entry = _ANY.validate_json(body)
    except ValidationError as problem:
        first = problem.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the entry"
        raise EntryMalformed(f"expected a ledger entry, found a mistake in it at {place[:80]}.") from None
    if encode_entry(entry) != body:
        raise EntryMalformed("expected a ledger entry in its one encoding, found the same content written otherwise.")
    return entry
