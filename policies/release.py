"""What leaves the members of a run, in one canonical form, and their signatures under it.

Nodes open sums; nothing of it is public until the members sign it. A `ReleasedTable` holds cohort-level
figures alone: no field of it speaks of one member except its weight bucket, which is public by rule A7.
Every figure is rounded to nine significant digits on construction, so that the last bit of a floating-point
sum on another CPU does not look like a disagreement (rule A3 treats parameters the same way).

Signatures are Ed25519 (RFC 8032) over domain | SHA-256 of the canonical bytes, and the bytes state
agreement, key epoch and run: a signature cannot be carried to another run, nor be taken for one under
another kind of message.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from policies.errors import UserError

MAX_RELEASE_BYTES = 4 * 1024 * 1024
_TABLE_DOMAIN = b"tallystick/v1/release/table"
_ARTEFACT_DOMAIN = b"tallystick/v1/release/artefact"
_PROGRESS_DOMAIN = b"tallystick/v1/release/progress"
_SIGNIFICANT_DIGITS = 9


class ReleaseRefused(UserError):
    """A released table that is malformed, unsigned, or not signed by the member it came from."""


def _rounded(value: float) -> float:
    # + 0.0 turns -0.0 into 0.0, which canonical JSON would write differently.
    return float(f"{value:.{_SIGNIFICANT_DIGITS}g}") + 0.0


Figure = Annotated[float, Field(allow_inf_nan=False), AfterValidator(_rounded)]
Rate = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), AfterValidator(_rounded)]
Count = Annotated[int, Field(ge=0)]
Hex32 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
MemberId = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{1,30}$")]
Name = Annotated[str, StringConstraints(min_length=1, max_length=120)]


class ReleaseModel(BaseModel):
    """Frozen, closed, finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Quality(ReleaseModel):
    """How well the model ranks and predicts on the cohort's hold-out.

    `ks` = max |F_bad - F_good|, `gini` = 2 auc - 1, `brier` = mean squared error of the PD. `rows` and
    `bads` are sums over the cohort; None where the minimum cell count suppressed them.
    """

    auc: Rate
    ks: Rate
    gini: Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False), AfterValidator(_rounded)]
    brier: Rate
    rows: Count | None = None
    bads: Count | None = None


class CalibrationBin(ReleaseModel):
    """Predicted against observed in one public PD range; None = suppressed (rule D2)."""

    pd_low: Rate
    pd_high: Rate
    mean_pd: Rate | None = None
    observed_rate: Rate | None = None
    rows: Count | None = None


class RocPoint(ReleaseModel):
    """One point of the ROC curve, at an edge of a coarse public bin."""

    false_positive_rate: Rate
    true_positive_rate: Rate


class HistogramBin(ReleaseModel):
    """Goods and bads in one coarse public PD range; None = suppressed (rule D2)."""

    pd_low: Rate
    pd_high: Rate
    goods: Count | None = None
    bads: Count | None = None


class ShapeBin(ReleaseModel):
    """One bin of a feature in the scorecard.

    Attributes:
        label: How the bin reads in a table, for example "18 to 27".
        low: Lower edge in the feature's unit; None = open or missing.
        high: Upper edge; None = open or missing.
        missing: The bin of rows without a value.
        log_odds: Contribution to the log-odds of default (bad), centred on the training population; None for a
            tower whose features do not add up (neural).
        points: The same as score points; more is better.
        woe: ln(%good / %bad) of the bin; None = suppressed or not computed.
        share: Share of the training rows in the bin; None = suppressed.
    """

    label: Name
    low: Figure | None = None
    high: Figure | None = None
    missing: bool = False
    log_odds: Figure | None = None
    points: Figure | None = None
    woe: Figure | None = None
    share: Rate | None = None


class FeatureShape(ReleaseModel):
    """What the model makes of one feature; `information_value` in nats."""

    feature: Name
    role: Name
    unit: Annotated[str, StringConstraints(max_length=200)] = ""
    information_value: Annotated[float, Field(ge=0), AfterValidator(_rounded)] | None = None
    bins: Annotated[tuple[ShapeBin, ...], Field(min_length=1, max_length=1000)]


