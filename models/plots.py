"""The plots of a run: one style, no global state, bytes out.

Figures are built without pyplot, so nothing needs a display or has to be closed. SVG keeps its text as text (it can
be selected, searched and read aloud) and holds neither a date nor random ids, so equal input gives equal bytes.
`inline_svg` turns one into a fragment for an HTML page whose colours follow the page's light or dark scheme.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Literal

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from models.card_labels import tick_label
from policies.release import CalibrationBin, FeatureShape, HistogramBin

Image = Literal["svg", "png"]

INK, MUTED, GRID, PAPER = "#1d2733", "#66727f", "#dce1e7", "#ffffff"
ACCENT, SECOND, THIRD, FOURTH, FIFTH = "#0b7a6f", "#c2571a", "#4456b8", "#8a4baf", "#7a8793"
SERIES = (ACCENT, SECOND, THIRD, FOURTH, FIFTH)
_MARKERS = "osD^v"  # colour is never the only difference between two series

# Colour -> name of the CSS variable that a page may set instead.
_VARIABLES = {
    INK: "ink",
    MUTED: "muted",
    GRID: "grid",
    PAPER: "panel",
    ACCENT: "accent",
    SECOND: "second",
    THIRD: "third",
    FOURTH: "fourth",
    FIFTH: "fifth",
}

_STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.5,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": PAPER,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 2.0,
    "svg.fonttype": "none",
    "svg.hashsalt": "tallystick",
}


@dataclass(frozen=True)
class ComparisonLine:
    """One row of the comparison plot: `low` and `high` bound its interval (paired bootstrap), None = no interval."""

    model: str
    auc: float
    low: float | None = None
    high: float | None = None


def roc_plot(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, title: str = "", image: Image = "svg"
) -> bytes:
    """ROC curves.

    Args:
        curves: Name to (false positive rates, true positive rates), both in [0, 1] and ascending.
        title: Above the plot; empty = none.
        image: Format of the bytes.
    """

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="no information")
        for index, (name, (false_rates, true_rates)) in enumerate(curves.items()):
            axes.plot(false_rates, true_rates, color=SERIES[index % len(SERIES)], label=name)
        if len(curves) == 1:
            ((false_rates, true_rates),) = curves.values()
            axes.fill_between(false_rates, true_rates, color=ACCENT, alpha=0.10, linewidth=0)
        axes.set(xlim=(0, 1), ylim=(0, 1.005), xlabel="goods refused", ylabel="bads found", title=title)
        _percent(axes.xaxis)
        _percent(axes.yaxis)
        axes.set_aspect("equal")
        axes.legend(loc="lower right")

    return _render(draw, (4.6, 4.3), image)


def calibration_plot(bins: Sequence[CalibrationBin], *, title: str = "", image: Image = "svg") -> bytes:
    """Observed default rate against mean predicted PD, on logarithmic axes; suppressed bins are not drawn.

    Args:
        bins: The released calibration table.
        title: Above the plot.
        image: Format of the bytes.
    """
    points = [
        (b.mean_pd, b.observed_rate, b.rows or 0)
        for b in bins
        if b.mean_pd is not None and b.observed_rate is not None and b.mean_pd > 0 and b.observed_rate > 0
    ]

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        values = [v for predicted, observed, _ in points for v in (predicted, observed)] or [0.01, 1.0]
        low, high = min(values) / 1.5, min(1.0, max(values) * 1.5)
        axes.plot([low, high], [low, high], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="perfect")
        largest = max((rows for *_, rows in points), default=0)
        axes.plot([p for p, *_ in points], [o for _, o, _ in points], color=ACCENT, linewidth=1.2, alpha=0.6)
        axes.scatter(
            [p for p, *_ in points],
            [o for _, o, _ in points],
            s=[24 + 130 * rows / largest if largest else 40 for *_, rows in points],
            color=ACCENT,
            edgecolor=PAPER,
            linewidth=1,
            zorder=3,
            label="bin (area: rows)" if largest else "bin",
        )
        axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), title=title)
        axes.set(xlabel="predicted PD", ylabel="observed default rate")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(_short_percent))
            axis.set_minor_formatter(FuncFormatter(lambda *_: ""))
        axes.grid(visible=True, which="minor", linewidth=0.3)
        axes.set_aspect("equal")
        axes.legend(loc="upper left", markerscale=0.7)

    return _render(draw, (4.6, 4.3), image)


def histogram_plot(bins: Sequence[HistogramBin], *, title: str = "", image: Image = "svg") -> bytes:
    """Share of all goods (up) and of all bads (down) per coarse PD range; suppressed cells are left blank.

    Args:
        bins: The released score histogram.
        title: Above the plot.
        image: Format of the bytes.
    """
    goods = sum(b.goods or 0 for b in bins) or 1
    bads = sum(b.bads or 0 for b in bins) or 1

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        places = range(len(bins))
        axes.bar(places, [(b.goods or 0) / goods for b in bins], color=ACCENT, width=0.86, label="goods")
        axes.bar(places, [-(b.bads or 0) / bads for b in bins], color=SECOND, width=0.86, label="bads")
        axes.axhline(0, color=MUTED, linewidth=0.8)
        every = max(1, len(bins) // 7)
        axes.set_xticks([p - 0.5 for p in places][::every], [_short_percent(b.pd_low) for b in bins][::every])
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{abs(value):.0%}"))
        axes.grid(visible=False, axis="x")
        axes.set(xlabel="predicted PD, from", ylabel="share of all goods / bads", title=title)
        axes.legend(loc="best")

    return _render(draw, (5.2, 3.3), image)


def loss_plot(
    losses: Sequence[tuple[int, float]], *, label: str = "loss", title: str = "", image: Image = "svg"
) -> bytes:
    """One figure per round.

    Args:
        losses: (round, value) in ascending order of rounds.
        label: Name of the value with its unit.
        title: Above the plot.
        image: Format of the bytes.
    """

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.plot(
            [number for number, _ in losses], [value for _, value in losses], color=ACCENT, marker="o", markersize=5
        )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(visible=False, axis="x")
        axes.set(xlabel="round", ylabel=label, title=title)

    return _render(draw, (5.2, 3.3), image)


def shape_plot(shape: FeatureShape, *, title: str = "", image: Image = "svg") -> bytes:
    """Score points of each bin of one feature; bars below zero cost points.

    A tower whose features do not add up has no points per bin; then the bars are weights of evidence.

    Args:
        shape: The released shape.
        title: Above the plot.
        image: Format of the bytes.
    """
    additive = all(b.points is not None for b in shape.bins)
    heights = [(b.points if additive else b.woe) or 0.0 for b in shape.bins]

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        places = range(len(shape.bins))
        colours = [ACCENT if height >= 0 else SECOND for height in heights]
        bars = axes.bar(places, heights, color=colours, width=0.8)
        for bar, shape_bin in zip(bars, shape.bins, strict=True):
            if shape_bin.missing:
                bar.set(hatch="///", edgecolor=PAPER, linewidth=0)
        axes.axhline(0, color=MUTED, linewidth=0.8)
        labels = [tick_label(b.label) for b in shape.bins]
        crowded = len(labels) * max(len(label) for label in labels) > 34
        axes.set_xticks(places, labels, rotation=34 if crowded else 0, ha="right" if crowded else "center")
        axes.tick_params(axis="x", labelsize=8.5, length=0)
        axes.grid(visible=False, axis="x")
        axes.spines["bottom"].set_visible(False)
        axes.set(ylabel="score points" if additive else "weight of evidence", title=title)
        axes.margins(y=0.12)

    return _render(draw, (3.6, 2.4), image)


def comparison_plot(rows: Sequence[ComparisonLine], *, title: str = "", image: Image = "svg") -> bytes:
    """Each member alone, federated and pooled: AUC with interval, best to read from top to bottom.

    Args:
        rows: One line per model, in drawing order.
        title: Above the plot.
        image: Format of the bytes.
    """

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for place, row in enumerate(rows):
            colour = FIFTH if row.model.startswith("alone") else ACCENT if row.model == "federated" else THIRD
            if row.low is not None and row.high is not None:
                axes.plot([row.low, row.high], [place, place], color=colour, linewidth=3, alpha=0.4)
            axes.plot(row.auc, place, marker="o", markersize=8, color=colour)
            axes.annotate(
                f"{row.auc:.4f}",
                (row.high if row.high is not None else row.auc, place),
                xytext=(9, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
            )
        axes.set_yticks(range(len(rows)), [row.model for row in rows])
        axes.tick_params(axis="y", labelcolor=INK, length=0)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.margins(x=0.18, y=0.12)
        axes.set(xlabel="AUC on the common hold-out", title=title)

    return _render(draw, (5.2, 1.0 + 0.34 * max(len(rows), 1)), image)


def line_plot(
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    log_y: bool = False,
    image: Image = "svg",
) -> bytes:
    """Several measured series over one axis, as benchmarks draw them.

    Args:
        series: Name to (x values, y values).
        title: Above the plot.
        x_label: With its unit.
        y_label: With its unit.
        log_x: Logarithmic x axis.
        log_y: Logarithmic y axis.
        image: Format of the bytes.
    """

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for index, (name, (xs, ys)) in enumerate(series.items()):
            colour, marker = SERIES[index % len(SERIES)], _MARKERS[index % len(_MARKERS)]
            axes.plot(xs, ys, color=colour, marker=marker, markersize=5, label=name)
        if log_x:
            axes.set_xscale("log")
        if log_y:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.set(title=title, xlabel=x_label, ylabel=y_label)
        if series:
            axes.legend(loc="best")

    return _render(draw, (6.4, 4.0), image)


def inline_svg(svg: bytes, *, name: str, description: str) -> str:
    """An SVG as a fragment of an HTML page.

    Ids get a prefix, because several plots share one document; colours become CSS variables with the light colour as
    fallback; the size becomes that of the element around it.

    Args:
        svg: What one of the plot functions returned.
        name: Prefix of the ids, unique on the page: letters, digits and hyphens.
        description: What the plot shows, for a screen reader.
    """
    text = svg.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r'xlink:href="#', f'xlink:href="#{name}-', text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable}, {colour})")
    label = description.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return text.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def _render(draw: Callable[[Figure], None], size_inches: tuple[float, float], image: Image) -> bytes:
    buffer = BytesIO()
    with rc_context(_STYLE):
        figure = Figure(figsize=size_inches, layout="constrained")
        draw(figure)
        metadata = {"Date": None, "Creator": "tallystick"} if image == "svg" else {"Software": "tallystick"}
        figure.savefig(buffer, format=image, dpi=144, metadata=metadata)
    return buffer.getvalue()


def _percent(axis: Any) -> None:
    axis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def _short_percent(value: float, _position: int | None = None) -> str:
    """0.0005 -> 0.05%, 0.02 -> 2%, without trailing zeros."""
    return f"{value * 100:.2g}%" if value < 1 else "100%"
