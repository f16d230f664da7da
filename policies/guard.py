"""The guard: the owner's own rules for this node, above everything that the agreement allows.

It fails closed: without a policy file, or with an empty list, nothing is allowed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from policies.agreement import Agreement, Name, Slug
from policies.alignment import feature_holders, members_of_role
from policies.closed_model import ClosedModel, parse_model, parse_toml, read_bounded, shown, shown_path
from policies.errors import GuardRefused
from policies.issuers import Issuers, raw_keys
from policies.proposal import RunProposal
from protos.private_set_intersection.session import Limits

_HINT = "`tallystick node init` writes a complete example"
Method = Literal["newton", "fedavg", "fedprox", "fedadam", "alignment", "vertical"]


class NodePolicy(ClosedModel):
    """`policy.toml` of one node: what its owner lets it take part in. Lists name what is allowed, nothing else is."""

    format: Literal["tallystick-node-policy/1"]
    tasks: tuple[Name, ...]
    purposes: tuple[Slug, ...]
    methods: tuple[Method, ...]
    min_cohort: Annotated[int, Field(ge=3)]
    """Smallest cohort in which this node takes part; the agreement's own floor holds as well."""
    max_rounds: Annotated[int, Field(ge=1)]
    require_sealing: bool = True
    """Whether every sum must be sealed (hidden from the coordinator), not only masked."""
    max_aligned_entities: Annotated[int, Field(ge=1, le=100_000_000)] = 2_000_000
    """Entities of either side of an alignment, at most."""
    max_set_ratio: Annotated[float, Field(ge=1)] = 20.0
    """How many times the smaller set of an alignment the larger one may be: a few entities asked of many would be
    probing."""
    auto_cosign: bool = False
    """Whether this node, as a label holder, co-signs an allowed run without asking its owner."""
    consent: Literal["grants", "source"] = "source"
    """Where it is known which entities consented: `grants` has every row looked up among signed grants (node.toml's
    consent table says where), `source` states that this node's source holds consented entities and no others. A file
    without the field means `source`, which is what it meant before there were grants; new files say `grants`."""
    grant_issuers: Issuers = ()
    """Identity keys (`ed25519:...`) whose grants count as consent."""

    @cached_property
    def issuer_keys(self) -> frozenset[bytes]:
        """The issuers' public keys, 32 bytes each."""
        return raw_keys(self.grant_issuers)


def alignment_limits(policy: NodePolicy) -> Limits:
    """What the owner lets the two sets of an alignment be (rule B9)."""
    return Limits(policy.max_aligned_entities, policy.max_set_ratio)


def load_policy(path: Path) -> NodePolicy:
    """Read a node's policy.

    Raises:
        GuardRefused: There is no such file (no policy, no participation), or it is not acceptable.
    """
    if not path.exists():
        raise GuardRefused(
            f"{shown_path(path)}: expected this node's policy, found nothing; without a policy the node takes part"
            " in nothing: write one (`tallystick node init` makes a template)."
        )
    if path.stat().st_mode & 0o002:
        raise GuardRefused(
            f"{shown_path(path)}: expected a policy that only its owner can change, found one that every user can"
            " write; run chmod o-w on it."
        )
    data = parse_toml(read_bounded(path, GuardRefused), path, GuardRefused)
    return parse_model(NodePolicy, data, shown_path(path), GuardRefused, _HINT)


