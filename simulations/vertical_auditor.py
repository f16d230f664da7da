"""An auditor who sees every role's columns: it exists in demos, benchmarks and tests alone.

No deployment can hold such a party; the class says so in its name. It fits the towers of a vertical run with
everything in one place, role by role, and compares on the common hold-out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from models.features import BoolArray, FloatArray, InputFeature
from models.holdout import holdout_mask
from models.metrics import auc
from models.newton import sigmoid
from models.vertical import Tower, VerticalSettings
from policies.agreement import Agreement
from policies.proposal import MethodSettings
from protos.private_set_intersection.identifiers import normalise
from simulations.auditor import Row, paired_rows
from simulations.pooled_towers import PooledRows, RowsRefused, train_pooled

_HOLDER = "holder of the row"  # no column of an agreement has spaces in its name


def vertical_settings(agreement: Agreement, method: MethodSettings) -> VerticalSettings:
    """The public settings of a run, as its members read them from the agreement and the proposal.

    Args:
        agreement: Form of the towers, and the floors.
        method: Passes and pairs.
    """
    model, privacy = agreement.model, agreement.privacy
    return VerticalSettings(
        bins=model.bins,
        ridge=model.ridge,
        smoothness=model.smoothness,
        min_rows_per_column=privacy.min_rows_per_column,
        passes=method.passes,
        pairs=method.pairs,
        max_colluders=privacy.max_colluders,
    )


class RoleScores(Protocol):
    """A role's trained tower, as its members have it."""

    def scores(self, columns: Mapping[str, FloatArray]) -> FloatArray:
        """Partial log-odds of each row, shape (n_rows,)."""
        ...


class UnsafeVerticalAuditor:
    """Trains the vertical model's own towers on columns that nobody may hold together. Never part of a deployment."""

    def __init__(
        self,
        features: Mapping[str, Sequence[InputFeature]],
        training: PooledRows,
        holdout: PooledRows,
        settings: VerticalSettings,
    ) -> None:
        """Take everybody's columns.

        Args:
            features: Features per role, the role that holds the label first.
            training: The training rows.
            holdout: The common hold-out.
            settings: The run's settings.
        """
        self._features = features
        self._label_role = next(iter(features))
        self._training = training
        self._holdout = holdout
        self._settings = settings

    @classmethod
    def of_members(
        cls, rows: Mapping[str, pd.DataFrame], agreement: Agreement, task: str, settings: VerticalSettings
    ) -> Self:
        """Take the rows of every member of a consortium.

        Args:
            rows: Rows by member; an entity is at one member of a role at most.
            agreement: Roles, features, hold-out.
            task: What is predicted; rows without its label are nobody's training rows.
            settings: The run's settings.

        Raises:
            RowsRefused: Two members of a role have the same entity.
        """
        pooled, held = pool_members(rows, agreement, task)
        label_role = agreement.task(task).label_role
        others = dict.fromkeys(feature.role for feature in agreement.features if feature.role != label_role)
        features = {
            role: [InputFeature.from_terms(terms) for terms in agreement.features_of(role)]
            for role in (label_role, *others)
        }
        return cls(features, pooled.part(~held), pooled.part(held), settings)

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles, the one that holds the label first."""
        return tuple(self._features)

    @property
    def holdout_label(self) -> NDArray[np.int8]:
        """Labels of the common hold-out, shape (n_holdout,)."""
        return self._holdout.label.astype(np.int8)

    def auc_of(self, roles: Sequence[str]) -> float:
        """AUC on the hold-out of the same model with these roles' columns in one place, and no noise."""
        return float(auc(self._holdout.label, self.scores_of(roles)))

    def scores_of(self, roles: Sequence[str], holder: str | None = None) -> FloatArray:
        """Log-odds on the hold-out of a model that these roles would train with their columns in one place.

        Args:
            roles: The role that holds the label, and any others.
            holder: Train on this member's customers alone; on everybody's by default.

        Returns:
            Shape (n_holdout,).
        """
        training = self._training if holder is None else self._training.part(self._training.holder == holder)
        chosen = {role: self._features[role] for role in self._features if role in {*roles, self._label_role}}
        towers, bias = train_pooled(chosen, training, self._settings)
        return self._total({role: _Held(tower) for role, tower in towers.items()}, bias)

    def federated_scores(self, towers: Mapping[str, RoleScores], bias: float) -> FloatArray:
        """Log-odds on the hold-out of the towers that the members of a run have.

        Args:
            towers: By role.
            bias: Log-odds.

        Returns:
            Shape (n_holdout,).
        """
        return self._total(towers, bias)

    def compare(
        self, federated: FloatArray, *, progress: Callable[[str], None] = lambda _: None
    ) -> tuple[list[Row], dict[str, NDArray[np.float64]]]:
        """What each further role is worth: alone, role by role, federated and pooled, with paired bootstrap intervals.

        Args:
            federated: Log-odds of the federated model on the hold-out, see `federated_scores`.
            progress: Told what is being trained.

        Returns:
            Rows in the order of the table, and each model's PDs, shape (n_holdout,).
        """
        found: dict[str, FloatArray] = {}
        for holder in np.unique(self._training.holder).tolist():
            progress(f"{holder} alone")
            found[f"alone:{holder}"] = self.scores_of([self._label_role], holder)
        for count in range(2, len(self.roles)):
            roles = self.roles[:count]
            progress(f"{' and '.join(roles)} pooled")
            found[" + ".join(roles)] = self.scores_of(roles)
        found["federated"] = federated
        progress("all roles pooled")
        found["pooled"] = self.scores_of(self.roles)
        progress("bootstrap intervals")
        predicted = {model: np.asarray(sigmoid(scores)) for model, scores in found.items()}
        return paired_rows(self.holdout_label, predicted, reference="federated"), predicted

    def _total(self, towers: Mapping[str, RoleScores], bias: float) -> FloatArray:
        held = self._holdout
        total = np.full(len(held.label), bias)
        for role, tower in towers.items():
            known = held.known_to(role)
            columns = {feature.name: held.columns[feature.name][known] for feature in self._features[role]}
            if known.any():
                total[known] += tower.scores(columns)
        return total


