"""How the time of a vertical run grows, as plots; apart from the measurement, which needs no drawing library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from models.plots import line_plot

_PHASES: Final = MappingProxyType({"alignment": "align_s", "training": "training_s", "proposal to release": "train_s"})
_AXES: Final = MappingProxyType(
    {
        "rows": ("rows", "entities of the label holder"),
        "features": ("features", "features of all parties"),
        "parties": ("parties", "parties, each a role of its own"),
        "members": ("parties", "parties, so many to each of the roles"),
    }
)


def plot(rows: Sequence[Mapping[str, float | int | str | bool]], by: str) -> bytes:
    """Seconds by phase as SVG; logarithmic axes over rows, where the sizes are far apart.

    Args:
        rows: `growth` of `simulations.benchmarks.vertical.run`.
        by: What differs from row to row: rows, features, parties, members.
    """
    column, label = _AXES[by]
    chosen = sorted((row for row in rows if row["by"] == by), key=lambda row: row[column])
    places = [float(row[column]) for row in chosen]
    data = ", ".join(dict.fromkeys(str(row["data"]) for row in chosen))
    return line_plot(
        {name: (places, [float(row[figure]) for row in chosen]) for name, figure in _PHASES.items()},
        title=f"One vertical run ({data})",
        x_label=label,
        y_label="seconds",
        log_x=by == "rows",
        log_y=by == "rows",
    )
