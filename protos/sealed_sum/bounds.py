"""The numbers under which no survivor sets, however inconsistent, open fewer than two honest members."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Self

from protos.sealed_sum.errors import BoundsViolated, CohortRefused
from protos.sealed_sum.parameters import MAX_COHORT

MIN_COHORT = 3


@dataclass(frozen=True)
class Bounds:
    """Cohort n, colluders c, smallest survivor set u, Shamir threshold T; only sound ones can exist.

    With T + u >= n + c + 1, every set that opens has at least T + u - n - c + 1 honest members, even if the
    coordinator names different survivors to every node (rule A2; tests/adversarial searches it exhaustively).

    Attributes:
        cohort: Members of the epoch, n.
        max_colluders: Members that may collude with each other and the coordinator, c.
        min_survivors: Smallest survivor set a node answers for, u.
        shamir_threshold: Shares that rebuild a self-mask seed, T; shares go to peers only.

    Raises:
        BoundsViolated: One of the inequalities of PROTOCOLS section 0 does not hold.
    """

    cohort: int
    max_colluders: int
    min_survivors: int
    shamir_threshold: int

    def __post_init__(self) -> None:
        n, c, u, t = self.cohort, self.max_colluders, self.min_survivors, self.shamir_threshold
        checks = (
            (MIN_COHORT <= n <= MAX_COHORT, f"{MIN_COHORT} <= cohort <= {MAX_COHORT}"),
            (c >= 0, "max_colluders >= 0"),
            (u >= c + 2, "min_survivors >= max_colluders + 2"),
            (n >= u, "cohort >= min_survivors"),
            (t >= c + 1, "shamir_threshold >= max_colluders + 1"),
            (t <= u - 1, "shamir_threshold <= min_survivors - 1"),
            (t + u >= n + c + 1, "shamir_threshold + min_survivors >= cohort + max_colluders + 1"),
        )
        for holds, rule in checks:
            if not holds:
                raise BoundsViolated(
                    f"expected {rule}, found cohort={n}, max_colluders={c}, min_survivors={u}, "
                    f"shamir_threshold={t}; change the agreement's privacy terms"
                )

    @classmethod
    def smallest(cls, cohort: int, max_colluders: int) -> Self:
        """The bounds that survive most dropouts: u = ceil((n + c + 2) / 2), T = u - 1."""
        u = (cohort + max_colluders + 3) // 2
        return cls(cohort, max_colluders, u, u - 1)

    @property
    def max_dropouts(self) -> int:
        """Members that may fall silent without ending a sum."""
        return self.cohort - self.min_survivors

    @property
    def min_opened_honest(self) -> int:
        """Fewest honest members that any opened sum can be over, whatever the coordinator says (A2)."""
        consistent = self.min_survivors - self.max_colluders
        lied_to = self.shamir_threshold + self.min_survivors - self.cohort - self.max_colluders + 1
        return min(consistent, lied_to)

    @property
    def forbids_two_sums(self) -> bool:
        """Whether two disjoint honest sets can never both be opened in one sum number (PROTOCOLS section 0)."""
        honest = self.cohort - self.max_colluders
        if self.cohort == self.min_survivors:
            return 2 * self.shamir_threshold > self.cohort + self.max_colluders - 2
        return 2 * self.min_opened_honest > honest


def require_survivors(survivors: Collection[str], bounds: Bounds) -> None:
    """Refuse a survivor set smaller than u (A1).

    Raises:
        CohortRefused: Too few survivors.
    """
    if len(survivors) < bounds.min_survivors:
        raise CohortRefused(
            f"expected at least {bounds.min_survivors} survivors, found {len(survivors)}; "
            "wait for more members or start again with a new sum"
        )


def require_contributors(contributors: Collection[str], survivors: Collection[str], bounds: Bounds) -> None:
    """Refuse a slot to which too few survivors contribute (A9).

    Members that send zeros do not hide each other: a slot that belongs to one role counts that role's members.

    Args:
        contributors: Members whose input may be non-zero in the slot.
        survivors: The survivor set of the sum.
        bounds: The cohort's bounds.

    Raises:
        CohortRefused: Fewer than max_colluders + 2 contributors survive.
    """
    present = len(set(contributors) & set(survivors))
    if present < bounds.max_colluders + 2:
        raise CohortRefused(
            f"expected at least {bounds.max_colluders + 2} members that contribute to a slot, found {present}; "
            "let roles with fewer members work on public edges or locally"
        )
