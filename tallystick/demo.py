"""`tallystick demo`: a whole consortium on this machine, on real loans."""

from __future__ import annotations

import datetime as dt
import json
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from simulations.demo import DemoResult
    from tallystick.progress import RunProgress

app = typer.Typer(rich_markup_mode=None, add_completion=False)

STORIES = ("vertical", "horizontal")
FEWEST_ROWS = 10_000
"""With fewer, members would have too few rows for columns that nobody can be recognised by."""


@app.command(epilog="Example: tallystick demo --json table.json")
def demo(
    story: Annotated[
        str,
        typer.Option(
            help="vertical: banks, payment institutions and logistics firms with other columns of the same borrowers; "
            "horizontal: five banks with other borrowers each."
        ),
    ] = "vertical",
    data: Annotated[str, typer.Option(help="gmsc (Give Me Some Credit, fetched once) or synthetic.")] = "gmsc",
    rows: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Borrowers, drawn at random; 0 for all 150,000. By default 45,000 in the vertical story, whose "
            "members first find their common borrowers, and all in the horizontal one.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the results; a new one under out/ by default.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the consortium: keys, rows, databases.")] = False,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the table as JSON.")] = None,
) -> None:
    """Found a consortium, train one model over mutual TLS, and show what it was worth to each bank."""
    from policies.errors import SettingsRefused
    from simulations.demo import tidy
    from tallystick.progress import RunProgress

    if story not in STORIES:
        raise SettingsRefused(f"--story: expected {' or '.join(STORIES)}, found {story[:40]!r}; choose one of them.")
    if data not in {"gmsc", "synthetic"}:
        raise SettingsRefused(f"--data: expected gmsc or synthetic, found {data[:40]!r}; choose one of them.")
    if rows is not None and 0 < rows < FEWEST_ROWS:
        raise SettingsRefused(f"--rows: expected 0 (all) or at least {FEWEST_ROWS:,}, found {rows:,}; take more.")
    folder = (out or Path("out") / f"demo-{dt.datetime.now():%Y%m%d-%H%M%S}").absolute()  # noqa: DTZ005 - local time
    if folder.exists() and any(folder.iterdir()):
        raise SettingsRefused(f"--out: expected an empty folder, {folder} holds files; name another one.")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _terminated_like_ctrl_c(), RunProgress(_steps(story)) as progress:
            result = _played(story, folder, data, rows, progress)
        _show(result)
        if json_path is not None:
            json_path.write_text(json.dumps(result.as_plain(), indent=1) + "\n")
            print(f"table         {json_path}")
    except KeyboardInterrupt:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)  # half a story is of no use to anybody
        raise
    finally:
        if not keep:
            tidy(folder)


def _steps(story: str) -> int:
    """Of the bar: passes, or rounds at most."""
    return 4 if story == "vertical" else 15


def _played(story: str, folder: Path, data: str, rows: int | None, progress: RunProgress) -> DemoResult:
    if story == "vertical":
        from simulations.demo_vertical import ROWS, run_vertical

        borrowers = ROWS if rows is None else rows
        return run_vertical(folder, data, borrowers, announce=progress.say, on_event=progress.show)
    from simulations.demo_horizontal import run_horizontal

    return run_horizontal(folder, data, rows or 0, announce=progress.say, on_event=progress.show)


@contextmanager
def _terminated_like_ctrl_c() -> Iterator[None]:
    """SIGTERM ends the story as Ctrl-C does: its processes are ended, its keys removed."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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
    if result.score:
        _show_applicant(console, dict(result.score))
        console.print()
    _show_files(console, result)
    phases = ", ".join(f"{name} {value:.1f}" for name, value in result.seconds.items())
    console.print(f"{'seconds':<13} {phases}", soft_wrap=True)


def _show_files(console: Any, result: DemoResult) -> None:
    folder = result.folder
    files = {
        "model card": "card.html",
        "ROC": "roc.svg",
        "calibration": "calibration.svg",
        "comparison": "comparison.svg",
        **({"model": result.artefact} if result.artefact else {}),
        "logs": "logs",
    }
    for what, name in files.items():
        console.print(f"{what:<13} {folder / name}", soft_wrap=True)
    if result.artefact:
        command = f"tallystick score --model {folder} --in rows.csv --out scores.csv"
        console.print(f"{'score a file':<13} {command}", soft_wrap=True)


def _show_applicant(console: Any, applicant: dict[str, Any]) -> None:
    if "entity" in applicant:
        _show_federated_score(console, applicant)
        return
    console.print(
        f"one applicant: PD {100 * applicant['pd']:.1f} %, {applicant['points']:.0f} score points, because of:"
    )
    for reason in applicant["reasons"]:
        features = ", ".join(f"{name} = {applicant['features'][name]:g}" for name in reason["features"])
        console.print(f"  {reason['reason_code']:<26} {-reason['points_lost']:+6.1f} points   ({features})")


def _show_federated_score(console: Any, score: dict[str, Any]) -> None:
    console.print(
        f"one federated score, {score['entity']}: PD {100 * score['pd']:.1f} %, {score['points']:.0f} score points"
    )
    console.print(f"  reasons       {', '.join(score['reasons']) or 'none adverse'}")
    whole = f"degraded: no answer of {', '.join(score['silent_roles'])}" if score["degraded"] else "all roles answered"
    console.print(
        f"  completeness  {whole}; a masked sum over {len(score['survivors'])} nodes, none of whose part is known"
    )
