"""`tallystick demo`: a whole consortium on this machine, on real loans."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from simulations.demo import DemoResult

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command(epilog="Example: tallystick demo --json table.json")
def demo(
    story: Annotated[str, typer.Option(help="horizontal: five banks, other customers each.")] = "horizontal",
    data: Annotated[str, typer.Option(help="gmsc (Give Me Some Credit, fetched once) or synthetic.")] = "gmsc",
    out: Annotated[Path | None, typer.Option(help="Folder for the results; a new one under out/ by default.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the consortium: keys, rows, databases.")] = False,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the table as JSON.")] = None,
) -> None:
    """Found a consortium, train one model over mutual TLS, and show what it was worth to each bank."""
    from policies.errors import SettingsRefused
    from simulations.demo import tidy
    from simulations.demo_horizontal import run_horizontal
    from tallystick.progress import RunProgress

    if story != "horizontal":
        raise SettingsRefused(f"--story: expected horizontal, found {story[:40]!r}; it is the story of this release.")
    if data not in {"gmsc", "synthetic"}:
        raise SettingsRefused(f"--data: expected gmsc or synthetic, found {data[:40]!r}; choose one of them.")
    folder = (out or Path("out") / f"demo-{dt.datetime.now():%Y%m%d-%H%M%S}").absolute()  # noqa: DTZ005 - local time
    if folder.exists() and any(folder.iterdir()):
        raise SettingsRefused(f"--out: expected an empty folder, {folder} holds files; name another one.")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with RunProgress(15) as progress:
            result = run_horizontal(folder, data, announce=progress.say, on_event=progress.show)
        _show(result)
        if json_path is not None:
            json_path.write_text(json.dumps(result.as_plain(), indent=1) + "\n")
            print(f"table         {json_path}")
    finally:
        if not keep:
            tidy(folder)


def _show(result: DemoResult) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(title="On the common hold-out (intervals: 95 %, paired bootstrap)", title_justify="left", box=None)
    for heading in ("model", "AUC", "interval", "KS", "Brier", "federated gains"):
        table.add_column(heading, justify="left" if heading == "model" else "right", no_wrap=True)
    for row in result.rows:
        gains = "" if row.auc_gap is None else f"{row.auc_gap:+.4f} ({row.auc_gap_low:+.4f}, {row.auc_gap_high:+.4f})"
        table.add_row(
            row.model,
            f"{row.auc:.4f}",
            f"{row.auc_low:.3f}-{row.auc_high:.3f}",
            f"{row.ks:.3f}",
            f"{row.brier:.4f}",
            gains,
        )
    console.print()
    console.print(table)
    console.print()
    _show_applicant(console, dict(result.score))
    folder = result.folder
    console.print()
    for what, name in (
        ("model card", "card.html"),
        ("ROC", "roc.svg"),
        ("calibration", "calibration.svg"),
        ("comparison", "comparison.svg"),
        ("model", "model.tallystick"),
        ("logs", "logs"),
    ):
        console.print(f"{what:<13} {folder / name}", soft_wrap=True)
    console.print(
        f"{'score a file':<13} tallystick score --model {folder} --in rows.csv --out scores.csv", soft_wrap=True
    )
    phases = ", ".join(f"{name} {value:.1f}" for name, value in result.seconds.items())
    console.print(f"{'seconds':<13} {phases}", soft_wrap=True)


def _show_applicant(console: Any, applicant: dict[str, Any]) -> None:
    console.print(
        f"one applicant: PD {100 * applicant['pd']:.1f} %, {applicant['points']:.0f} score points, because of:"
    )
    for reason in applicant["reasons"]:
        features = ", ".join(f"{name} = {applicant['features'][name]:g}" for name in reason["features"])
        console.print(f"  {reason['reason_code']:<26} {-reason['points_lost']:+6.1f} points   ({features})")
