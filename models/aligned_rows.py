"""A member's rows as the label holders of a run order them: which of its own rows stands at each place, if any."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from models.features import FloatArray, IntArray
from protos.encrypted_gradient.support import Levels

UNKNOWN = -1
"""At a place whose entity this member does not know: its tower gives zero there."""


@dataclass(frozen=True, eq=False)
class AlignedRows:
    """Columns of one member and, for every label holder, the order of its rows.

    Attributes:
        columns: Values per feature name, shape (n_own_rows,), `nan` where missing.
        places: Label holder -> own row or UNKNOWN at each place of its order, shape (its rows,).
    """

    columns: Mapping[str, FloatArray] = field(repr=False)
    places: Mapping[str, IntArray] = field(repr=False)

    def known(self, label_holder: str) -> FloatArray:
        """1.0 where this member knows the entity, shape (its rows,)."""
        return np.asarray(self.places[label_holder] != UNKNOWN, dtype=np.float64)

    @property
    def used(self) -> IntArray:
        """Own rows at all places, one label holder after the other, without the unknown ones."""
        joined = np.concatenate([self.places[holder] for holder in sorted(self.places)])
        return np.asarray(joined[joined != UNKNOWN], dtype=np.int64)

    def arrange(self, levels: Levels) -> dict[str, Levels]:
        """Basis values in every label holder's order, zeros for unknown entities.

        Args:
            levels: Of this member's own rows, shape (n_own_rows, n_columns).

        Returns:
            Label holder -> shape (its rows, n_columns).
        """
        whole = np.vstack([levels, np.zeros((1, levels.shape[1]), dtype=levels.dtype)])
        return {holder: whole[places] for holder, places in self.places.items()}

    def part(self, chosen: Mapping[str, IntArray]) -> AlignedRows:
        """The same columns at some places of every order.

        Args:
            chosen: Label holder -> places, in the new order.
        """
        return AlignedRows(self.columns, {holder: self.places[holder][at] for holder, at in chosen.items()})
