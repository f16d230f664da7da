"""The owner's rules for answering scores: `scoring.toml` beside `policy.toml`. Without it a node answers none."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from policies import documents
from policies.agreement import Name, Slug
from policies.closed_model import ClosedModel, parse_model, parse_toml, read_bounded, shown_path
from policies.errors import GuardRefused
from policies.issuers import Issuers, raw_keys


class ScoringPolicy(ClosedModel):
    """What this node answers, how often, and for whom. Lists name what is allowed, nothing else is."""

    format: Literal["tallystick-scoring-policy/1"]
    tasks: tuple[Name, ...]
    purposes: tuple[Slug, ...]
    grant_issuers: Issuers
    """Identity keys (`ed25519:...`) whose grants this node accepts."""
    window_s: Annotated[int, Field(ge=60)] = 86_400
    """Length of the answer window; the consortium's, since it is part of every request."""
    match_window_s: Annotated[int, Field(ge=60)] = 900
    """The same for documents (task `three_way_match`), of which more becomes known from hour to hour."""
    answers_per_entity: Annotated[int, Field(ge=1)] = 3
    """Answers about one entity and task in one window."""
    entities_per_requester: Annotated[int, Field(ge=1)] = 200_000
    """Entities asked about by one requester in a day, repeats included."""
    distinct_entities: Annotated[int, Field(ge=1)] = 500_000
    """Different entities in a day and purpose."""
    unknown_documents: Annotated[int, Field(ge=1)] = 1_000
    """Documents in a day that this node was asked about and does not know, above which it raises an alarm: somebody may
    be guessing (C8). The gateway is not told; what it may ask in all is bounded by `distinct_entities`."""
    roster_lock_s: Annotated[int, Field(ge=3600)] = 86_400
    """How long the survivor set of an entity's answer is the only one allowed (C2)."""
    max_clock_skew_s: Annotated[float, Field(gt=0)] = 120.0
    max_epoch_s: Annotated[int, Field(ge=60)] = 90_000
    """Age of a key epoch at which this node answers no more under it."""

    def window_of(self, task: str) -> int:
        """Length of a task's answer window, seconds."""
        return self.match_window_s if task == documents.TASK else self.window_s

    @cached_property
    def issuer_keys(self) -> frozenset[bytes]:
        """The issuers' public keys, 32 bytes each."""
        return raw_keys(self.grant_issuers)


def load_scoring_policy(path: Path) -> ScoringPolicy:
    """Read a node's scoring policy.

    Raises:
        GuardRefused: There is no such file (no policy, no answer), or it is not acceptable.
    """
    if not path.exists():
        raise GuardRefused(
            f"{shown_path(path)}: expected this node's scoring policy, found nothing; without one the node answers"
            " no score."
        )
    if path.stat().st_mode & 0o002:
        raise GuardRefused(
            f"{shown_path(path)}: expected a policy that only its owner can change, found one that every user can"
            " write; run chmod o-w on it."
        )
    data = parse_toml(read_bounded(path, GuardRefused), path, GuardRefused)
    return parse_model(ScoringPolicy, data, shown_path(path), GuardRefused, "list what this node may answer")
