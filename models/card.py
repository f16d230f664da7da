"""The model card: a run's own evidence, checked, with what it leaks; JSON that is checked again when it is read.

Nothing on a card is typed by hand. `RunEvidence` comes from the agreement, the run's record and the table that the
members signed; `build_card` adds the lines of `policies.leakage` that apply. models/card_html.py makes the page.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, ValidationError, field_validator, model_validator

from policies.errors import UserError
from policies.leakage import RunFacts, leaks_for
from policies.release import (
    Count,
    Figure,
    Hex32,
    MemberId,
    Name,
    Rate,
    ReleasedTable,
    ReleaseModel,
    first_problem,
)

CARD_FORMAT: Literal["tallystick-card/1"] = "tallystick-card/1"
CARD_FILE = "card.json"
MAX_CARD_BYTES = 16 * 1024 * 1024

Signature = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]{86}==$")]
Text = Annotated[str, StringConstraints(max_length=2_000)]


class CardRefused(UserError):
    """A file that is no model card, or one whose parts contradict each other."""


class MemberLine(ReleaseModel):
    """A member of the cohort."""

    id: MemberId
    role: Name


class KeyEpoch(ReleaseModel):
    """One key epoch of the run: which keys were in force, and how they ended."""

    number: Annotated[int, Field(ge=1)]
    epoch_id: Hex32
    members: Annotated[int, Field(ge=1)]
    ended: Text = "keys deleted when the run ended"


class ComparisonRow(ReleaseModel):
    """One line of the alone / federated / pooled table; exists only where an auditor saw all rows (demo, benchmark).

    `auc_low` and `auc_high`: 95 % paired bootstrap interval.
    """

    model: Name
    auc: Rate
    ks: Rate
    brier: Rate
    auc_low: Rate | None = None
    auc_high: Rate | None = None


class RunEvidence(ReleaseModel):
    """What a run can prove about itself.

    Attributes:
        run_id: The run.
        story: "horizontal" or "vertical".
        task: Task of the agreement.
        purpose: Purpose of the agreement under which the data was used.
        label: Column that defines a default.
        horizon_months: Months over which the default is observed.
        method: For example "newton".
        settings: Hyper-parameters of the signed proposal.
        created_at: ISO 8601 with an offset; passed in, because nothing here reads a clock.
        agreement_name: Name of the agreement.
        agreement_hash: SHA-256 of its canonical form.
        proposal_hash: SHA-256 of the signed proposal.
        members: The cohort with roles.
        max_colluders: c.
        min_survivors: u.
        shamir_threshold: T.
        allow_roster_change: The agreement's flag (rule A7 iii).
        release_policy: "members" or "platform".
        key_epochs: In order.
        table: What the members released.
        signatures: Member to base64 Ed25519 signature under the table.
        keyed_hash: Of a model that its members keep: their HMAC of it, hex (rule A4).
        reason_codes: The agreement's catalogue.
        label_role: Role that holds the label, of a vertical run; empty otherwise.
        feature_holders: Members that hold columns beside the label holders, in a vertical run.
        min_cell_count: Cells of the released table below it were suppressed or merged.
        pdo_points: Points that double the odds.
        base_points: Points at `base_odds`.
        base_odds: Good:bad odds at `base_points`.
        comparison: Auditor's rows, if any.
        versions: Program to version.
    """

    run_id: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
    story: Literal["horizontal", "vertical"] = "horizontal"
    task: Name
    purpose: Name
    label: Name
    horizon_months: Annotated[int, Field(ge=1, le=600)]
    method: Name
    settings: dict[Name, bool | int | Figure | Text | None] = Field(default_factory=dict)
    created_at: Name
    agreement_name: Text
    agreement_hash: Hex32
    proposal_hash: Hex32
    members: Annotated[tuple[MemberLine, ...], Field(min_length=1, max_length=1024)]
    max_colluders: Count
    min_survivors: Annotated[int, Field(ge=1)]
    shamir_threshold: Annotated[int, Field(ge=1)]
    allow_roster_change: bool = False
    release_policy: Literal["members", "platform"]
    key_epochs: Annotated[tuple[KeyEpoch, ...], Field(min_length=1, max_length=1000)]
    table: ReleasedTable
    signatures: Annotated[dict[MemberId, Signature], Field(min_length=1)]
    keyed_hash: Hex32 | None = None
    reason_codes: Annotated[tuple[Name, ...], Field(max_length=2000)] = ()
    label_role: Annotated[str, StringConstraints(max_length=120)] = ""
    feature_holders: Count = 0
    min_cell_count: Annotated[int, Field(ge=1)] = 10
    pdo_points: Annotated[float, Field(gt=0)] = 20.0
    base_points: Figure = 600.0
    base_odds: Annotated[float, Field(gt=0)] = 50.0
    comparison: Annotated[tuple[ComparisonRow, ...], Field(max_length=1026)] = ()
    versions: dict[Name, Name] = Field(default_factory=dict)

    @field_validator("created_at")
    @classmethod
    def _is_a_time_with_an_offset(cls, value: str) -> str:
        if datetime.fromisoformat(value).tzinfo is None:
            raise ValueError("must state its offset from UTC, for example 2026-01-31T12:00:00+00:00")
        return value

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        for what, card, table in (
            ("run id", self.run_id, self.table.run_id),
            ("task", self.task, self.table.task),
            ("method", self.method, self.table.method),
            ("agreement hash", self.agreement_hash, self.table.agreement_hash),
            ("cohort", sorted(m.id for m in self.members), list(self.table.cohort)),
        ):
            if card != table:
                raise ValueError(f"the {what} of the card and of the signed table differ")
        if self.table.epoch_id not in {epoch.epoch_id for epoch in self.key_epochs}:
            raise ValueError("the signed table is of a key epoch that the card does not list")
        if not set(self.signatures) <= set(self.table.cohort):
            raise ValueError("a signature is by somebody outside the cohort")
        if self.release_policy == "members" and self.table.model_digest is not None:
            raise ValueError("a model that its members keep may not show an unkeyed hash")
        return self

    @property
    def dropped(self) -> bool:
        """Whether any opened sum was without some member."""
        return any(record.dropped for record in self.table.sums)

    def members_by_role(self) -> dict[str, tuple[str, ...]]:
        """Role to sorted member ids."""
        roles = sorted({member.role for member in self.members})
        return {role: tuple(sorted(m.id for m in self.members if m.role == role)) for role in roles}

    def facts(self) -> RunFacts:
        """The facts that decide what this run leaks."""
        rosters = {
            kind: {record.survivors for record in self.table.sums if record.input_class == kind}
            for kind in ("static", "step")
        }
        return RunFacts(
            story=self.story,
            cohort=len(self.members),
            max_colluders=self.max_colluders,
            min_survivors=self.min_survivors,
            dropped=self.dropped,
            roster_changed=any(len(survivors) > 1 for survivors in rosters.values()),
            allow_roster_change=self.allow_roster_change,
            release_policy=self.release_policy,
            evaluated=self.table.quality is not None,
            binned=any(record.purpose == "bins" for record in self.table.sums),
            shapes_released=bool(self.table.features),
            role_sizes={role: len(ids) for role, ids in self.members_by_role().items()},
            bilateral=self.story == "vertical" and self.feature_holders == 1,
        )


class LeakLine(ReleaseModel):
    """One line of policies/leakage.py, with this run's numbers."""

    id: Name
    who: Name
    what: Text
    adversary: Text
    protocol: Name


