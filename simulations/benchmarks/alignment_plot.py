"""How the time of an alignment grows, as a plot; apart from the measurement, which needs no drawing library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from models.plots import line_plot


def plot(rows: Sequence[Mapping[str, float | int | bool]]) -> bytes:
    """Seconds over the identifiers of both sides as SVG, with logarithmic axes.

    Args:
        rows: See `simulations.benchmarks.alignment.run`.
    """
    ordered = sorted(rows, key=lambda row: row["left"] + row["right"])
    totals = [float(row["left"] + row["right"]) for row in ordered]
    return line_plot(
        {"alignment": (totals, [float(row["seconds"]) for row in ordered])},
        title="Alignment of two members",
        x_label="identifiers of both sides",
        y_label="seconds",
        log_x=True,
        log_y=True,
    )
