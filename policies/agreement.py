"""The agreement: the contract that all members signed, as frozen models that check every rule when built.

`agreement_hash` binds every message of the system; signatures are in `policies.signatures`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from policies.closed_model import (
    HEX_32_BYTES,
    HYPHENATED,
    MEMBER_ID,
    ONE_LINE,
    SNAKE_CASE,
    UPPER_CASE,
    ClosedModel,
    parse_model,
    parse_toml,
    read_bounded,
    shown_path,
)
from policies.errors import AgreementRefused
from protos.sealed_sum.bounds import Bounds
from protos.sealed_sum.errors import BoundsViolated

KEY_PREFIX = "ed25519:"
COORDINATOR = "coordinator"
"""The coordinator's name among the signers; no member may carry it."""
_HINT = "`tallystick agreement new` writes a complete example"

# Points of order 1, 2, 4 or 8 on edwards25519 (RFC 8032): signatures under them can be made by anybody. The
# sign bit is cleared before the comparison.
_SMALL_ORDER_KEYS = frozenset(
    bytes.fromhex(key)
    for key in (
        "00" * 32,
        "01" + "00" * 31,
        "ec" + "ff" * 30 + "7f",
        "ed" + "ff" * 30 + "7f",
        "ee" + "ff" * 30 + "7f",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    )
)

Name = Annotated[str, Field(pattern=SNAKE_CASE)]
"""Feature, column and task names: snake case, since they become columns, file names and keys."""
Slug = Annotated[str, Field(pattern=HYPHENATED)]
"""Roles and purposes: free words of the agreement."""
MemberId = Annotated[str, Field(pattern=MEMBER_ID)]
ReasonCode = Annotated[str, Field(pattern=UPPER_CASE)]
Text = Annotated[str, Field(min_length=1, max_length=200, pattern=ONE_LINE)]