@dataclass(frozen=True, eq=False)
class _Held:
    """A tower with its own basis, as a node has it on disk."""

    tower: Tower

    def scores(self, columns: Mapping[str, FloatArray]) -> FloatArray:
        return self.tower.scores(self.tower.basis.levels(columns))


def pool_members(rows: Mapping[str, pd.DataFrame], agreement: Agreement, task: str) -> tuple[PooledRows, BoolArray]:
    """Lay all members' columns side by side, in the order of the label holders' rows.

    Args:
        rows: Rows by member.
        agreement: Roles, features, hold-out.
        task: Whose label decides which entities there are.

    Returns:
        The rows, and which of them are held out, shape (n_rows,).

    Raises:
        RowsRefused: Two members of a role have the same entity.
    """
    terms, entities = agreement.task(task), agreement.entities
    frames: dict[str, list[pd.DataFrame]] = {}
    for member in agreement.members:
        if member.id not in rows:
            continue
        frame = rows[member.id]
        frame = frame.assign(**{_HOLDER: member.id})
        frame.index = pd.Index([normalise(entities.id_type, entity) for entity in frame[entities.id_column]])
        frames.setdefault(member.role, []).append(frame)
    by_role = {role: pd.concat(parts) for role, parts in frames.items()}
    for role, frame in by_role.items():
        if not frame.index.is_unique:
            raise RowsRefused(
                f"Expected every entity at one member of role {role!r}, found some at two; deal them out first."
            )
    labelled = by_role[terms.label_role].dropna(subset=[terms.label])
    columns: dict[str, FloatArray] = {}
    known: dict[str, BoolArray] = {}
    for role, frame in by_role.items():
        known[role] = labelled.index.isin(frame.index)
        side = frame.reindex(labelled.index)
        for feature in agreement.features_of(role):
            columns[feature.name] = side[feature.name].to_numpy(dtype=np.float64, na_value=np.nan)
    pooled = PooledRows(
        columns,
        labelled[terms.label].to_numpy(dtype=np.float64),
        known,
        labelled[_HOLDER].to_numpy(dtype=np.str_),
    )
    return pooled, holdout_mask(labelled.index, entities.holdout_key_bytes, entities.holdout_percent, entities.id_type)
