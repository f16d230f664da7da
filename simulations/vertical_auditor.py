"""An auditor who sees every role's columns: it exists in benchmarks, demos and tests alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from models.aligned_rows import AlignedRows
from models.features import FloatArray, InputFeature
from models.label_tower import LabelTower
from models.metrics import auc
from models.role_totals import alone
from models.vertical import VerticalSettings
from models.vertical_basis import fit_basis

_REFITS = 4


class UnsafeVerticalAuditor:
    """Trains the vertical model's own tower on columns that nobody may hold together. Never part of a deployment."""

    def __init__(
        self,
        features: Mapping[str, Sequence[InputFeature]],
        training: tuple[Mapping[str, FloatArray], FloatArray],
        holdout: tuple[Mapping[str, FloatArray], FloatArray],
        settings: VerticalSettings,
    ) -> None:
        """Take everybody's columns.

        Args:
            features: Features per role.
            training: Columns by feature name and label of the training rows.
            holdout: The same of the hold-out.
            settings: The run's settings.
        """
        self._features = features
        self._training = training
        self._holdout = holdout
        self._settings = settings

    def auc_of(self, roles: Sequence[str]) -> float:
        """AUC on the hold-out of the same model with these roles' columns in one place, and no noise."""
        chosen = [feature for role in roles for feature in self._features[role]]
        columns, label = self._training
        settings = self._settings
        basis = alone(
            fit_basis(
                chosen,
                AlignedRows(columns, {"auditor": np.arange(len(label))}),
                bins=settings.bins,
                min_rows=settings.min_rows_per_column,
                max_colluders=settings.max_colluders,
            )
        )
        tower = alone(LabelTower.start(basis, basis.levels(columns), label, settings=settings, feature_holders=0))
        nothing = np.zeros(len(label))
        for _ in range(_REFITS):
            alone(tower.refit(nothing))
        if settings.pairs:
            ends = np.cumsum([0, *(len(self._features[role]) for role in roles)]).tolist()
            alone(tower.choose_own_pairs(nothing, [range(a, b) for a, b in pairwise(ends)]))
            for _ in range(_REFITS):
                alone(tower.refit(nothing))
        trained, bias = tower.tower()
        held, held_label = self._holdout
        return float(auc(held_label, bias + trained.scores(basis.levels(held))))