class RoundFigures(ReleaseModel):
    """Cohort-level figures of one training round, computed from opened sum `k`."""

    number: Annotated[int, Field(ge=1)]
    k: Annotated[int, Field(ge=0)]
    loss: Figure | None = None
    figures: dict[Name, Figure] = Field(default_factory=dict)


class OpenedSumRecord(ReleaseModel):
    """One opened sum: who contributed (rule A7 iv), and the chain value that binds its result (rule A3)."""

    k: Annotated[int, Field(ge=0)]
    purpose: Name
    input_class: Literal["static", "step"]
    survivors: Annotated[tuple[MemberId, ...], Field(min_length=1, max_length=1024)]
    dropped: Annotated[tuple[MemberId, ...], Field(max_length=1024)] = ()
    chain: Hex32

    @model_validator(mode="after")
    def _members_are_sorted_and_apart(self) -> Self:
        for name, members in (("survivors", self.survivors), ("dropped", self.dropped)):
            if list(members) != sorted(set(members)):
                raise ValueError(f"{name} of sum {self.k} must be sorted and hold every member once")
        both = set(self.survivors) & set(self.dropped)
        if both:
            raise ValueError(f"sum {self.k} names {', '.join(sorted(both))} both as survivor and as dropped")
        return self


class ReleasedTable(ReleaseModel):
    """Everything that the members of one run publish; each signs the same bytes.

    `model_digest` stays None under release policy "members": an unkeyed hash of a model that is not public
    would let its reader test guesses (rule A4).
    """

    format: Literal["tallystick-release/1"] = "tallystick-release/1"
    agreement_hash: Hex32
    epoch_id: Hex32
    run_id: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
    task: Name
    method: Name
    model_digest: Hex32 | None = None
    cohort: Annotated[tuple[MemberId, ...], Field(min_length=1, max_length=1024)]
    weights_log2: dict[MemberId, Annotated[int, Field(ge=0, le=63)]] = Field(default_factory=dict)
    sums: Annotated[tuple[OpenedSumRecord, ...], Field(max_length=10_000)] = ()
    rounds: Annotated[tuple[RoundFigures, ...], Field(max_length=10_000)] = ()
    quality: Quality | None = None
    calibration: Annotated[tuple[CalibrationBin, ...], Field(max_length=100)] = ()
    roc: Annotated[tuple[RocPoint, ...], Field(max_length=2_001)] = ()
    histogram: Annotated[tuple[HistogramBin, ...], Field(max_length=100)] = ()
    features: Annotated[tuple[FeatureShape, ...], Field(max_length=1_000)] = ()
    federated_version: Hex32 | None = None
    """Version of a model that no party holds as a whole, made of its towers' keyed hashes; None of others."""
    bias_log_odds: Figure | None = None
    """What such a model's towers are added to."""

    @model_validator(mode="after")
    def _speaks_of_its_cohort_only(self) -> Self:
        cohort = set(self.cohort)
        if list(self.cohort) != sorted(cohort):
            raise ValueError("cohort must be sorted and hold every member once")
        named = set(self.weights_log2).union(*(set(s.survivors) | set(s.dropped) for s in self.sums))
        if named - cohort:
            raise ValueError(f"{', '.join(sorted(named - cohort))} is named but not in the cohort")
        numbers = [record.k for record in self.sums]
        if numbers != sorted(set(numbers)):
            raise ValueError("sums must be in ascending order of k, each once")
        return self

    def canonical(self) -> bytes:
        """Canonical JSON: sorted keys, no white space, UTF-8; what is hashed and signed."""
        return json.dumps(
            self.model_dump(mode="json"),
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=False,
            allow_nan=False,
        ).encode()

    def digest(self) -> bytes:
        """SHA-256 of the canonical bytes."""
        return hashlib.sha256(self.canonical()).digest()

    @classmethod
    def from_canonical(cls, released: bytes) -> Self:
        """Parse what a member sent.

        Args:
            released: Canonical JSON, at most `MAX_RELEASE_BYTES`.

        Raises:
            ReleaseRefused: Too long, not JSON of this form, a value out of range, or not canonical.
        """
        if len(released) > MAX_RELEASE_BYTES:
            raise ReleaseRefused(
                f"A released table has at most {MAX_RELEASE_BYTES} bytes, this one has {len(released)}; "
                "the member that sent it must be updated or left out."
            )
        try:
            table = cls.model_validate_json(released)
        except ValidationError as error:
            raise ReleaseRefused(f"The released table is malformed: {first_problem(error)}.") from None
        if table.canonical() != released:
            raise ReleaseRefused("The released table is not in canonical form; its signature binds nothing.")
        return table