def check_proposal(
    policy: NodePolicy,
    agreement: Agreement,
    *,
    member: str,
    task: str,
    purpose: str,
    method: str,
    cohort: Sequence[str],
    rounds: int,
    sealed: bool,
) -> None:
    """Return if this node may take part in the proposed run.

    1. The agreement knows the task, the purpose for it, and everybody in the cohort.
    2. The owner's policy allows task, purpose and method.
    3. The cohort is large enough for both, and holds this node.
    4. The number of rounds, and the sealing.

    Args:
        policy: The owner's rules.
        agreement: The agreement that the run names.
        member: This node's id.
        task: Name of the task.
        purpose: What the result may be used for.
        method: Training method.
        cohort: Member ids.
        rounds: Rounds of training, at most.
        sealed: Whether all sums are sealed.

    Raises:
        GuardRefused: The first rule that is not met.
        AgreementRefused: The agreement does not know the task or a member, or the cohort breaks its bounds.
    """
    terms = agreement.task(task)
    _allowed("purpose", purpose, terms.purposes, f"the agreement for task {task!r}")
    for member_id in cohort:
        agreement.member(member_id)
    _allowed("task", task, policy.tasks, "this node's policy")
    _allowed("purpose", purpose, policy.purposes, "this node's policy")
    _allowed("method", method, policy.methods, "this node's policy")
    if len(set(cohort)) != len(cohort) or member not in cohort:
        raise GuardRefused(
            f"expected a cohort that names every member once and this node ({member}) too, found another;"
            " propose the run again."
        )
    if len(cohort) < policy.min_cohort:
        raise GuardRefused(
            f"expected a cohort of at least {policy.min_cohort} (min_cohort of this node's policy), found"
            f" {len(cohort)}; wait for more members, or ask this node's owner."
        )
    agreement.bounds(len(cohort))
    if not 1 <= rounds <= policy.max_rounds:
        raise GuardRefused(
            f"expected 1 to {policy.max_rounds} rounds (max_rounds of this node's policy), found {rounds};"
            " propose fewer, or ask this node's owner."
        )
    if policy.require_sealing and not sealed:
        raise GuardRefused(
            "expected a sealed run (require_sealing of this node's policy), found one without sealing;"
            " propose it with sealing."
        )


def check_vertical(policy: NodePolicy, agreement: Agreement, proposal: RunProposal) -> None:
    """Return if a vertical run shows nobody a single member's numbers; `check_proposal` has passed for each task.

    1. As many label holders as hide each other: one, or c + 2 (rule B6); as many members a role: one, or c + 2 (A9).
    2. As many feature holders as hide each other from a label holder, unless the agreement shows it (B5).
    3. No more passes than the owner allows rounds.

    Args:
        policy: The owner's rules.
        agreement: The agreement that the run names.
        proposal: The run.

    Raises:
        GuardRefused: The first rule that is not met.
    """
    privacy = agreement.privacy
    least = privacy.max_colluders + 2
    if agreement.release.policy != "members":
        raise GuardRefused(
            'expected release policy "members" in the agreement of a vertical run, whose towers stay with their roles, '
            f"found {agreement.release.policy!r}; change the agreement, or train horizontally."
        )
    for task in proposal.tasks:
        label_role = agreement.task(task).label_role
        holders = feature_holders(agreement, proposal, task)
        if not agreement.features_of(label_role) or not holders:
            raise GuardRefused(
                f"expected features at the label's role ({label_role}) and members of another role beside it, found "
                f"none for task {task!r}; propose another cohort, or train horizontally."
            )
        for role in sorted({label_role, *(agreement.member(member).role for member in holders)}):
            count = len(members_of_role(agreement, proposal, role))
            if count == 0 or 1 < count < least:
                raise GuardRefused(
                    f"expected one member of role {role!r}, or at least {least} (max_colluders + 2), found {count}; "
                    "with so few each would read the others' part of the role's sums: propose the run without them, "
                    "or with more."
                )
        needed = max(privacy.max_colluders, 1) + 1  # one colluder is the label holder itself
        if len(holders) < needed and not privacy.partial_scores_visible_to_label_holder:
            raise GuardRefused(
                f"expected at least {needed} feature holders for task {task!r}, so that a label holder sees sums "
                f"alone, found {len(holders)}; add members, or set partial_scores_visible_to_label_holder in the "
                "agreement."
            )
    if proposal.settings.passes > policy.max_rounds:
        raise GuardRefused(
            f"expected at most {policy.max_rounds} passes (max_rounds of this node's policy), found"
            f" {proposal.settings.passes}; propose fewer."
        )


def _allowed(what: str, found: str, allowed: Sequence[str], whose: str) -> None:
    if found not in allowed:
        listed = ", ".join(allowed) or "none"
        raise GuardRefused(
            f"expected a {what} that {whose} allows ({listed}), found {shown(found)};"
            " propose another, or ask the owner to add it."
        )
