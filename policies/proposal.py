"""A run, as the operator proposes it, a label holder co-signs it and every node's guard judges it.

The canonical bytes of the proposal enter every sum's header (rule A3), so two members that were shown
different hyper-parameters derive different masks, and their contributions do not add up to anything.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Literal, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from policies.errors import UserError

MAX_PROPOSAL_BYTES = 64 * 1024
MemberId = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]{1,30}$")]
TaskName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
Hex32 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
ACROSS_ROLES = frozenset({"alignment", "vertical"})
"""Methods whose cohort brings members without the label too."""
_OPERATOR_DOMAIN = b"tallystick/v1/run/operator"
_COSIGNER_DOMAIN = b"tallystick/v1/run/cosigner"
_END_DOMAIN = b"tallystick/v1/run/end"


class ProposalRefused(UserError):
    """A proposal that is malformed, unsigned, or signed by somebody else."""


class MethodSettings(BaseModel):
    """Hyper-parameters of a run; units and ranges in the names and bounds.

    The defaults are those of the demo: damped Newton on the additive tower.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Literal["newton", "fedavg", "fedprox", "fedadam", "alignment", "vertical"] = "newton"
    """`alignment` trains nothing: members of several roles find the entities that they have in common. `vertical` does
    the same and then trains on them: the label at one role, columns at all of them."""
    rounds: Annotated[int, Field(ge=1, le=1000)] = 12
    """Training rounds; `newton` takes it as an upper limit and stops where it has converged."""
    local_epochs: Annotated[int, Field(ge=1, le=100)] = 1
    batch_size: Annotated[int, Field(ge=1, le=1_048_576)] = 1024
    optimiser: Literal["adam", "sgd"] = "adam"
    learning_rate: Annotated[float, Field(gt=0, le=100)] = 0.02
    proximal_mu: Annotated[float, Field(ge=0, le=1000)] = 0.01
    server_learning_rate: Annotated[float, Field(gt=0, le=100)] = 0.05
    clip: Annotated[float, Field(gt=0, le=1000)] = 0.5
    """Largest change of one coordinate in one round (L-infinity)."""
    target_parameters: Annotated[int, Field(ge=0, le=50_000_000)] = 0
    """For neural towers: choose hidden layers of about this many parameters; 0 keeps the agreement's layers."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    passes: Annotated[int, Field(ge=2, le=7)] = 4
    """Gradient passes of a vertical run; each shows the label holders one noisy sum a row (rule B5)."""
    pairs: Annotated[int, Field(ge=0, le=10)] = 0
    """Pairwise terms within each role of a vertical run, at most."""

    @model_validator(mode="after")
    def _pairs_need_a_pass_of_their_own(self) -> Self:
        if self.pairs and self.passes < 3:
            raise ValueError("pairwise terms need at least 3 passes")
        return self


class RunProposal(BaseModel):
    """Everything that defines a run before any data is touched."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal["tallystick-run/1"] = "tallystick-run/1"
    run_id: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{7,63}$")]
    agreement_hash: Hex32
    task: TaskName
    further_tasks: Annotated[tuple[TaskName, ...], Field(max_length=8)] = ()
    """More tasks of a vertical run, trained one after the other on one alignment."""
    purpose: Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
    cohort: Annotated[tuple[MemberId, ...], Field(min_length=1, max_length=1024)]
    settings: MethodSettings
    nonce: Hex32

    @model_validator(mode="after")
    def _cohort_is_a_sorted_set(self) -> Self:
        if list(self.cohort) != sorted(set(self.cohort)):
            raise ValueError("cohort must be sorted and hold every member once")
        return self

    @model_validator(mode="after")
    def _tasks_are_different(self) -> Self:
        if len(set(self.tasks)) != len(self.tasks):
            raise ValueError("every task of a run must be named once")
        if self.further_tasks and self.settings.method != "vertical":
            raise ValueError("only a vertical run has further tasks")
        return self

    @property
    def tasks(self) -> tuple[str, ...]:
        """All tasks of the run, in order."""
        return (self.task, *self.further_tasks)

    @property
    def across_roles(self) -> bool:
        """Whether members of other roles than the label's take part."""
        return self.settings.method in ACROSS_ROLES

    def to_bytes(self) -> bytes:
        """Canonical JSON: sorted keys, no white space, UTF-8."""
        return json.dumps(
            self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False
        ).encode()

    def digest(self) -> bytes:
        """SHA-256 of the canonical bytes: `parameters_digest` of every sum of the run."""
        return hashlib.sha256(self.to_bytes()).digest()

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """Parse canonical bytes from outside.

        Raises:
            ProposalRefused: Too long, not canonical JSON, or a value out of its range.
        """
        if len(raw) > MAX_PROPOSAL_BYTES:
            raise ProposalRefused(
                f"A run proposal has at most {MAX_PROPOSAL_BYTES} bytes, this one has {len(raw)}; "
                "ask the operator to propose the run again."
            )
        try:
            proposal = cls.model_validate_json(raw)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "proposal"
            raise ProposalRefused(
                f"The run proposal is malformed at {where}: {first['msg']}; ask the operator to propose it again."
            ) from None
        if proposal.to_bytes() != raw:
            raise ProposalRefused("The run proposal is not in canonical form; ask the operator to propose it again.")
        return proposal


def sign_as_operator(proposal: bytes, key: Ed25519PrivateKey) -> bytes:
    """The operator's signature over a proposal's canonical bytes (RFC 8032)."""
    return key.sign(_OPERATOR_DOMAIN + proposal)


def sign_as_cosigner(proposal: bytes, key: Ed25519PrivateKey) -> bytes:
    """A label holder's signature: it wants this run on its labels."""
    return key.sign(_COSIGNER_DOMAIN + proposal)


def sign_end(run_id: str, reason: str, key: Ed25519PrivateKey) -> bytes:
    """The operator's signature under the end of a run."""
    return key.sign(_END_DOMAIN + json.dumps([run_id, reason]).encode())


def verify_operator(proposal: bytes, signature: bytes, public_key: bytes) -> None:
    """Raise ProposalRefused unless the coordinator's identity key signed the proposal."""
    _verify(public_key, signature, _OPERATOR_DOMAIN + proposal, "the operator named in the agreement")


def verify_cosigner(proposal: bytes, signature: bytes, public_key: bytes, member: str) -> None:
    """Raise ProposalRefused unless `member` co-signed the proposal."""
    _verify(public_key, signature, _COSIGNER_DOMAIN + proposal, f"label holder {member}")


def verify_end(run_id: str, reason: str, signature: bytes, public_key: bytes) -> None:
    """Raise ProposalRefused unless the operator signed the end of the run."""
    _verify(public_key, signature, _END_DOMAIN + json.dumps([run_id, reason]).encode(), "the operator")


def _verify(public_key: bytes, signature: bytes, message: bytes, signer: str) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except InvalidSignature:
        raise ProposalRefused(
            f"Expected a signature by {signer} under this run, found one that does not verify; "
            "the run is refused, ask the operator to propose it again."
        ) from None