def first_problem(error: ValidationError) -> str:
    """Where and what, in words, without the offending value (which may be anything)."""
    details = error.errors(include_input=False, include_url=False)
    where = ".".join(str(part) for part in details[0]["loc"])[:200]
    reason = re.sub(r"\s+", " ", details[0]["msg"]).removeprefix("Value error, ").rstrip(".")
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    text = f"{where}: {reason}{more}" if where else f"{reason}{more}"
    return "".join(c if c.isprintable() else "?" for c in text)[:400]


@dataclass(frozen=True)
class SignedRelease:
    """A released table as it travels: the canonical bytes, and one member's Ed25519 signature under them."""

    released: bytes
    signature: bytes


def sign_release(table: ReleasedTable, identity: Ed25519PrivateKey) -> SignedRelease:
    """Sign a table with a member's identity key (at the node, after suppression, before it leaves)."""
    released = table.canonical()
    return SignedRelease(released, identity.sign(_TABLE_DOMAIN + hashlib.sha256(released).digest()))


def verify_release(signed: SignedRelease, member: str, identity_key: bytes) -> ReleasedTable:
    """Check one member's signature and parse the table under it.

    Args:
        signed: What the member sent.
        member: Its id, for the message.
        identity_key: Its Ed25519 public key in the agreement, 32 bytes.

    Raises:
        ReleaseRefused: The signature does not verify, or the table is malformed.
    """
    message = _TABLE_DOMAIN + hashlib.sha256(signed.released).digest()
    _verify(identity_key, signed.signature, message, f"a released table signed by {member}")
    return ReleasedTable.from_canonical(signed.released)


def sign_artefact(run_id: str, artefact: bytes, identity: Ed25519PrivateKey) -> bytes:
    """A member's signature under the opened model of a run (release policy "platform" alone)."""
    return identity.sign(_artefact_message(run_id, artefact))


def verify_artefact(run_id: str, artefact: bytes, signature: bytes, member: str, identity_key: bytes) -> None:
    """Raise ReleaseRefused unless `member` signed this model for this run."""
    _verify(identity_key, signature, _artefact_message(run_id, artefact), f"a model signed by {member}")


def sign_progress(run_id: str, k: int, progress: bytes, identity: Ed25519PrivateKey) -> bytes:
    """A member's signature under the released statistics of opened sum `k`."""
    return identity.sign(_progress_message(run_id, k, progress))


def verify_progress(run_id: str, k: int, progress: bytes, signature: bytes, member: str, identity_key: bytes) -> None:
    """Raise ReleaseRefused unless `member` signed these statistics for sum `k` of this run."""
    _verify(identity_key, signature, _progress_message(run_id, k, progress), f"statistics signed by {member}")


def _artefact_message(run_id: str, artefact: bytes) -> bytes:
    return _ARTEFACT_DOMAIN + json.dumps([run_id, hashlib.sha256(artefact).hexdigest()]).encode()


def _progress_message(run_id: str, k: int, progress: bytes) -> bytes:
    return _PROGRESS_DOMAIN + json.dumps([run_id, k, hashlib.sha256(progress).hexdigest()]).encode()


def _verify(identity_key: bytes, signature: bytes, message: bytes, expected: str) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(identity_key).verify(signature, message)
    except (InvalidSignature, ValueError):  # ValueError: a key of the wrong length
        raise ReleaseRefused(
            f"Expected {expected}, found a signature that does not verify under its key in the agreement; "
            "it is not accepted."
        ) from None
