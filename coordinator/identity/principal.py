"""Who calls, in which role, and what that role may do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, get_args

Role = Literal["platform", "bank", "regulator", "operator"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)

SCOPES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "decisions:write": "take decisions and pay out under them",
        "decisions:read": "read decisions, reviews and proofs",
        "scores:write": "score applicants",
        "events:write": "report events",
        "offers:read": "read offers",
        "offers:write": "accept offers",
        "reviews:write": "give verdicts in two-person reviews",
        "ledger:read": "read checkpoints of the ledger",
    }
)
SCOPES_OF: Final[Mapping[Role, frozenset[str]]] = MappingProxyType(
    {
        "platform": frozenset(SCOPES) - {"reviews:write"},
        "bank": frozenset({"decisions:read", "offers:read", "reviews:write", "ledger:read"}),
        "regulator": frozenset({"decisions:read", "offers:read", "ledger:read"}),
        "operator": frozenset({"ledger:read"}),
    }
)
"""A regulator reads across tenants; everybody else sees its own tenant's records, an operator none."""


@dataclass(frozen=True)
class Principal:
    """A caller whose token was checked.

    Attributes:
        client_id: Who; stands as the actor in the ledger's records.
        tenant: Whose records it works with.
        role: As the clients file says now, whatever the token said when it was made.
        scopes: What this token may do.
    """

    client_id: str
    tenant: str
    role: Role
    scopes: frozenset[str]
