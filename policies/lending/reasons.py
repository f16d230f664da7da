"""Reasons in words: the policy's own, and those that stand for terms of the score."""

from __future__ import annotations

from collections.abc import Iterable

from policies.decision_tables.errors import NoRow, PolicyRefused
from policies.lending.policy_set import Inquiry, PolicySet
from policies.lending.types import Reason, ReasonVote

MAX_SCORE_REASONS = 4
"""As many principal reasons as a notice of adverse action states; `tallystick score` writes as many."""

UNMAPPED = "(any other)"


def policy_reason(inquiry: Inquiry, code: str) -> Reason:
    """A reason of the policy, with its text.

    Raises:
        PolicyRefused: The table `policy_reason` has no text for it.
    """
    try:
        row = inquiry.one("policy_reason", code=code)
    except NoRow:
        raise PolicyRefused(
            f"expected a text for the reason {code!r} in the table policy_reason of {inquiry.policy.date}, found none;"
            " add a row."
        ) from None
    return Reason(code=code, text=row.text("text"))


def score_reasons(inquiry: Inquiry, votes: Iterable[ReasonVote]) -> tuple[Reason, ...]:
    """The principal score terms as reasons of the policy; terms that mean the same to an applicant become one.

    Args:
        inquiry: Asks the table `score_reason`.
        votes: Strongest first.

    Returns:
        At most `MAX_SCORE_REASONS`, in the order of the votes.
    """
    found: dict[str, Reason] = {}
    for vote in votes:
        row = inquiry.one("score_reason", score_code=vote.code)
        code = row.text("code")
        if code in found:
            known = found[code]
            found[code] = known.model_copy(update={"score_codes": (*known.score_codes, vote.code)})
        elif len(found) < MAX_SCORE_REASONS:
            found[code] = Reason(code=code, text=row.text("text"), score_codes=(vote.code,))
    return tuple(found.values())


def unmapped_score_codes(policy: PolicySet, codes: Iterable[str]) -> tuple[str, ...]:
    """The agreement's reason codes that only the general text covers: a gap to fill before going live.

    Args:
        policy: The policy set.
        codes: Reason codes of an agreement's features.
    """
    table = policy.tables["score_reason"]
    fallback = {row.id for row in table.matching({"score_code": UNMAPPED})}
    return tuple(
        sorted({code for code in codes if {row.id for row in table.matching({"score_code": code})} <= fallback})
    )


def missing_policy_texts(policy: PolicySet, codes: Iterable[str]) -> tuple[str, ...]:
    """The policy's own reason codes that the table `policy_reason` has no text for."""
    table = policy.tables["policy_reason"]
    return tuple(sorted({code for code in codes if not table.matching({"code": code})}))
