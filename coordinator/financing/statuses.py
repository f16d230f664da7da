"""Where a decision may stand, and which steps lead from where to where: a closed set.

`coordinator/financing/README.md` has it as a table; `require_step` keeps every use case to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, get_args

from coordinator.decisions.errors import StatusConflict

Status = Literal[
    "approved",
    "referred",
    "declined",
    "offered",
    "expired",
    "disbursed",
    "warned",
    "frozen",
    "repaid",
]
STATUSES: Final[tuple[str, ...]] = get_args(Status)

STEPS: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {
        "referred": frozenset({"approved", "declined"}),
        "offered": frozenset({"approved", "expired"}),
        # To itself: another instalment, another payment, another signal.
        "approved": frozenset({"approved", "disbursed", "warned", "frozen", "repaid"}),
        "disbursed": frozenset({"disbursed", "warned", "frozen", "repaid"}),
        "warned": frozenset({"warned", "frozen", "repaid"}),
        "frozen": frozenset({"frozen", "approved", "disbursed", "repaid"}),
        "declined": frozenset(),
        "expired": frozenset(),
        "repaid": frozenset(),
    }
)

MONEY_MAY_BE_OUT: Final = frozenset({"approved", "disbursed", "warned", "frozen"})
"""Statuses with a facility that is open."""


def step_allowed(before: str, after: str) -> bool:
    """Whether a decision may go from one status to the other."""
    return after in STEPS[before]


def require_step(decision_id: str, before: str, after: str) -> None:
    """Return if the step is allowed.

    Raises:
        StatusConflict: It is not.
    """
    if not step_allowed(before, after):
        leading = [status for status in STATUSES if after in STEPS[status]]
        raise StatusConflict(decision_id, expected=" or ".join(leading), found=before)
