"""A vertical run, as the operator proposes it and the label holder co-signs it."""

from __future__ import annotations

import json
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from policies.proposal import MAX_PROPOSAL_BYTES, Hex32, MemberId, ProposalRefused


class VerticalProposal(BaseModel):
    """Everything that defines a vertical run before any data is touched.

    Attributes:
        label_holder: Member whose labels are used; it co-signs.
        feature_holders: Members that hold other columns of the same entities, sorted.
        passes: Gradient passes.
        pairs: Pairwise terms per role, 0 for none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["tallystick-vertical-run/1"] = "tallystick-vertical-run/1"
    run_id: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{7,63}$")]
    agreement_hash: Hex32
    task: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
    purpose: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
    label_holder: MemberId
    feature_holders: Annotated[tuple[MemberId, ...], Field(min_length=1, max_length=100)]
    passes: Annotated[int, Field(ge=2, le=7)] = 5
    pairs: Annotated[int, Field(ge=0, le=10)] = 0
    nonce: Hex32

    @model_validator(mode="after")
    def _members_are_different(self) -> Self:
        if list(self.feature_holders) != sorted(set(self.feature_holders) - {self.label_holder}):
            raise ValueError("feature_holders must be sorted, different, and without the label holder")
        if self.pairs and self.passes < 3:
            raise ValueError("pairwise terms need at least 3 passes")
        return self

    @property
    def cohort(self) -> tuple[str, ...]:
        """All members of the run, sorted."""
        return tuple(sorted((self.label_holder, *self.feature_holders)))

    def to_bytes(self) -> bytes:
        """Canonical JSON: sorted keys, no white space, UTF-8."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """Parse canonical bytes from outside.

        Raises:
            ProposalRefused: Too long, not canonical, or a value out of its range.
        """
        if len(raw) > MAX_PROPOSAL_BYTES:
            raise ProposalRefused(f"A run proposal has at most {MAX_PROPOSAL_BYTES} bytes, this one has {len(raw)}.")
        try:
            proposal = cls.model_validate_json(raw)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "proposal"
            raise ProposalRefused(
                f"The vertical run proposal is malformed at {where}: {first['msg']}; ask the operator to propose it"
                " again."
            ) from None
        if proposal.to_bytes() != raw:
            raise ProposalRefused("The vertical run proposal is not in canonical form; ask for it again.")
        return proposal
