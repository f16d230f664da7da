"""From a trained tower to answers: this member's partial scores, as the table that federated scoring serves."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.score_slots import ScoreSlots, partial_scores
from nodes.entity_tokens import EntityTokens
from nodes.membership import Membership
from nodes.scoring_tables import EntityTable, publish
from nodes.settings import NodeSettings
from policies.errors import SettingsRefused
from policies.token_key import load_token_key

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Published:
    """What a publication wrote.

    Attributes:
        path: The table.
        num_entities: Its rows.
        num_malformed: Rows left out because their identifier does not normalise.
        num_repeated: Rows left out because an earlier one is of the same entity.
    """

    path: Path
    num_entities: int
    num_malformed: int
    num_repeated: int


def publish_scores(
    settings: NodeSettings,
    membership: Membership,
    *,
    task: str,
    model_version: str,
    ids: Sequence[object],
    contributions: NDArray[np.float64],
    reason_codes: tuple[str, ...],
) -> Published | None:
    """Serve a model version's partial scores of this member's entities; a running node takes them up within a second.

    Args:
        settings: Where tables and token key are.
        membership: Agreement, whose reason codes are the slots.
        task: Of the agreement.
        model_version: As requests will name it.
        ids: One identifier a row, as the source writes it.
        contributions: Log-odds of default that each feature adds, centred on the training population, so that a role
            that does not know an entity is a zero with a meaning; shape (len(ids), n_features).
        reason_codes: The reason code of each feature, shape (n_features,).

    Returns:
        What was written; None for a node that serves no scores (no scoring table in its settings).

    Raises:
        SettingsRefused: There is no token key, or the table cannot be written.
        AgreementRefused: The agreement has no such task.
        ValueError: Shapes or reason codes that do not fit; a mistake of the caller.
    """
    membership.agreement.task(task)
    layout = ScoreSlots.of_agreement(membership.agreement)
    _check_shapes(layout, ids, contributions, reason_codes)
    if settings.scoring is None:
        return None
    if settings.token_key_path is None:
        raise SettingsRefused(
            "expected the members' token key (token_key_path of the scoring or the consent table in node.toml), found"
            " none; without it nobody can ask for these scores."
        )
    tokens = EntityTokens(load_token_key(settings.token_key_path), membership.agreement.entities.id_type).of(ids)
    first: dict[bytes, int] = {}
    for row, token in enumerate(tokens):
        if token is not None:
            first.setdefault(token, row)
    slots = partial_scores(contributions[list(first.values())], reason_codes, layout)
    table = EntityTable.of(layout, list(first), slots)
    path = publish(settings.scoring.tables_dir, task, model_version, table)
    malformed = tokens.count(None)
    found = Published(path, len(first), malformed, len(tokens) - malformed - len(first))
    log.info(
        "%s, model %s: scores of %d entities (%d rows with an identifier that is none, %d repeated)",
        task,
        model_version[:16],
        found.num_entities,
        found.num_malformed,
        found.num_repeated,
    )
    return found


def _check_shapes(
    layout: ScoreSlots, ids: Sequence[object], contributions: NDArray[np.float64], reason_codes: tuple[str, ...]
) -> None:
    if contributions.shape != (len(ids), len(reason_codes)):
        raise ValueError(
            f"expected contributions of shape ({len(ids)}, {len(reason_codes)}), found {contributions.shape}"
        )
    if not np.isfinite(contributions).all():
        raise ValueError("expected finite contributions, found others")
    unknown = set(reason_codes) - set(layout.reason_codes)
    if unknown:
        raise ValueError(f"expected reason codes of the agreement, found {min(unknown)!r}")