def parse_identity_key(text: str) -> bytes:
    """The 32 raw bytes of `ed25519:<base64>`.

    Raises:
        ValueError: Not of that form, or a key of small order (for which anybody can sign).
    """
    if not text.startswith(KEY_PREFIX):
        raise ValueError(f"expected a key that starts with {KEY_PREFIX!r}; `tallystick node init` prints it")
    try:
        raw = base64.b64decode(text.removeprefix(KEY_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != 32 or format_identity_key(raw) != text:
        raise ValueError(
            "expected 32 bytes in base64 after 'ed25519:', found something else;"
            " copy the key as `tallystick node init` printed it"
        )
    if raw[:31] + bytes([raw[31] & 0x7F]) in _SMALL_ORDER_KEYS:
        raise ValueError("expected a real public key, found a placeholder for which anybody can sign; replace it")
    return raw


def format_identity_key(raw: bytes) -> str:
    """`ed25519:<base64>` of a raw 32-byte Ed25519 public key."""
    return KEY_PREFIX + base64.b64encode(raw).decode("ascii")


class _Identified(ClosedModel):
    identity_key: str

    @field_validator("identity_key")
    @classmethod
    def _key_is_usable(cls, value: str) -> str:
        parse_identity_key(value)
        return value

    @property
    def identity_key_bytes(self) -> bytes:
        """The raw Ed25519 public key, 32 bytes."""
        return parse_identity_key(self.identity_key)


class Member(_Identified):
    """One institution that runs a node."""

    id: MemberId
    role: Slug

    @field_validator("id")
    @classmethod
    def _id_is_not_reserved(cls, value: str) -> str:
        if value == COORDINATOR:
            raise ValueError(f"expected a member id other than {COORDINATOR!r}, found that word; choose another id")
        return value


class CoordinatorTerms(_Identified):
    """Who coordinates: the operator's identity key."""


class Feature(ClosedModel):
    """One column that every member of a role brings, with its public range."""

    role: Slug
    name: Name
    type: Literal["number", "integer"]
    unit: Text
    low: float
    """Smallest value of the contract, in `unit`; public, and the same for every member."""
    high: float
    """Largest value of the contract, in `unit`."""
    monotone: Literal["none", "increasing", "decreasing"]
    """Direction in which the probability of default may move as the value grows."""
    reason_code: ReasonCode
    missing_allowed: bool

    @model_validator(mode="after")
    def _range_is_usable(self) -> Self:
        if not self.low < self.high:
            raise ValueError(
                f"feature {self.name!r}: expected low < high, found low = {self.low:g} and"
                f" high = {self.high:g}; state the public range of the column"
            )
        if self.type == "integer" and not (self.low.is_integer() and self.high.is_integer()):
            raise ValueError(
                f"feature {self.name!r} is of type integer: expected whole numbers for low and high,"
                f" found {self.low:g} and {self.high:g}; round them outwards"
            )
        return self


class Task(ClosedModel):
    """One thing to predict: 1 is bad (a default), within a horizon."""

    name: Name
    label: Name
    label_role: Slug
    horizon_months: Annotated[int, Field(ge=1, le=600)]
    purposes: Annotated[tuple[Slug, ...], Field(min_length=1, max_length=50)]


class ModelTerms(ClosedModel):
    """The form of every tower and the scale of the score points."""

    tower: Literal["additive", "neural"]
    bins: Annotated[int, Field(ge=2, le=256)] = 8
    hidden_units: Annotated[tuple[Annotated[int, Field(ge=1, le=65536)], ...], Field(max_length=8)] = ()
    ridge: Annotated[float, Field(ge=1e-3)]
    smoothness: Annotated[float, Field(ge=0)]
    pdo_points: Annotated[float, Field(gt=0)] = 20.0
    """Score points that double the odds good:bad."""
    base_points: float = 600.0
    base_odds: Annotated[float, Field(gt=0)] = 50.0
    """Odds good:bad at `base_points`."""

    @model_validator(mode="after")
    def _tower_has_its_layers(self) -> Self:
        if (self.tower == "neural") != bool(self.hidden_units):
            expected = "at least one hidden layer" if self.tower == "neural" else "no hidden_units"
            raise ValueError(
                f"a tower of kind {self.tower!r}: expected {expected}, found {list(self.hidden_units)};"
                " change tower or hidden_units"
            )
        return self


class PrivacyTerms(ClosedModel):
    """The floor under every opened sum; PROTOCOLS section 0 for the three numbers of the sealed sum."""

    min_cohort: Annotated[int, Field(ge=3)]
    max_colluders: Annotated[int, Field(ge=0)] = 1
    """c: members that may collude with one another and with the coordinator."""
    min_survivors: Annotated[int, Field(ge=3)]
    """u: the smallest set of members whose sum may be opened, in a cohort of all members."""
    shamir_threshold: Annotated[int, Field(ge=1)]
    """T: shares of a self-mask that rebuild it."""
    min_cell_count: Annotated[int, Field(ge=1)] = 10
    """Rows below which a released table cell is suppressed."""
    min_rows_per_column: Annotated[int, Field(ge=2)] = 50
    """Aligned rows below which a basis column is merged or left out."""
    allow_roster_change: bool = False
    """Whether a run may go on without a member: successive sums then differ by that member's input."""


class ReleaseTerms(ClosedModel):
    """Who gets the opened model: the members alone, or the platform too."""

    policy: Literal["members", "platform"]


class EntityTerms(ClosedModel):
    """How rows are named, and which of them are held out at every node alike."""

    id_column: Name
    holdout_key: Annotated[str, Field(pattern=HEX_32_BYTES)]
    """32 bytes in hexadecimal; known to members, keys the hash that picks the hold-out."""
    holdout_percent: Annotated[int, Field(ge=1, le=90)] = 30

    @property
    def holdout_key_bytes(self) -> bytes:
        """The 32 raw bytes of `holdout_key`."""
        return bytes.fromhex(self.holdout_key)


class Agreement(ClosedModel):
    """Everything the members agreed on; construction refuses what does not hold together."""

    format: Literal["tallystick-agreement/1"]
    name: Text
    coordinator: CoordinatorTerms
    entities: EntityTerms
    members: Annotated[tuple[Member, ...], Field(min_length=3, max_length=1000)]
    features: Annotated[tuple[Feature, ...], Field(min_length=1, max_length=2000)]
    tasks: Annotated[tuple[Task, ...], Field(min_length=1, max_length=50)]
    model: ModelTerms
    privacy: PrivacyTerms
    release: ReleaseTerms

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        _unique("member id", (member.id for member in self.members))
        _unique("identity key", (self.coordinator.identity_key, *(member.identity_key for member in self.members)))
        _unique("feature", (f"{feature.role}.{feature.name}" for feature in self.features))
        _unique("task", (task.name for task in self.tasks))
        roles = {member.role for member in self.members}
        for feature in self.features:
            _known_role(f"feature {feature.name!r}", feature.role, roles)
        for task in self.tasks:
            _known_role(f"task {task.name!r}", task.label_role, roles)
            _unique(f"purpose of task {task.name!r}", task.purposes)
        self._columns_do_not_clash()
        if self.privacy.min_cohort > len(self.members):
            raise ValueError(
                f"privacy.min_cohort: expected at most the {len(self.members)} members, found"
                f" {self.privacy.min_cohort}; lower it or add members"
            )
        self._bounds_hold()
        return self

    def _columns_do_not_clash(self) -> None:
        names = {feature.name for feature in self.features}
        if self.entities.id_column in names:
            raise ValueError(
                f"entities.id_column: expected a column that is no feature, found"
                f" {self.entities.id_column!r}; an identifier must not be a model input"
            )
        for task in self.tasks:
            if task.label in names or task.label == self.entities.id_column:
                raise ValueError(
                    f"task {task.name!r}: expected a label column that is neither a feature nor the id"
                    f" column, found {task.label!r}; a model must not be given its own label"
                )

    def _bounds_hold(self) -> None:
        privacy = self.privacy
        try:
            Bounds(len(self.members), privacy.max_colluders, privacy.min_survivors, privacy.shamir_threshold)
        except BoundsViolated as problem:
            raise ValueError(
                f"privacy: the numbers do not hold together ({_first_clause(problem)});"
                f" {_bounds_advice(len(self.members), privacy.max_colluders)}"
            ) from None

    def bounds(self, cohort_size: int) -> Bounds:
        """The bounds of the sealed sum for a cohort of that many members.

        For all members these are the numbers of the agreement. For a smaller cohort (the members of one role)
        they are derived: at most as many drop-outs as the agreement tolerates, and never fewer survivors than
        the smallest safe set.

        Args:
            cohort_size: n, members in the cohort.

        Raises:
            AgreementRefused: The cohort is smaller than the agreement allows, or larger than the membership.
        """
        privacy, num_members = self.privacy, len(self.members)
        if not privacy.min_cohort <= cohort_size <= num_members:
            raise AgreementRefused(
                f"expected a cohort of {privacy.min_cohort} to {num_members} members (privacy.min_cohort,"
                f" members of the agreement), found {cohort_size}; wait until enough members are there."
            )
        if cohort_size == num_members:
            return Bounds(cohort_size, privacy.max_colluders, privacy.min_survivors, privacy.shamir_threshold)
        try:
            smallest = Bounds.smallest(cohort_size, privacy.max_colluders)
            tolerated = num_members - privacy.min_survivors
            survivors = max(smallest.min_survivors, cohort_size - tolerated)
            return Bounds(cohort_size, privacy.max_colluders, survivors, survivors - 1)
        except BoundsViolated as problem:
            raise AgreementRefused(
                f"a cohort of {cohort_size} cannot resist {privacy.max_colluders} colluding member(s)"
                f" ({_first_clause(problem)}); wait until more members are there."
            ) from None

    def members_of(self, role: str) -> tuple[Member, ...]:
        """The members of a role, in the order of the agreement."""
        return tuple(member for member in self.members if member.role == role)

    def features_of(self, role: str) -> tuple[Feature, ...]:
        """The feature contract of a role, in the order of the agreement."""
        return tuple(feature for feature in self.features if feature.role == role)

    def task(self, name: str) -> Task:
        """The task of that name.

        Raises:
            AgreementRefused: There is none.
        """
        for task in self.tasks:
            if task.name == name:
                return task
        known = ", ".join(task.name for task in self.tasks)
        raise AgreementRefused(f"expected a task of the agreement ({known}), found {name!r}; choose one of them.")

    def member(self, member_id: str) -> Member:
        """The member of that id.

        Raises:
            AgreementRefused: There is none.
        """
        for member in self.members:
            if member.id == member_id:
                return member
        known = ", ".join(member.id for member in self.members[:20])
        raise AgreementRefused(f"expected a member of the agreement ({known}), found {member_id!r}; correct the id.")


def _unique(what: str, values: Iterable[str]) -> None:
    repeated = [value for value, count in Counter(values).items() if count > 1]
    if repeated:
        raise ValueError(f"expected every {what} once, found {repeated[0]!r} more than once; remove the duplicate")


def _known_role(what: str, role: str, roles: set[str]) -> None:
    if role not in roles:
        raise ValueError(
            f"{what}: expected a role that some member has ({', '.join(sorted(roles))}), found {role!r};"
            " correct it or add a member"
        )


def _first_clause(problem: Exception) -> str:
    """What was expected and found, without the advice, which is ours to give."""
    return str(problem).partition(";")[0].rstrip(".")


def _bounds_advice(num_members: int, max_colluders: int) -> str:
    try:
        smallest = Bounds.smallest(num_members, max_colluders)
    except BoundsViolated:
        return "lower max_colluders or add members"
    return (
        f"use min_survivors = {smallest.min_survivors} and shamir_threshold = {smallest.shamir_threshold},"
        " or add members"
    )


def canonical_json(agreement: Agreement) -> bytes:
    """The one encoding that is hashed: keys sorted, no white space, UTF-8; every default written out."""
    return json.dumps(
        agreement.model_dump(mode="json"),
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
        allow_nan=False,
    ).encode("utf-8")


def agreement_hash(agreement: Agreement) -> bytes:
    """SHA-256 of `canonical_json`: comments, white space and order of keys do not matter, all else does."""
    return hashlib.sha256(canonical_json(agreement)).digest()


def load_agreement(path: Path) -> Agreement:
    """Read and check an `agreement.toml`; signatures are checked separately (`policies.signatures`).

    Raises:
        AgreementRefused: One sentence about the first problem.
    """
    return parse_agreement(read_bounded(path, AgreementRefused), path)


def parse_agreement(content: bytes, path: Path) -> Agreement:
    """Check the bytes of an `agreement.toml`.

    Args:
        content: The file, at most `closed_model.MAX_FILE_BYTES` long.
        path: Where it came from, for messages.

    Raises:
        AgreementRefused: One sentence about the first problem.
    """
    return parse_model(
        Agreement, parse_toml(content, path, AgreementRefused), shown_path(path), AgreementRefused, _HINT
    )
