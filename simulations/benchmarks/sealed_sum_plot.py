"""How the costs of a sealed sum grow, as a plot; apart from the measurement, which needs no drawing library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from models.plots import line_plot


def plot(rows: Sequence[Mapping[str, float | int | bool]], nodes: int, x: Literal["values", "nodes"]) -> bytes:
    """Processor time by role as SVG, with logarithmic axes, on which what is linear has slope 1.

    Args:
        rows: See `run`.
        nodes: Cohort of the rows that have several lengths.
        x: What to draw over: the number of values at `nodes` members, or members at the smallest length.
    """
    smallest = min(row["values"] for row in rows)
    chosen = [row for row in rows if (row["nodes"] == nodes if x == "values" else row["values"] == smallest)]
    chosen.sort(key=lambda row: row[x])
    places = [float(row[x]) for row in chosen]
    what = f"{nodes} members" if x == "values" else f"{smallest:,} values"
    return line_plot(
        {
            "each node": (places, [float(row["node_cpu_s"]) for row in chosen]),
            "coordinator, for each node": (places, [float(row["coordinator_cpu_s_per_node"]) for row in chosen]),
        },
        title=f"Processor time of one sealed sum, {what}",
        x_label="values" if x == "values" else "members",
        y_label="seconds",
        log_x=True,
        log_y=True,
    )
