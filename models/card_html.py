"""The page of a model card: one file, no script, no request, readable on paper and in the dark.

The template (models/templates/card.html.j2) holds words and layout; this module prepares what it shows.
Everything that came from a run is escaped by the template engine; only the plots, which we draw ourselves,
go in as markup.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from models.card import ModelCard, RunEvidence, by_information, suppressed_cells
from models.card_labels import table_label
from models.plots import (
    ComparisonLine,
    calibration_plot,
    comparison_plot,
    histogram_plot,
    inline_svg,
    loss_plot,
    roc_plot,
    shape_plot,
)
from policies.release import FeatureShape


@dataclass(frozen=True)
class Tile:
    """One figure at the top of the page."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class FeatureSection:
    """One feature: its plot and its rows of the scorecard."""

    shape: FeatureShape
    plot: Markup
    title: str
    strength: str


def render_html(card: ModelCard) -> str:
    """The card as a self-contained HTML page.

    Args:
        card: A checked card.
    """
    environment = Environment(
        loader=PackageLoader("models", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        figure=_figure, percent=_percent, signed=_signed, count=_count, chunks=_chunks, label=table_label
    )
    evidence = card.evidence
    return environment.get_template("card.html.j2").render(
        card=card,
        evidence=evidence,
        table=evidence.table,
        tiles=_tiles(evidence),
        plots=_plots(evidence),
        features=_features(evidence),
        additive=all(b.points is not None for shape in evidence.table.features for b in shape.bins),
        strongest=[_title(name) for name in by_information(evidence.table)[:3]],
        suppressed=suppressed_cells(evidence.table),
        hashes=card.hashes(),
        roles=evidence.members_by_role(),
        dropped_sums=[record for record in evidence.table.sums if record.dropped],
        vertical=evidence.story == "vertical",
        label_role=evidence.label_role,
        label_holders=len(evidence.members_by_role().get(evidence.label_role, ())),
    )


def _tiles(evidence: RunEvidence) -> list[Tile]:
    tiles = []
    quality = evidence.table.quality
    if quality is not None:
        tiles += [
            Tile("AUC", f"{quality.auc:.4f}", "1 = ranks perfectly, 0.5 = chance"),
            Tile("KS", f"{quality.ks:.3f}", "largest gap between bads and goods"),
            Tile("Gini", f"{quality.gini:.3f}", "2 × AUC − 1"),
            Tile("Brier", f"{quality.brier:.4f}", "mean squared error of the PD"),
        ]
        if quality.rows:
            share = "" if quality.bads is None else f"{quality.bads / quality.rows:.2%} of them bad"
            tiles.append(Tile("Hold-out rows", _count(quality.rows), share))
    roles = evidence.members_by_role()
    tiles.append(
        Tile(
            "Members",
            str(len(evidence.members)),
            ", ".join(f"{len(ids)} × {role}" for role, ids in roles.items()),
        )
    )
    if evidence.story == "vertical":
        passes = str(evidence.settings.get("passes", "–"))
        return [*tiles, Tile("Passes", passes, "over encrypted residuals of the label holders")]
    sums = len(evidence.table.sums)
    tiles.append(Tile("Rounds", str(len(evidence.table.rounds)), f"{sums} sealed sums opened in all"))
    drops = sum(bool(record.dropped) for record in evidence.table.sums)
    note = "sums that were without some member" if drops else "in any sum"
    return [*tiles, Tile("Drop-outs", str(drops), note)]


def _plots(evidence: RunEvidence) -> dict[str, Markup]:
    """The plots for which the run has figures, by name."""
    table = evidence.table
    losses = [(figures.number, figures.loss) for figures in table.rounds if figures.loss is not None]
    curve = (
        [point.false_positive_rate for point in table.roc],
        [point.true_positive_rate for point in table.roc],
    )
    drawings: dict[str, tuple[object, str, Callable[[], bytes]]] = {
        "roc": (
            table.roc,
            "ROC curve: share of bads found against share of goods refused",
            lambda: roc_plot({"this model": curve}),
        ),
        "calibration": (
            [b for b in table.calibration if b.mean_pd is not None],
            "Observed default rate against predicted probability of default",
            lambda: calibration_plot(table.calibration),
        ),
        "histogram": (
            table.histogram,
            "Distribution of goods and bads over predicted probability of default",
            lambda: histogram_plot(table.histogram),
        ),
        "loss": (losses, "Loss after each round", lambda: loss_plot(losses, label="loss (nats a row)")),
        "comparison": (
            evidence.comparison,
            "AUC of each member alone, of the federated and of the pooled model",
            lambda: comparison_plot(
                [ComparisonLine(r.model, r.auc, r.auc_low, r.auc_high) for r in evidence.comparison]
            ),
        ),
    }
    return {
        name: _markup(draw(), name, description) for name, (present, description, draw) in drawings.items() if present
    }


def _features(evidence: RunEvidence) -> list[FeatureSection]:
    shapes = {shape.feature: shape for shape in evidence.table.features}
    sections = []
    for place, name in enumerate(by_information(evidence.table)):
        shape = shapes[name]
        title = _title(name)
        plot = _markup(shape_plot(shape), f"shape-{place}", f"What the model makes of each bin of {title}")
        sections.append(FeatureSection(shape, plot, title, _strength(shape.information_value)))
    return sections


def _markup(svg: bytes, name: str, description: str) -> Markup:
    return Markup(inline_svg(svg, name=name, description=description))  # noqa: S704 - drawn by models.plots, escaped there


def _title(name: str) -> str:
    """`past_due_30_59` -> `past due 30–59`."""
    return re.sub(r"(?<=\d)_(?=\d)", "–", name).replace("_", " ")


def _strength(information_value: float | None) -> str:
    """Siddiqi's rule of thumb (Credit Risk Scorecards, 2006); a convention, not a test."""
    if information_value is None:
        return ""
    for limit, word in ((0.02, "negligible"), (0.1, "weak"), (0.3, "medium"), (float("inf"), "strong")):
        if information_value < limit:
            return word
    return ""


def _figure(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def _signed(value: float | None, digits: int = 0) -> str:
    """With its sign; a value that rounds to zero has none."""
    if value is None:
        return "–"
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def _percent(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def _count(value: int | None) -> str:
    """12345 -> 12 345 (thin spaces); None = suppressed."""
    return "–" if value is None else f"{value:,}".replace(",", "\u2009")


def _chunks(hexadecimal: str, size: int = 8) -> Sequence[str]:
    """A hash in groups, so that two can be compared by eye."""
    return [hexadecimal[i : i + size] for i in range(0, len(hexadecimal), size)]