class ModelCard(ReleaseModel):
    """A run's evidence and what it leaks."""

    format: Literal["tallystick-card/1"] = CARD_FORMAT
    evidence: RunEvidence
    leaks: Annotated[tuple[LeakLine, ...], Field(min_length=1, max_length=200)]

    def to_json(self) -> bytes:
        """Indented JSON, sorted keys, final line break: readable, and equal for equal cards."""
        document = self.model_dump(mode="json")
        return (json.dumps(document, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()

    def digest(self) -> str:
        """SHA-256 of the JSON, hex: what a ledger entry names."""
        return hashlib.sha256(self.to_json()).hexdigest()

    def hashes(self) -> list[tuple[str, str]]:
        """(what, hex) of everything a ledger entry about this run would bind."""
        evidence = self.evidence
        lines = [
            ("agreement", evidence.agreement_hash),
            ("run proposal", evidence.proposal_hash),
            *((f"key epoch {epoch.number}", epoch.epoch_id) for epoch in evidence.key_epochs),
            ("released table", evidence.table.digest().hex()),
        ]
        if evidence.table.model_digest is not None:
            lines.append(("model", evidence.table.model_digest))
        if evidence.keyed_hash is not None:
            lines.append(("model, keyed by the members", evidence.keyed_hash))
        lines.append(("this card", self.digest()))
        return lines


def build_card(evidence: RunEvidence) -> ModelCard:
    """Add what the run leaks to its evidence."""
    facts = evidence.facts()
    return ModelCard(
        evidence=evidence,
        leaks=tuple(
            LeakLine(
                id=leak.id,
                who=leak.who,
                what=leak.sentence(facts),
                adversary=leak.adversary_in(facts),
                protocol=leak.protocol,
            )
            for leak in leaks_for(facts)
        ),
    )


def load_card(source: Path | bytes) -> ModelCard:
    """Read a card, from a run's folder, from its JSON file, or from bytes.

    Args:
        source: A folder that holds card.json, such a file, or the JSON itself.

    Raises:
        CardRefused: Not there, too large, not JSON of this form, or its parts contradict each other.
    """
    if isinstance(source, bytes):
        return _parse(source, "the model card")
    path = source / CARD_FILE if source.is_dir() else source
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CARD_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a valid path"
        raise CardRefused(
            f"Expected a model card at {path}, found none ({reason}); "
            f"give the folder of a finished run, or the {CARD_FILE} in it."
        ) from None
    return _parse(data, str(path))


def suppressed_cells(table: ReleasedTable) -> int:
    """How many cells of the released tables carry no count because they were below the minimum."""
    return sum(b.rows is None for b in table.calibration) + sum(
        cell is None for b in table.histogram for cell in (b.goods, b.bads)
    )


def by_information(table: ReleasedTable) -> Sequence[str]:
    """Feature names, the most informative first; those without an information value last."""
    ordered = sorted(
        table.features, key=lambda f: (f.information_value is None, -(f.information_value or 0.0), f.feature)
    )
    return [f.feature for f in ordered]


def _parse(data: bytes, where: str) -> ModelCard:
    if len(data) > MAX_CARD_BYTES:
        raise CardRefused(
            f"{where}: expected a model card of at most {MAX_CARD_BYTES} bytes, found more; is this the right file?"
        )
    try:
        return ModelCard.model_validate_json(data)
    except ValidationError as error:
        raise CardRefused(
            f"{where}: expected a model card ({CARD_FORMAT}), found a problem: {first_problem(error)}; "
            "make the card again from its run."
        ) from None
