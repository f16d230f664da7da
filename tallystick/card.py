"""`tallystick card`: show the card of a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from models.card import ModelCard

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, add_completion=False)


@app.callback()
def _card() -> None:
    """Model cards: what a run proves about itself."""


@app.command(epilog="Example: tallystick card show runs/run-1 --html card.html")
def show(
    source: Annotated[Path, typer.Argument(help="Folder of a run, or its card.json.", show_default=False)],
    html: Annotated[Path | None, typer.Option(help="Write the card as one self-contained page.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the checked card as JSON.")] = False,
) -> None:
    """Check a model card and show it: as a summary, as JSON, or as a page for a risk committee."""
    from models.card import load_card
    from policies.closed_model import shown_path
    from policies.errors import SettingsRefused

    card = load_card(source)
    if html is not None:
        from models.card_html import render_html

        page = render_html(card)
        try:
            html.write_text(page, encoding="utf-8")
        except (OSError, ValueError) as problem:
            reason = problem.strerror if isinstance(problem, OSError) else "the path is not valid"
            raise SettingsRefused(
                f"{shown_path(html)}: cannot be written ({reason}); check the folder and its permissions."
            ) from None
    if as_json:
        print(card.to_json().decode(), end="")
        return
    print("\n".join(summary_lines(card)))
    if html is not None:
        print(f"page          {shown_path(html)}")


def summary_lines(card: ModelCard) -> list[str]:
    """The card in a few lines, for a terminal."""
    evidence = card.evidence
    quality = evidence.table.quality
    drops = [record for record in evidence.table.sums if record.dropped]
    lines = [
        f"{'run':<13} {evidence.run_id} ({evidence.created_at})",
        f"{'task':<13} {evidence.task}, {evidence.purpose}, {evidence.horizon_months} months",
        f"{'method':<13} {evidence.method}, {len(evidence.table.rounds)} rounds, {evidence.story}",
    ]
    for role, ids in evidence.members_by_role().items():
        lines.append(f"{role:<13} {len(ids)}: {', '.join(ids)}")
    if quality is not None:
        lines.append(
            f"{'quality':<13} AUC {quality.auc:.4f}, KS {quality.ks:.3f}, Gini {quality.gini:.3f},"
            f" Brier {quality.brier:.4f}"
        )
    lines.append(
        f"{'sums':<13} {len(evidence.table.sums)} opened, "
        + (f"{len(drops)} of them without some member" if drops else "all over the whole cohort")
    )
    lines += [f"{'sha-256':<13} {value}  {what}" for what, value in card.hashes()]
    lines.append(f"{'signed by':<13} {', '.join(sorted(evidence.signatures))}")
    lines += [f"{'leaks':<13} {leak.id}: {leak.who}" for leak in card.leaks]
    return lines
